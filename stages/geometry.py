"""Views: which part of a frame a CLIP model sees, and where a point of the frame lies in that view.

For a model with inputs of S x S pixels:

``center``     short side resized to S, the S x S centre cut out (the usual CLIP evaluation transform)
``center256``  short side resized to round(256 S / 224), the S x S centre cut out (as BIKE tests, arXiv 2301.00182)
``squash``     both sides resized to S, whatever the aspect ratio: nothing is cut off
``flip``       the mirror image of ``center``

Rounding is torchvision's: the long side is cut to whole pixels, crop offsets are rounded half to even. All functions
are pure; this module needs numpy alone and takes torch tensors as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from store.errors import one_of

VIEWS = ("center", "center256", "squash", "flip")


@dataclass(frozen=True)
class Crop:
    """A frame is resized to ``width`` x ``height``, then ``size`` x ``size`` pixels are cut out at ``left``, ``top``
    and, where ``mirrored``, flipped left to right."""

    width: int
    height: int
    left: int
    top: int
    size: int
    mirrored: bool


def crop_of(view: str, width: int, height: int, size: int) -> Crop:
    """How ``view`` cuts ``size`` x ``size`` pixels out of a frame of ``width`` x ``height`` pixels.

    Raises ``UsageError`` for an unknown view.
    """
    resized, offset = _resized_and_offset(view, np.array(width), np.array(height), size)
    return Crop(int(resized[0]), int(resized[1]), int(offset[0]), int(offset[1]), size, view == "flip")


def to_view(points: Any, view: str, width: Any, height: Any, size: int) -> Any:
    """Points of the frame as points of the view.

    points         [..., 2], x and y as fractions of the frame's width and height; a numpy array or a torch tensor
    width, height  of the frames in pixels: numbers, or arrays whose shape is that of the first axes of ``points``
    size           S, the side of the model's input in pixels

    Returns the same kind of array: x and y as fractions of the view, below 0 or above 1 for points that lie outside it.
    """
    resized, offset = _resized_and_offset(view, _numbers(width), _numbers(height), size)
    scale, shift = resized / size, -offset / size
    if view == "flip":
        scale, shift = scale * (-1, 1), shift * (-1, 1) + (1, 0)
    between = (1,) * (points.ndim - scale.ndim)
    shape = (*scale.shape[:-1], *between, 2)
    scale, shift = scale.reshape(shape), shift.reshape(shape)
    if not isinstance(points, np.ndarray):  # a torch tensor: same type and device
        scale, shift = points.new_tensor(scale), points.new_tensor(shift)
        return points * scale + shift
    return (points * scale + shift).astype(points.dtype, copy=False)


def inside(points: Any) -> Any:
    """Which points [..., 2], in fractions of a view, lie in it, its border included: bool [...]."""
    return ((points >= 0) & (points <= 1)).all(-1)


def share_inside(keypoints: np.ndarray, view: str, sizes: np.ndarray, size: int) -> float:
    """Which share of the keypoints that are seen lies inside a view.

    keypoints  [B, ..., 3]: x, y as fractions of the frame, confidence (0: not seen)
    sizes      [B, 2], width and height of the frames in pixels
    size       S, the side of the model's input in pixels

    NaN where none is seen at all.
    """
    seen = keypoints[..., 2] > 0
    moved = to_view(keypoints[..., :2], view, sizes[:, 0], sizes[:, 1], size)
    return float((inside(moved) & seen).sum() / seen.sum()) if seen.any() else float("nan")


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value, dtype=np.float64)


def _resized_and_offset(view: str, width: np.ndarray, height: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Size of the resized frames and position of the crop in them, both [..., 2] (x, y) in whole pixels."""
    one_of("view", view, VIEWS)
    sides = np.stack([width, height], -1).astype(np.float64)
    if view == "squash":
        return np.full_like(sides, size), np.zeros_like(sides)
    short = round(size * 256 / 224) if view == "center256" else size
    resized = np.floor(short * sides / sides.min(-1, keepdims=True))
    return resized, np.round((resized - size) / 2)
