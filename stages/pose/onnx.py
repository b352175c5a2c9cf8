"""Top-down pose on ONNX Runtime: a person detector, then a keypoint model on a crop around every person.

The models that can be had this way take one picture at a time (RTMDet-nano as MMDeploy exports it fails at two,
MoveNet is fixed at one), so frames run side by side: every model computes on one thread, and ``threads`` frames are
under way at once. Results do not depend on how many, nor on the order in which they finish.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.base import (
    NUM_JOINTS,
    Persons,
    PoseConfig,
    most_prominent,
    persons_of,
    weights_file,
)
from stages.pose.images import crop, crop_window, fit
from stages.pose.onnx_spec import DETECTOR_OUTPUTS, KEYPOINT_OUTPUTS, Node, OnnxModelSpec, spec_of
from stages.types import Clip, VideoFailure
from stages.weights import file_digest
from store.errors import MissingError, UsageError

# A trade, seen in UCF101: divers and swimmers score 0.3 to 0.4, and so do some look-alikes (a bare climbing wall). At
# 0.4 some clips of these sports have nobody. The score is stored with every box: a reader can be stricter, not laxer.
DETECTION_THRESHOLD = 0.3
PERSON_LABEL = 0


class OnnxEstimator:
    """The ``onnx`` backend of the pose stage; see ``stages.pose.base.PoseEstimator``.

    ``config.det_weights`` and ``config.pose_weights`` are ONNX files; ``stages.pose.onnx_spec`` says which, and how to
    describe others. Raises ``MissingError`` where one is not there, ``UsageError`` where it cannot serve.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self._detector: OnnxModel | None = None
        self._keypoints: OnnxModel | None = None
        self._pool: ThreadPoolExecutor | None = None

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
            "resize": "bilinear-antialiased",
        }

    def setup(self) -> None:
        specs = self._specs()
        device = self.config.device
        self._detector, self._keypoints = map(OnnxModel, self._files(), specs, (device, device))
        self._pool = ThreadPoolExecutor(self.config.threads, thread_name_prefix="pose")

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        assert self._pool is not None, "setup() comes first"
        pool = self._pool
        return persons_of(clips, lambda frames: pool.map(self._persons, frames))

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """Persons of a frame uint8 [H, W, 3], most prominent first: float32 [M, 5], x1, y1, x2, y2 in pixels, score."""
        assert self._detector is not None, "setup() comes first"
        spec = self._detector.spec
        picture, scale = fit(frame, width=spec.width, height=spec.height, fill=spec.fill)
        boxes, labels = self._detector(spec.prepare(picture))
        boxes = boxes[0][(labels[0] == PERSON_LABEL) & (boxes[0, :, 4] > DETECTION_THRESHOLD)]
        height, width = frame.shape[:2]
        boxes[:, :4] = (boxes[:, :4] / scale).clip(0, (width, height, width, height))
        return boxes[most_prominent(boxes, self.config.max_detections)]

    def keypoints(self, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Keypoints of the persons in ``boxes`` [M, 4 or more] of a frame: float32 [M, 17, 3], pixels, confidence."""
        assert self._keypoints is not None, "setup() comes first"
        spec = self._keypoints.spec
        keypoints = np.zeros((len(boxes), NUM_JOINTS, 3), dtype=np.float32)
        for person, box in enumerate(boxes):
            window = crop_window(box, aspect=spec.width / spec.height, padding=spec.padding)
            picture = crop(frame, window, width=spec.width, height=spec.height)
            keypoints[person] = spec.decode_keypoints(self._keypoints(spec.prepare(picture)))
            keypoints[person, :, :2] = keypoints[person, :, :2] * window[2:] + window[:2]
        return keypoints

    def _persons(self, frame: np.ndarray) -> Persons:
        boxes = self.detect(frame)
        return Persons(self.keypoints(frame, boxes), boxes)

    def _files(self) -> tuple[Path, Path]:
        return (
            weights_file(self.config.det_weights, flag="--det-weights", what="a person detector in ONNX (RTMDet)"),
            weights_file(self.config.pose_weights, flag="--pose-weights", what="a keypoint model in ONNX (MoveNet)"),
        )

    def _specs(self) -> tuple[OnnxModelSpec, OnnxModelSpec]:
        detector, keypoints = (spec_of(path, *_signature(path, file_digest(path))) for path in self._files())
        if detector.output not in DETECTOR_OUTPUTS:
            raise UsageError(f"--det-weights is {self.config.det_weights!r}, a keypoint model; name a person detector")
        if keypoints.output not in KEYPOINT_OUTPUTS:
            raise UsageError(f"--pose-weights is {self.config.pose_weights!r}, a detector; name a keypoint model")
        return detector, keypoints


class OnnxModel:
    """A loaded model that computes on one thread; calls from several threads at once are safe."""

    def __init__(self, path: Path, spec: OnnxModelSpec, device: str) -> None:
        self.spec = spec
        self._session = _session(path, providers=_providers(device))
        self._input = self._session.get_inputs()[0].name
        # By name where the order of outputs is the exporter's choice.
        by_name = {"mmdet-nms": ["dets", "labels"], "simcc": ["simcc_x", "simcc_y"]}.get(spec.output, [])
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = by_name if set(by_name) == set(names) else names

    def __call__(self, prepared: np.ndarray) -> list[np.ndarray]:
        return self._session.run(self._outputs, {self._input: prepared})


@lru_cache(maxsize=16)
def _signature(path: Path, digest: str) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    session = _session(path, providers=["CPUExecutionProvider"], optimise=False)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return tuple(map(_node, inputs)), tuple(map(_node, outputs))


def _node(argument: Any) -> Node:
    return Node(argument.name, tuple(argument.shape), argument.type)


def _session(path: Path, *, providers: list[Any], optimise: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.set_default_logger_severity(3)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes have no common base but Exception
        raise UsageError(f"{path} cannot be loaded as an ONNX model ({error}); name another file") from None


def _providers(device: str) -> list[Any]:
    import onnxruntime

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    kind, _, index = device.partition(":")
    if kind == "cpu" or (kind == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if kind not in ("auto", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device is {device!r}; allowed: auto, cpu, cuda, cuda:N")
    if not has_cuda:
        raise MissingError(
            f"device is {device!r}, but this ONNX Runtime has no CUDA provider; install onnxruntime-gpu in place of "
            "onnxruntime, or use --device cpu",
            kind="missing-package",
        )
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
