"""What an ONNX model wants and gives: a small spec, told from the model's own inputs and outputs or from a file.

Models that are known by their signature need no file: person detectors exported by MMDeploy with suppression inside
(outputs ``dets`` and ``labels``; the values are RTMDet's, or YOLOX's where the path says so), MoveNet (one crop,
[1, 1, 17, 3] out), SimCC models such as RTMPose (outputs ``simcc_x`` and ``simcc_y``) and heatmap models such as HRNet
(one output [n, 17, h, w]). For any other, ``<model>.spec.json`` beside ``<model>.onnx`` holds the fields of
``OnnxModelSpec``. Either way the spec is checked against the model's real inputs and outputs when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.base import NUM_JOINTS
from store.errors import UsageError, one_of

DETECTOR_OUTPUTS = ("mmdet-nms",)
KEYPOINT_OUTPUTS = ("movenet", "simcc", "heatmap")


@dataclass(frozen=True)
class Node:
    """An input or output as ONNX Runtime describes it; a dimension that is not fixed is a string or None."""

    name: str
    shape: tuple[Any, ...]
    type: str


@dataclass(frozen=True)
class OnnxModelSpec:
    """Input and output of a model that takes one picture.

    name     short name for the modality
    output   ``mmdet-nms``: boxes [1, n, 5] (x1, y1, x2, y2 in input pixels, score) and labels [1, n], 0 = person;
             ``movenet``: [1, 1, 17, 3] of y, x as fractions of the input, confidence;
             ``simcc``: [1, 17, r W] and [1, 17, r H], one score for every fraction 1/r of a pixel;
             ``heatmap``: [1, 17, H / s, W / s], one score for every s x s pixels
    height, width  of the input in pixels
    layout   ``nchw`` or ``nhwc``
    dtype    ``float32``, ``uint8`` or ``int32``
    colour   ``rgb`` or ``bgr``
    mean, std  for (x - mean) / std on 0..255, in the order of ``colour``
    fill     grey level of what a detector's input has beside the frame
    padding  size of a keypoint model's crop, relative to the smallest that holds the box
    """

    name: str
    output: str
    height: int
    width: int
    layout: str = "nchw"
    dtype: str = "float32"
    colour: str = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fill: int = 114
    padding: float = 1.25

    def __post_init__(self) -> None:
        one_of("output", self.output, DETECTOR_OUTPUTS + KEYPOINT_OUTPUTS)
        one_of("layout", self.layout, ("nchw", "nhwc"))
        one_of("dtype", self.dtype, ("float32", "uint8", "int32"))
        one_of("colour", self.colour, ("rgb", "bgr"))
        if self.height < 1 or self.width < 1 or self.padding <= 0:
            raise UsageError(f"input is {self.width}x{self.height}, padding {self.padding}; allowed: more than 0")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(f"mean is {self.mean} and std {self.std}; allowed: three values each, std more than 0")

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        size = (self.height, self.width)
        return (1, 3, *size) if self.layout == "nchw" else (1, *size, 3)

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """A picture uint8 [height, width, 3], RGB, as the model's input."""
        if self.colour == "bgr":
            picture = picture[..., ::-1]
        if any(self.mean) or any(value != 1 for value in self.std):
            picture = (picture - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout == "nchw":
            picture = picture.transpose(2, 0, 1)
        return np.ascontiguousarray(picture[None], dtype=self.dtype)

    def decode_keypoints(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """A keypoint model's outputs as [17, 3]: x, y as fractions of the input, confidence in 0..1."""
        if self.output == "movenet":
            return outputs[0].reshape(NUM_JOINTS, 3)[:, [1, 0, 2]]
        if self.output == "heatmap":
            return _peaks(outputs[0].reshape(NUM_JOINTS, *outputs[0].shape[-2:]))
        # SimCC (Li et al., arXiv 2107.03332): a joint is where its two scores peak; its confidence the lower peak.
        scores = [output.reshape(NUM_JOINTS, -1) for output in outputs]
        places = [score.argmax(1) / score.shape[1] for score in scores]
        confidence = np.minimum(*(score.max(1) for score in scores)).clip(0, 1)
        return np.stack([*places, confidence], axis=1)


def _peaks(maps: np.ndarray) -> np.ndarray:
    """Where heatmaps [17, h, w] peak: [17, 3] of x, y as fractions of the map and the height of the peak in 0..1.

    A quarter of a cell towards the higher of the two neighbours, along each axis, as stacked hourglass networks began
    it (Newell et al., arXiv 1603.06937) and mmpose does it, which leaves peaks by the border where they are.
    """
    joints, height, width = np.arange(NUM_JOINTS), *maps.shape[1:]
    row, column = np.unravel_index(maps.reshape(NUM_JOINTS, -1).argmax(1), (height, width))
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    right = np.sign(padded[joints, row + 1, column + 2] - padded[joints, row + 1, column])
    down = np.sign(padded[joints, row + 2, column + 1] - padded[joints, row, column + 1])
    right = right * ((column > 1) & (column < width - 1) & (row > 0))
    down = down * ((row > 1) & (row < height - 1) & (column > 0))
    confidence = maps[joints, row, column].clip(0, 1)
    return np.stack([(column + right / 4) / width, (row + down / 4) / height, confidence], axis=1)


def spec_of(path: Path, inputs: Sequence[Node], outputs: Sequence[Node]) -> OnnxModelSpec:
    """The spec of a model: from ``<model>.spec.json`` beside it, else by its signature; checked against both.

    Raises ``UsageError`` where the file cannot be read, the model is not known, or spec and model disagree.
    """
    beside = path.with_suffix(".spec.json")
    spec = read_spec(beside) if beside.is_file() else _known(path, inputs, outputs)
    if spec is None:
        raise UsageError(
            f"{path} is not known by its signature ({_words(inputs)} -> {_words(outputs)}); describe it in {beside}: "
            f"name, output ({', '.join(DETECTOR_OUTPUTS + KEYPOINT_OUTPUTS)}), height, width, layout, dtype, colour, "
            f"mean, std"
        )
    wrong = _disagreement(spec, inputs, outputs)
    if wrong:
        raise UsageError(f"{path}: {wrong}; correct {beside} or name another model")
    return spec


def read_spec(path: Path) -> OnnxModelSpec:
    """The spec in a JSON file; ``UsageError`` names a key or value that is not allowed."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise TypeError("it is no object")
        unknown = set(values) - {field.name for field in fields(OnnxModelSpec)}
        if unknown:
            raise TypeError(f"unknown key {min(unknown)!r}")
        for key in {"mean", "std"} & set(values):
            values[key] = tuple(float(value) for value in values[key])
        return OnnxModelSpec(**values)
    except (ValueError, TypeError, UsageError) as error:
        allowed = ", ".join(field.name for field in fields(OnnxModelSpec))
        raise UsageError(f"{path} is no model spec: {error}; allowed keys: {allowed}") from None


def _known(path: Path, inputs: Sequence[Node], outputs: Sequence[Node]) -> OnnxModelSpec | None:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    shape, names = list(inputs[0].shape), {output.name for output in outputs}
    if {"dets", "labels"} <= names and shape[1] == 3:
        height, width = (size if isinstance(size, int) else 320 for size in shape[2:])
        if "yolox" in path.as_posix().lower():
            return OnnxModelSpec("yolox", "mmdet-nms", height, width, colour="bgr")
        mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
        return OnnxModelSpec("rtmdet", "mmdet-nms", height, width, colour="bgr", mean=mean, std=std)
    if shape[3] == 3 and [list(output.shape) for output in outputs] == [[1, 1, NUM_JOINTS, 3]]:
        dtype = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}.get(inputs[0].type)
        if dtype and all(isinstance(size, int) for size in shape[1:3]):
            return OnnxModelSpec("movenet", "movenet", shape[1], shape[2], layout="nhwc", dtype=dtype)
    if shape[1] == 3 and all(isinstance(size, int) for size in shape[2:]):
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        if names == {"simcc_x", "simcc_y"}:
            return OnnxModelSpec("simcc", "simcc", shape[2], shape[3], mean=mean, std=std)
        if len(outputs) == 1 and len(outputs[0].shape) == 4 and outputs[0].shape[1] == NUM_JOINTS:
            return OnnxModelSpec("heatmap", "heatmap", shape[2], shape[3], mean=mean, std=std)
    return None


def _disagreement(spec: OnnxModelSpec, inputs: Sequence[Node], outputs: Sequence[Node]) -> str | None:
    types = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "int32": "tensor(int32)"}
    if len(inputs) != 1 or inputs[0].type != types[spec.dtype] or not _fits(inputs[0].shape, spec.input_shape):
        return f"the spec gives {spec.dtype} {list(spec.input_shape)}, the model takes {_words(inputs)}"
    shapes = _output_shapes(spec)
    wrong_rank = [len(node.shape) for node in outputs] != [len(shape) for shape in shapes]
    joints = None if wrong_rank else _joint_axis(spec.output, outputs)
    if isinstance(joints, int) and joints != NUM_JOINTS:
        return f"the model gives {joints} joints; allowed: {NUM_JOINTS}, in COCO order"
    if wrong_rank or not all(map(_fits, (node.shape for node in outputs), shapes)):
        return f"the spec says {spec.output}, the model gives {_words(outputs)}"
    if not all(node.type in ("tensor(float)", "tensor(int64)", "tensor(int32)") for node in outputs):
        return f"outputs must be float32, or whole numbers for labels; the model gives {_words(outputs)}"
    ratios = _ratios(spec, outputs)
    if len(set(ratios)) > 1 or any(ratio <= 0 for ratio in ratios):
        return f"the outputs {_words(outputs)} are not one scale of the input {spec.width} x {spec.height}"
    return None


def _output_shapes(spec: OnnxModelSpec) -> tuple[tuple[Any, ...], ...]:
    """Shapes of the outputs of one picture; None where a size is the model's choice."""
    return {
        "mmdet-nms": ((1, None, 5), (1, None)),
        "movenet": ((1, 1, NUM_JOINTS, 3),),
        "simcc": ((1, NUM_JOINTS, None), (1, NUM_JOINTS, None)),
        "heatmap": ((1, NUM_JOINTS, None, None),),
    }[spec.output]


def _joint_axis(output: str, outputs: Sequence[Node]) -> Any:
    axis = {"movenet": 2, "simcc": 1, "heatmap": 1}.get(output)
    return None if axis is None else outputs[0].shape[axis]


def _ratios(spec: OnnxModelSpec, outputs: Sequence[Node]) -> list[float]:
    """Output sizes along x and y as multiples of the input's, where the model tells them."""
    last = [node.shape[-1] for node in outputs]
    if spec.output == "heatmap":
        last = [outputs[0].shape[-1], outputs[0].shape[-2]]
    pairs = zip(last, (spec.width, spec.height), strict=True) if spec.output in ("simcc", "heatmap") else ()
    return [size / side for size, side in pairs if isinstance(size, int)]


def _fits(shape: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(size, int) or want is None or size == want for size, want in zip(shape, wanted, strict=True)
    )


def _words(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.name} {node.type[7:-1]} {list(node.shape)}" for node in nodes)
