"""Top-down pose with models of mmpose: a person detector of mmdet, then a keypoint model on each person's crop.

mmpose's own inferencers detect frame by frame and cut the crops one by one. Here both models run on batches of one
fixed size that cross persons, frames and videos, so that results do not depend on what else is asked for. What the
models compute, from normalising their input to decoding their output, is their own ``test_step``; what is done here is
the geometry around it (``stages.pose.crops``). One-stage models are in ``stages.pose.mmpose_onestage``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.pose import mmpose_models as models
from stages.pose.base import Persons, PoseConfig, PoseEstimator, most_prominent, persons_of
from stages.pose.batches import top_down
from stages.pose.checkpoints import digest_of_weights
from stages.pose.coco import NUM_JOINTS
from stages.pose.crops import CropGeometry, cut, fit
from stages.types import Clip, VideoFailure
from stages.weights import RANDOM
from store.errors import UsageError

if TYPE_CHECKING:
    from mmengine.config import Config

DEFAULT_DETECTOR = "rtmdet_m_640-8xb32_coco-person"
DEFAULT_POSE = "rtmpose-m_8xb256-420e_coco-256x192"
PERSON_LABEL = 0  # in COCO's order of classes, and the only one of detectors for persons alone
SCORE_THRESHOLD = 0.3
NMS_IOU = 0.3


def mmpose_estimator(config: PoseConfig) -> PoseEstimator:
    """The estimator of a config: top-down, or one-stage where its model is one."""
    from stages.pose.mmpose_onestage import ONE_STAGE, OneStageEstimator

    name = (config.config or "").rpartition(",")[2].strip() or DEFAULT_POSE
    one_stage = models.read_config(name).model.type == ONE_STAGE
    return OneStageEstimator(config) if one_stage else TopDownEstimator(config)


class TopDownEstimator:
    """A ``PoseEstimator`` of a detector and a top-down model.

    ``config.config`` is the name or file of the keypoint model's config, or ``DETECTOR,POSE`` with both;
    ``config.det_weights`` and ``config.pose_weights`` are their checkpoints (``.pth`` or ``.safetensors``; None: the
    published ones), or ``none`` for random ones, with which every frame has ``max_detections`` persons wherever they
    are.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        detector, _, pose = (config.config or "").rpartition(",")
        self.detector_name = detector.strip() or DEFAULT_DETECTOR
        self.pose_name = pose.strip() or DEFAULT_POSE
        self._detector: Any = None
        self._pose: Any = None

    @cached_property
    def detector_config(self) -> Config:
        config = models.read_config(self.detector_name)
        config.model.test_cfg.update(score_thr=0.0 if self.config.det_weights == RANDOM else SCORE_THRESHOLD)
        config.model.test_cfg.nms = {"type": "nms", "iou_threshold": NMS_IOU}
        if not models.step_of(config, "Resize").get("keep_ratio"):
            raise UsageError(f"{self.detector_name} resizes without keeping the ratio; choose one that keeps it")
        return config

    @cached_property
    def pose_config(self) -> Config:
        config = models.read_config(self.pose_name)
        if config.model.type != "TopdownPoseEstimator":
            raise UsageError(
                f"{self.pose_name} is a {config.model.type}; allowed: a TopdownPoseEstimator, or one-stage RTMO"
            )
        config.model.test_cfg.update(output_heatmaps=False)
        return config

    @property
    def name(self) -> str:
        return f"mmpose-{models.short_name(self.pose_name)}"

    def record(self) -> dict[str, Any]:
        parts = {}
        for part, config, weights, flag in self._parts():
            digest = digest_of_weights(weights, config=config, flag=flag, seed=self.config.seed)
            parts[part] = {"config": models.resolved(config.model), "weights": digest}
        width, height, fill = self._canvas
        return {
            "backend": "mmpose",
            **parts,
            "canvas": {"width": width, "height": height, "fill": fill},
            "crop": asdict(self._crop),
            "max_detections": self.config.max_detections,
            "resize": "opencv-bilinear",
        }

    def setup(self) -> None:
        from stages.device import resolve_device

        self.record()  # complains about missing weights before anything is built
        self._device = resolve_device(self.config.device)
        self._batches = models.batches(self.config, self._device)
        width, height, _ = self._canvas
        sizes = ((width, height), (self._crop.width, self._crop.height))
        self._detector, self._pose = (
            models.accelerated(
                models.build(config, weights=weights, flag=flag, seed=self.config.seed, device=str(self._device)), *size
            )
            for (_, config, weights, flag), size in zip(self._parts(), sizes, strict=True)
        )
        self._joints, self._flip_indices = models.skeleton(self.pose_config)

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        return persons_of(clips, lambda frames: top_down(frames, self.detect, self.keypoints))

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Persons of each frame uint8 [H, W, 3] (RGB), most prominent first: float32 [M, 5], x1, y1, x2, y2 in pixels
        and score."""
        return self._batches.map(self._detect_batch, frames, self.config.batch_size)

    def keypoints(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Keypoints of persons, each given as a frame uint8 [H, W, 3] (RGB) and a box (x1, y1, x2, y2, ...) in it:
        float32 [M, 17, 3]: x, y in pixels, confidence."""
        found: list[np.ndarray] = self._batches.map(self._keypoints_batch, people, self.config.batch_size)
        return np.array(found, np.float32).reshape(-1, NUM_JOINTS, 3)

    def _detect_batch(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        from mmdet.structures import DetDataSample

        width, height, _ = self._canvas
        inputs, samples = [], []
        for frame in frames:
            picture, scale = fit(frame, *self._canvas, self._device)
            inputs.append(picture)
            meta = {"img_shape": (height, width), "ori_shape": frame.shape[:2], "scale_factor": scale}
            samples.append(DetDataSample(metainfo=meta))
        found = []
        for frame, result in zip(frames, models.run(self._detector, inputs, samples), strict=True):
            people = result[result.labels == PERSON_LABEL]
            boxes = np.column_stack((people.bboxes.cpu().numpy(), people.scores.cpu().numpy())).astype(np.float32)
            boxes[:, :4] = boxes[:, :4].clip(0, np.tile(frame.shape[1::-1], 2))
            found.append(boxes[most_prominent(boxes, self.config.max_detections)])
        return found

    def _keypoints_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        from mmengine.structures import InstanceData
        from mmpose.structures import PoseDataSample

        boxes = np.stack([box for _, box in people]).astype(np.float32)
        center, size = self._crop.windows(boxes)
        crops = cut([frame for frame, _ in people], self._crop, center, size, self._device)
        samples = []
        for row, box in enumerate(boxes):
            meta = {
                "input_center": center[row],
                "input_scale": size[row],
                "input_size": (self._crop.width, self._crop.height),
                "flip_indices": self._flip_indices,
            }
            sample = PoseDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(bboxes=box[None, :4], bbox_scores=np.ones(1, np.float32))
            samples.append(sample)
        results = models.run(self._pose, list(crops), samples)
        joints = np.stack([np.column_stack((found.keypoints[0], found.keypoint_scores[0])) for found in results])
        keypoints = np.zeros((len(people), NUM_JOINTS, 3), np.float32)
        for coco, own in self._joints.items():
            keypoints[:, coco] = joints[:, own]
        keypoints[..., 2] = keypoints[..., 2].clip(0, 1)
        return list(keypoints)

    def _parts(self) -> tuple[tuple[str, Config, str | None, str], ...]:
        return (
            ("detector", self.detector_config, self.config.det_weights, "--det-weights"),
            ("keypoints", self.pose_config, self.config.pose_weights, "--pose-weights"),
        )

    @cached_property
    def _canvas(self) -> tuple[int, int, int]:
        """Width, height and fill value of the detector's input."""
        width, height = models.step_of(self.detector_config, "Resize").scale
        fill = models.step_of(self.detector_config, "Pad").pad_val
        return width, height, int(fill["img"][0] if isinstance(fill, dict) else fill)

    @cached_property
    def _crop(self) -> CropGeometry:
        affine = models.step_of(self.pose_config, "TopdownAffine")
        padding = models.step_of(self.pose_config, "GetBBoxCenterScale").get("padding", 1.25)
        width, height = affine.input_size
        return CropGeometry(width, height, padding, udp=affine.get("use_udp", False))
