"""Pictures for the models of mmpose, by the conventions of their test pipelines.

* ``fit``: resized to fit (bilinear, half-pixel centres, no antialiasing), padded at the right and the bottom;
* ``cut``: a window of the frame sampled bilinearly at the places of its pixels, with one grey outside the frame.

On a CPU OpenCV does both, as it does in those pipelines (``stages.pose.images``): a crop takes it a fifth of the time.
On other devices frames travel there and are cut there, all in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.pose import images

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CropGeometry:
    """How a keypoint model wants its crops.

    width, height  of the crop in pixels
    padding        the window is this many times the box
    udp            the window's edges are the centres of the outermost pixels (unbiased data processing, Huang et al.
                   2020) instead of their outer edges
    """

    width: int
    height: int
    padding: float
    udp: bool

    def windows(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres and sizes, both float32 [M, 2], of the windows around boxes [M, 4 or more] (x1, y1, x2, y2)."""
        center = (boxes[:, :2] + boxes[:, 2:4]) * np.float32(0.5)
        width, height = ((boxes[:, 2:4] - boxes[:, :2]) * np.float32(self.padding)).clip(1).T
        aspect = self.width / self.height
        size = np.stack((np.maximum(width, height * aspect), np.maximum(height, width / aspect)), axis=1)
        return center.astype(np.float32), size.astype(np.float32)

    def steps(self, size: np.ndarray) -> np.ndarray:
        """Pixels of the frame from one pixel of a crop to the next, [M, 2], for windows of ``size`` [M, 2]."""
        return size / (np.array((self.width, self.height)) - self.udp)

    def samples(self, center: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the crops' pixels lie in the frame: x float32 [M, width] and y float32 [M, height]."""
        start = center - size / 2
        columns, rows = np.arange(self.width), np.arange(self.height)
        steps = self.steps(size)
        x, y = start[:, :1] + steps[:, :1] * columns, start[:, 1:] + steps[:, 1:] * rows
        return x.astype(np.float32), y.astype(np.float32)


def fit(
    frame: np.ndarray, width: int, height: int, fill: int, device: torch.device
) -> tuple[torch.Tensor, tuple[float, float]]:
    """``frame`` uint8 [H, W, 3] resized to fit: uint8 [3, height, width], and the factors of x and y to it."""
    import torch

    if device.type != "cpu":
        return letterbox(torch.tensor(frame, device=device), width, height, fill)  # a copy: frames may be read-only
    picture, factors = images.letterbox(frame, width, height, fill)
    return torch.from_numpy(picture).permute(2, 0, 1), factors


def cut(
    frames: Sequence[np.ndarray],
    geometry: CropGeometry,
    center: np.ndarray,
    size: np.ndarray,
    device: torch.device,
    *,
    fill: int = 0,
) -> torch.Tensor:
    """The window of ``size`` [M, 2] around ``center`` [M, 2] of each of M frames uint8 [H, W, 3], which may differ in
    size: uint8 [M, 3, height, width], grey of level ``fill`` outside the frame."""
    import torch

    if device.type != "cpu":
        return bilinear_crops(frames, *geometry.samples(center, size), device, fill=fill)
    places = zip(frames, center - size / 2, geometry.steps(size), strict=True)
    shape = {"width": geometry.width, "height": geometry.height}
    crops = [images.window_crop(frame, start, step, fill=fill, **shape) for frame, start, step in places]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def letterbox(frame: torch.Tensor, width: int, height: int, fill: int) -> tuple[torch.Tensor, tuple[float, float]]:
    """``frame`` uint8 [H, W, 3] resized to fit: uint8 [3, height, width], and the factors of x and y to it."""
    from torch.nn.functional import interpolate, pad

    source_height, source_width = frame.shape[:2]
    ratio = min(width / source_width, height / source_height)
    size = int(source_height * ratio + 0.5), int(source_width * ratio + 0.5)
    picture = interpolate(frame.permute(2, 0, 1)[None].float(), size=size, mode="bilinear")[0].round().byte()
    picture = pad(picture, (0, width - size[1], 0, height - size[0]), value=fill)
    return picture, (size[1] / source_width, size[0] / source_height)


def bilinear_crops(
    frames: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    device: torch.device | str = "cpu",
    *,
    fill: int = 0,
) -> torch.Tensor:
    """Crop m of frame m, uint8 [H, W, 3], at columns x [M, w] and rows y [M, h]: uint8 [M, 3, h, w], grey of level
    ``fill`` outside.

    The frames may differ in size. x and y, float32, grow along each row.
    """
    import torch

    # What a crop can touch of its frame, on a common canvas with a margin of one: one call samples all, and little
    # travels. Places are taken in the frame's own pixels, so that a crop does not depend on the size of the others.
    first = np.floor(np.stack((x[:, 0], y[:, 0]), axis=1)).astype(int).clip(0)
    last = np.ceil(np.stack((x[:, -1], y[:, -1]), axis=1)).astype(int).clip(-1) + 1
    cutouts = [frame[y1:y2, x1:x2] for frame, (x1, y1), (x2, y2) in zip(frames, first, last, strict=True)]
    height, width = (max(1, *(cutout.shape[axis] for cutout in cutouts)) + 2 for axis in (0, 1))
    canvas = np.full((len(frames), height, width, 3), fill, np.uint8)
    for place, cutout in zip(canvas, cutouts, strict=True):
        place[1 : cutout.shape[0] + 1, 1 : cutout.shape[1] + 1] = cutout
    pictures = torch.from_numpy(canvas).to(device)
    crop = torch.arange(len(frames), device=device)[:, None]
    low, high, share = _neighbours(y, first[:, 1], height, pictures.device)
    rows = torch.lerp(pictures[crop, low].float(), pictures[crop, high].float(), share[..., None, None])
    low, high, share = _neighbours(x, first[:, 0], width, pictures.device)
    columns = rows.transpose(1, 2)
    picked = torch.lerp(columns[crop, low], columns[crop, high], share[..., None, None])
    return picked.round().byte().permute(0, 3, 2, 1)


def _neighbours(
    places: np.ndarray, first: np.ndarray, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For places [M, n] along one side of the frames, the two pixels of the canvas around each (int64 [M, n]; pixel
    ``first`` [M] of a frame is pixel 1 there) and the share of the second (float32 [M, n])."""
    import torch

    below = np.floor(places)
    low = (below.astype(np.int64) - first[:, None] + 1).clip(-1, size - 1)
    share = torch.from_numpy((places - below).astype(np.float32))
    pairs = (torch.from_numpy(index.clip(0, size - 1)).to(device) for index in (low, low + 1))
    return next(pairs), next(pairs), share.to(device)
