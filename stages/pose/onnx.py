"""Top-down pose on ONNX Runtime: a person detector, then a keypoint model on a crop around every person.

Both models run on batches of one fixed size that cross persons, frames and videos, where they can: a model is believed
to take several pictures at once when it has shown it (RTMDet-nano as an early MMDeploy exports it says so and fails;
MoveNet is fixed at one). Others take one at a time. Either way ``threads`` calls are under way at once, each on one
thread, and results depend neither on how many nor on the order in which they finish.

Pictures are made by the conventions of mmdet and mmpose, and for MoveNet by its own (``stages.pose.images``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.pose.base import Persons, PoseConfig, most_prominent, persons_of, weights_file
from stages.pose.batches import Batches, top_down
from stages.pose.coco import NUM_JOINTS
from stages.pose.crops import CropGeometry
from stages.pose.images import crop, crop_window, letterbox, window_crop
from stages.pose.onnx_model import OnnxModel, model_signature
from stages.pose.onnx_signature import spec_of
from stages.pose.onnx_spec import DETECTOR_OUTPUTS, KEYPOINT_OUTPUTS, OnnxModelSpec
from stages.types import Clip, VideoFailure
from stages.weights import file_digest
from store.errors import UsageError

logger = logging.getLogger(__name__)

# A trade, seen in UCF101: divers and swimmers score 0.3 to 0.4, and so do some look-alikes (a bare climbing wall). At
# 0.4 some clips of these sports have nobody. The score is stored with every box: a reader can be stricter, not laxer.
DETECTION_THRESHOLD = 0.3
PERSON_LABEL = 0


class OnnxEstimator:
    """The ``onnx`` backend of the pose stage; see ``stages.pose.base.PoseEstimator``.

    ``config.det_weights`` and ``config.pose_weights`` are ONNX files; ``stages.pose.onnx_signature`` says which, and
    how to describe others. Raises ``MissingError`` where one is not there, ``UsageError`` where it cannot serve.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self._detector: OnnxModel | None = None
        self._keypoints: OnnxModel | None = None

    @property
    def name(self) -> str:
        detector, keypoints = self._specs()
        return f"onnx-{detector.name}-{keypoints.name}"

    def record(self) -> dict[str, Any]:
        detector, keypoints = self._specs()
        return {
            "backend": "onnx",
            "detector": {"sha256": file_digest(self._files()[0]), **detector.to_dict()},
            "keypoints": {"sha256": file_digest(self._files()[1]), **keypoints.to_dict()},
            "detection_threshold": DETECTION_THRESHOLD,
            "max_detections": self.config.max_detections,
            "crops": "pillow-antialiased" if keypoints.output == "movenet" else "bilinear",
            "canvas": "bilinear",
        }

    def setup(self) -> None:
        device, batch_size = self.config.device, self.config.batch_size
        self._detector, self._keypoints = (
            OnnxModel(path, spec, device=device, batch_size=batch_size)
            for path, spec in zip(self._files(), self._specs(), strict=True)
        )
        cv2.setNumThreads(1)
        self._batches = Batches(self.config.threads)
        for model in (self._detector, self._keypoints):
            if model.refusal:
                logger.warning(
                    "%s takes one picture at a time, %d side by side: %s",
                    model.path,
                    self.config.threads,
                    model.refusal,
                )

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        return persons_of(clips, lambda frames: top_down(frames, self.detect, self.keypoints))

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Persons of each frame uint8 [H, W, 3], most prominent first: float32 [M, 5], x1, y1, x2, y2 in pixels and
        score."""
        assert self._detector is not None, "setup() comes first"
        return self._batches.map(self._detect_batch, frames, self._detector.batch)

    def keypoints(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Keypoints of persons, each given as a frame uint8 [H, W, 3] and a box (x1, y1, x2, y2, ...) in it:
        float32 [M, 17, 3]: x, y in pixels, confidence."""
        assert self._keypoints is not None, "setup() comes first"
        found: list[np.ndarray] = self._batches.map(self._keypoints_batch, people, self._keypoints.batch)
        return np.array(found, np.float32).reshape(-1, NUM_JOINTS, 3)

    def _detect_batch(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert self._detector is not None
        spec = self._detector.spec
        fitted = [letterbox(frame, spec.width, spec.height, spec.fill) for frame in frames]
        pictures = np.stack([picture for picture, _ in fitted])
        people = []
        for frame, (_, scale), boxes, labels in zip(frames, fitted, *self._detector(pictures), strict=True):
            found = boxes[(labels == PERSON_LABEL) & (boxes[:, 4] > DETECTION_THRESHOLD)]
            found[:, :4] = (found[:, :4] / np.tile(np.float32(scale), 2)).clip(0, np.tile(frame.shape[1::-1], 2))
            people.append(found[most_prominent(found, self.config.max_detections)])
        return people

    def _keypoints_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        assert self._keypoints is not None
        pictures, start, size = person_crops(self._keypoints.spec, people)
        keypoints = self._keypoints.spec.decode_keypoints(self._keypoints(pictures))
        return list(np.concatenate((keypoints[..., :2] * size[:, None] + start[:, None], keypoints[..., 2:]), axis=-1))

    def _files(self) -> tuple[Path, Path]:
        return (
            weights_file(self.config.det_weights, flag="--det-weights", what="a person detector in ONNX (RTMDet)"),
            weights_file(self.config.pose_weights, flag="--pose-weights", what="a keypoint model in ONNX (MoveNet)"),
        )

    def _specs(self) -> tuple[OnnxModelSpec, OnnxModelSpec]:
        detector, keypoints = (_spec(path, file_digest(path)) for path in self._files())
        if detector.output not in DETECTOR_OUTPUTS:
            raise UsageError(f"--det-weights is {self.config.det_weights!r}, a keypoint model; name a person detector")
        if keypoints.output not in KEYPOINT_OUTPUTS:
            raise UsageError(f"--pose-weights is {self.config.pose_weights!r}, a detector; name a keypoint model")
        return detector, keypoints


def _spec(path: Path, digest: str) -> OnnxModelSpec:
    return spec_of(path, *model_signature(path, digest))


def person_crops(
    spec: OnnxModelSpec, people: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops around persons, each given as a frame and a box in it, as a keypoint model wants them.

    Returns pictures uint8 [M, height, width, 3], and where they lie in the frames in pixels: their top left corners
    [M, 2] and their sizes [M, 2].
    """
    boxes = np.stack([box for _, box in people]).astype(np.float32)
    frames, width, height = [frame for frame, _ in people], spec.width, spec.height
    if spec.output != "movenet":
        geometry = CropGeometry(width, height, spec.padding, udp=False)
        center, size = geometry.windows(boxes)
        start = center - size / 2
        places = zip(frames, start, geometry.steps(size), strict=True)
        crops = [window_crop(frame, corner, step, width=width, height=height) for frame, corner, step in places]
        return np.stack(crops), start, size
    windows = [crop_window(box, aspect=width / height, padding=spec.padding) for box in boxes]
    pictures = [crop(frame, window, width=width, height=height) for frame, window in zip(frames, windows, strict=True)]
    corners = np.stack(windows)
    return np.stack(pictures), corners[:, :2], corners[:, 2:]
