"""A model on ONNX Runtime, and whether it can take several pictures at once."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.device import check_device
from stages.pose.coco import NUM_JOINTS
from stages.pose.onnx_signature import Node
from stages.pose.onnx_spec import DETECTOR_OUTPUTS, OnnxModelSpec
from store.errors import MissingError, UsageError

# What a batch may change: rounding, and by it the order of boxes that score alike.
RELATIVE = 1e-3
PIXELS, SCORE, BOXES = 1.0, 0.02, 5


class OnnxModel:
    """A loaded model that computes on one thread; calls from several threads at once are safe.

    ``batch`` pictures a call: the number that the model is fixed at, or ``batch_size`` where the number is free and the
    model has shown that each of them gives what it gives alone, else 1. ``refusal`` then says why. Raises
    ``UsageError`` for a model of a fixed number of pictures that mixes them, or whose outputs are not what they should
    be.
    """

    def __init__(self, path: Path, spec: OnnxModelSpec, *, device: str, batch_size: int) -> None:
        self.path = path
        self.spec = spec
        self._session = _session(path, providers=_providers(device))
        given = self._session.get_inputs()[0]
        self._input = given.name
        # By name where the order of outputs is the exporter's choice.
        by_name = {"mmdet-nms": ["dets", "labels"], "simcc": ["simcc_x", "simcc_y"]}.get(spec.output, [])
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = by_name if set(by_name) == set(names) else names

        is_fixed = isinstance(given.shape[0], int)
        self._fixed: int = given.shape[0] if is_fixed else 1
        self.batch = self._fixed if is_fixed else batch_size
        self._check_joints()
        self.refusal = self._refusal() if self.batch > 1 else None
        if self.refusal and is_fixed:
            raise UsageError(f"{path} takes {self.batch} pictures at once, but {self.refusal}; name another model")
        if self.refusal:
            self.batch = 1

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Outputs, of one row a picture, for pictures uint8 [N, height, width, 3], RGB."""
        return self._session.run(self._outputs, {self._input: self.spec.prepare(pictures)})

    def _alone(self, picture: np.ndarray) -> list[np.ndarray]:
        """Outputs for one picture, without their first axis."""
        return [output[0] for output in self(np.repeat(picture[None], self._fixed, axis=0))]

    def _check_joints(self) -> None:
        """Exporters leave the number of joints open, so that only the outputs tell it."""
        if self.spec.output not in DETECTOR_OUTPUTS:
            (picture,) = _made_up(1, self.spec.height, self.spec.width)
            joints = self.spec.decode_keypoints([output[None] for output in self._alone(picture)]).shape[1]
            if joints != NUM_JOINTS:
                raise UsageError(
                    f"{self.path} gives {joints} joints; allowed: {NUM_JOINTS}, in COCO order; name another model"
                )

    def _refusal(self) -> str | None:
        """Why a batch is not to be trusted: what went wrong with one of made-up pictures; None where nothing did."""
        pictures = _made_up(self.batch, self.spec.height, self.spec.width)
        try:
            together = self(pictures)
        except Exception as error:  # ONNX Runtime's own classes have no common base but Exception
            return f"it fails at {self.batch} ({_short(error)})"
        for row in (0, self.batch - 1):
            alone = self._alone(pictures[row])
            if self.spec.output in DETECTOR_OUTPUTS and not (alone[0][:, 4] > 0).any():
                return "it finds nothing in the pictures of the trial, which would show whether it can take several"
            if not self._alike(alone, [output[row] for output in together]):
                return f"picture {row + 1} of {self.batch} does not give what it gives alone"
        return None

    def _alike(self, a: list[np.ndarray], b: list[np.ndarray]) -> bool:
        if self.spec.output not in DETECTOR_OUTPUTS:
            return all(
                x.shape == y.shape and np.allclose(x, y, rtol=RELATIVE, atol=RELATIVE * float(np.abs(x).max()))
                for x, y in zip(a, b, strict=True)
            )
        return _has_boxes(a[0], b[0]) and _has_boxes(b[0], a[0])


def _short(error: Exception) -> str:
    """What ONNX Runtime says, without the node and the place in its source."""
    message = str(error).rpartition("Status Message: ")[2].partition("\n")[0]
    return re.sub(r"^\S+:\d+ [^(]*\(.*?\) ", "", message).strip()


def _has_boxes(boxes: np.ndarray, others: np.ndarray) -> bool:
    """Whether the best of ``others`` [n, 5] are among ``boxes`` [m, 5]."""
    best = others[np.argsort(-others[:, 4], kind="stable")[:BOXES]]
    difference = np.abs(best[:, None] - boxes[None]) <= (PIXELS,) * 4 + (SCORE,)
    return bool(difference.all(-1).any(-1).all())


def _made_up(count: int, height: int, width: int) -> np.ndarray:
    """Pictures uint8 [count, height, width, 3] of coloured blurs, in which detectors see something."""
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in small])


@lru_cache(maxsize=16)
def model_signature(path: Path, digest: str) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Inputs and outputs of a model file with this digest."""
    session = _session(path, providers=["CPUExecutionProvider"], optimise=False)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return tuple(map(_node, inputs)), tuple(map(_node, outputs))


def _node(argument: Any) -> Node:
    return Node(argument.name, tuple(argument.shape), argument.type)


def _session(path: Path, *, providers: list[Any], optimise: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; a trial of a batch may
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.set_default_logger_severity(4)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes have no common base but Exception
        raise UsageError(f"{path} cannot be loaded as an ONNX model ({error}); name another file") from None


def _providers(device: str) -> list[Any]:
    import onnxruntime

    check_device(device)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    kind, _, index = device.partition(":")
    if kind == "cpu" or (kind == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if not has_cuda:
        raise MissingError(
            f"device is {device!r}, but this ONNX Runtime has no CUDA provider; install onnxruntime-gpu in place of "
            "onnxruntime, or use --device cpu",
            kind="missing-package",
        )
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
