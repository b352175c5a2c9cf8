"""One-stage pose with models of mmpose (RTMO, arXiv 2312.07526): all persons of a picture at once, without a detector.

Pictures go through the model in batches of one fixed size that cross frames and videos. What the model computes is its
own ``test_step``; what is done here is its test pipeline: the frame resized to fit and centred on grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.pose import mmpose_models as models
from stages.pose.base import Persons, PoseConfig, most_prominent, persons_of
from stages.pose.checkpoints import digest_of_weights
from stages.pose.coco import NUM_JOINTS
from stages.pose.crops import CropGeometry, cut
from stages.types import Clip, VideoFailure
from stages.weights import RANDOM
from store.errors import UsageError

if TYPE_CHECKING:
    from mmengine.config import Config

ONE_STAGE = "BottomupPoseEstimator"
SCORE_THRESHOLD = 0.3
# Random weights find somebody everywhere; the model's own suppression would take long.
RANDOM_CANDIDATES = 32


class OneStageEstimator:
    """A ``PoseEstimator`` of a one-stage model.

    ``config.config`` is the name or file of its config, ``config.pose_weights`` its checkpoint (None: the published
    one; ``none``: random). ``config.det_weights`` plays no part.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self._given = (config.config or "").strip()
        self._model: Any = None

    @cached_property
    def pose_config(self) -> Config:
        if "," in self._given:
            raise UsageError(f"--pose-config is {self._given!r}, but a one-stage model has no detector; name it alone")
        config = models.read_config(self._given)
        if config.model.head.type != "RTMOHead":
            raise UsageError(f"{self._given} has a {config.model.head.type}; allowed of one-stage models: RTMO")
        random = self.config.pose_weights == RANDOM
        config.model.test_cfg.update(
            {"score_thr": 0.0, "nms_pre": RANDOM_CANDIDATES} if random else {"score_thr": SCORE_THRESHOLD}
        )
        return config

    @property
    def name(self) -> str:
        return f"mmpose-{models.short_name(self._given)}"

    def record(self) -> dict[str, Any]:
        return {
            "backend": "mmpose",
            "keypoints": {"config": models.resolved(self.pose_config.model), "weights": self._digest()},
            "canvas": {"width": self._canvas.width, "height": self._canvas.height, "fill": self._fill},
            "max_detections": self.config.max_detections,
            "resize": "opencv-bilinear",
        }

    def setup(self) -> None:
        from stages.device import resolve_device

        self._digest()  # complains about missing weights before anything is built
        self._device = resolve_device(self.config.device)
        self._batches = models.batches(self.config, self._device)
        model = models.build(
            self.pose_config,
            weights=self.config.pose_weights,
            flag="--pose-weights",
            seed=self.config.seed,
            device=str(self._device),
        )
        self._model = models.accelerated(model, self._canvas.width, self._canvas.height)
        self._joints, _ = models.skeleton(self.pose_config)

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        return persons_of(clips, self.persons)

    def persons(self, frames: Sequence[np.ndarray]) -> list[Persons]:
        """Persons of each frame uint8 [H, W, 3] (RGB), most prominent first."""
        return self._batches.map(self._batch, frames, self.config.batch_size)

    def _batch(self, frames: Sequence[np.ndarray]) -> list[Persons]:
        from mmpose.structures import PoseDataSample

        whole = np.array([(0, 0, frame.shape[1], frame.shape[0]) for frame in frames], np.float32)
        center, size = self._canvas.windows(whole)
        inputs = cut(frames, self._canvas, center, size, self._device, fill=self._fill)
        shape = (self._canvas.width, self._canvas.height)
        samples = [
            PoseDataSample(metainfo={"input_center": middle, "input_scale": extent, "input_size": shape})
            for middle, extent in zip(center, size, strict=True)
        ]
        results = models.run(self._model, list(inputs), samples)
        return [self._one(found, frame) for found, frame in zip(results, frames, strict=True)]

    def _one(self, found: Any, frame: np.ndarray) -> Persons:
        boxes = np.column_stack((found.bboxes, found.bbox_scores)).astype(np.float32).reshape(-1, 5)
        boxes[:, :4] = boxes[:, :4].clip(0, np.tile(frame.shape[1::-1], 2))
        keypoints = np.zeros((len(boxes), NUM_JOINTS, 3), np.float32)
        for coco, own in self._joints.items():
            keypoints[:, coco, :2] = found.keypoints[:, own]
            keypoints[:, coco, 2] = found.keypoint_scores[:, own].clip(0, 1)
        chosen = most_prominent(boxes, self.config.max_detections)
        return Persons(keypoints[chosen], boxes[chosen])

    def _digest(self) -> str:
        weights, seed = self.config.pose_weights, self.config.seed
        return digest_of_weights(weights, config=self.pose_config, flag="--pose-weights", seed=seed)

    @cached_property
    def _canvas(self) -> CropGeometry:
        """The model's input, as a crop around the whole frame."""
        step = models.step_of(self.pose_config, "BottomupResize")
        width, height = step.input_size
        return CropGeometry(width, height, padding=1.0, udp=step.get("use_udp", False))

    @cached_property
    def _fill(self) -> int:
        return int(models.step_of(self.pose_config, "BottomupResize").get("pad_val", (0, 0, 0))[0])
