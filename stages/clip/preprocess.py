"""Frames to model inputs, on the device: resize with antialiasing, crop, normalise.

Pillow, which open_clip's own transform runs on, resizes the rows, rounds to whole levels, then resizes the columns. On
a CPU torch does the same for uint8 pixels, in fixed point and fastest with channels last; on CUDA it is done here in
fp32. Either way hardly a pixel in a hundred differs from Pillow's, nearly always by one level. (Where a picture shrinks
in height and grows in width, which only ``squash`` can do, Pillow 13 takes the columns first; here rows come first.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stages.geometry import Crop, crop_of


@dataclass(frozen=True)
class Preprocess:
    """``size`` S in pixels, ``mean`` and ``std`` of pixels in 0..1, ``interpolation`` ``bicubic`` or ``bilinear``."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __call__(self, frames: Tensor, views: Sequence[str]) -> Iterator[Tensor]:
        """For each view, the frames (uint8 [T, H, W, 3], never written to) as fp32 [T, 3, S, S] on their device."""
        pixels = frames.permute(0, 3, 1, 2)
        height, width = frames.shape[1:3]
        scale, shift = _scale_and_shift(tuple(self.mean), tuple(self.std), frames.device)
        for view in views:
            seen = cut(pixels, crop_of(view, width, height, self.size), self.interpolation)
            yield seen.contiguous().float().mul_(scale).add_(shift)


# Kept on the device: sent anew for every clip they would have the host wait for all work before them.
@lru_cache(maxsize=16)
def _scale_and_shift(means: tuple[float, ...], stds: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (means, stds))
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


def resize_uint8(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """uint8 [T, 3, H, W] resized to (height, width), on a CPU."""
    return interpolate(pixels, size, mode=mode, antialias=True)


def resize_float(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """What ``resize_uint8`` does, on any device."""
    rows = interpolate(pixels.float(), (pixels.shape[-2], size[1]), mode=mode, antialias=True).round_().clamp_(0, 255)
    return interpolate(rows, size, mode=mode, antialias=True).round_().clamp_(0, 255).byte()


def cut(pixels: Tensor, crop: Crop, mode: str) -> Tensor:
    """uint8 [T, 3, S, S] out of uint8 [T, 3, H, W]."""
    if pixels.shape[-2:] != (crop.height, crop.width):
        resize = resize_uint8 if pixels.device.type == "cpu" else resize_float
        pixels = resize(pixels, (crop.height, crop.width), mode)
    cut = pixels[..., crop.top : crop.top + crop.size, crop.left : crop.left + crop.size]
    return cut.flip(-1) if crop.mirrored else cut
