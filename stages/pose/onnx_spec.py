"""What an ONNX model wants and gives: a small spec, and how pictures and outputs are turned by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.coco import NUM_JOINTS
from store.errors import UsageError, one_of

DETECTOR_OUTPUTS = ("mmdet-nms",)
KEYPOINT_OUTPUTS = ("movenet", "simcc", "heatmap")


@dataclass(frozen=True)
class OnnxModelSpec:
    """Input and output of a model that takes N pictures.

    name     short name for the modality
    output   ``mmdet-nms``: boxes [N, n, 5] (x1, y1, x2, y2 in input pixels, score) and labels [N, n], 0 = person;
             ``movenet``: [N, 1, 17, 3] of y, x as fractions of the input, confidence;
             ``simcc``: [N, 17, r W] and [N, 17, r H], one score for every fraction 1/r of a pixel;
             ``heatmap``: [N, 17, H / s, W / s], one score for every s x s pixels
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
    def input_shape(self) -> tuple[None, int, int, int]:
        """As the model has it; the number of pictures is the model's choice."""
        size = (self.height, self.width)
        return (None, 3, *size) if self.layout == "nchw" else (None, *size, 3)

    def prepare(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, height, width, 3], RGB, as the model's input."""
        if self.colour == "bgr":
            pictures = pictures[..., ::-1]
        if any(self.mean) or any(value != 1 for value in self.std):
            pictures = (pictures - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout == "nchw":
            pictures = pictures.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pictures, dtype=self.dtype)

    def decode_keypoints(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """A keypoint model's outputs as [N, 17, 3]: x, y as fractions of the input, confidence in 0..1."""
        if self.output == "movenet":
            return outputs[0].reshape(-1, NUM_JOINTS, 3)[..., [1, 0, 2]]
        if self.output == "heatmap":
            size = outputs[0].shape[-2:]
            return _peaks(outputs[0].reshape(-1, *size)).reshape(*outputs[0].shape[:2], 3)
        # SimCC (Li et al., arXiv 2107.03332): a joint is where its two scores peak; its confidence the lower peak.
        places = [score.argmax(-1) / score.shape[-1] for score in outputs]
        confidence = np.minimum(*(score.max(-1) for score in outputs)).clip(0, 1)
        return np.stack([*places, confidence], axis=-1)


def _peaks(maps: np.ndarray) -> np.ndarray:
    """Where heatmaps [M, h, w] peak: [M, 3] of x, y as fractions of the map and the height of the peak in 0..1.

    A quarter of a cell towards the higher of the two neighbours, along each axis, as stacked hourglass networks began
    it (Newell et al., arXiv 1603.06937) and mmpose does it, which leaves peaks by the border where they are.
    """
    each, (height, width) = np.arange(len(maps)), maps.shape[1:]
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), (height, width))
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    right = np.sign(padded[each, row + 1, column + 2] - padded[each, row + 1, column])
    down = np.sign(padded[each, row + 2, column + 1] - padded[each, row, column + 1])
    right = right * ((column > 1) & (column < width - 1) & (row > 0))
    down = down * ((row > 1) & (row < height - 1) & (column > 0))
    confidence = maps[each, row, column].clip(0, 1)
    return np.stack([(column + right / 4) / width, (row + down / 4) / height, confidence], axis=1)


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
