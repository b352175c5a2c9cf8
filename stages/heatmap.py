"""Where the people are, as a map on the token grid of a view, from stored keypoints; and the weights it pools with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stages.pose.coco import COCO_LIMBS

CHUNK_BYTES = 64 << 20


def render(keypoints: Tensor, grid: int | tuple[int, int], *, sigma: float = 1.0, limbs: bool = False) -> Tensor:
    """Heatmaps h[g] = max over persons and joints of conf exp(-|g - k|^2 / (2 sigma^2)).

    keypoints  [..., P, 17, 3]: x, y as fractions of the view (outside 0..1 where the view cuts them off), confidence
    grid       G for G x G cells, or (rows, columns); cell i has its centre at (i + 0.5) / G
    sigma      in cells
    limbs      distances are to the segments between joints (``COCO_LIMBS``) instead of to the joints; a limb has the
               lower confidence of its two ends

    Returns float32 [..., rows, columns] on the device of ``keypoints``. Joints without confidence contribute nothing,
    whatever their coordinates are; with nobody the map is 0.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}; allowed: a finite number of cells, more than 0")
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    lead = keypoints.shape[:-3]
    flat = keypoints.reshape(math.prod(lead), *keypoints.shape[-3:]).float()
    count = flat.shape[1] * (len(COCO_LIMBS) if limbs else flat.shape[2])
    # One value a joint (for limbs: a few) and cell would not fit for a whole store: a few thousand maps at a time.
    chunk = max(1, CHUNK_BYTES // (4 * max(1, count) * rows * columns * (3 if limbs else 1)))
    one = _limb_maps if limbs else _joint_maps
    maps = [one(part, rows, columns, sigma) for part in flat.split(chunk)] if count and len(flat) else []
    result = torch.cat(maps) if maps else flat.new_zeros(len(flat), rows, columns)
    return result.reshape(*lead, rows, columns)


def pool_weights(heatmap: Tensor) -> tuple[Tensor, Tensor]:
    """``(m, q)`` of heatmaps [..., rows, columns]: m = h / sum h, of the same shape, and q = max h, [...].

    With nobody in the frame m and q are 0, so that the pooled token and its share both vanish.
    """
    total = heatmap.sum((-2, -1), keepdim=True)
    return heatmap / total.clamp_min(torch.finfo(heatmap.dtype).tiny), heatmap.amax((-2, -1))


def _cells(keypoints: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and y in cells, where cell i has its centre at i, and confidence: [N, P, 17] each; 0 for what is not seen."""
    seen = keypoints[..., 2] > 0
    x, y, confidence = (torch.where(seen, value, 0.0) for value in keypoints.unbind(-1))
    return x * columns - 0.5, y * rows - 0.5, confidence


def _joint_maps(keypoints: Tensor, rows: int, columns: int, sigma: float) -> Tensor:
    x, y, confidence = (value.flatten(1) for value in _cells(keypoints, rows, columns))
    # The Gaussian is a product of one factor a row and one a column.
    by_column = _gaussian((torch.arange(columns, device=x.device) - x[..., None]).square(), sigma)
    by_row = _gaussian((torch.arange(rows, device=y.device) - y[..., None]).square(), sigma) * confidence[..., None]
    return (by_row[..., :, None] * by_column[..., None, :]).amax(1)


def _limb_maps(keypoints: Tensor, rows: int, columns: int, sigma: float) -> Tensor:
    x, y, confidence = _cells(keypoints, rows, columns)
    first, second = torch.tensor(COCO_LIMBS, device=x.device).T
    start = torch.stack([y[..., first], x[..., first]], -1).flatten(1, 2)[:, :, None, None]
    along = torch.stack([y[..., second], x[..., second]], -1).flatten(1, 2)[:, :, None, None] - start
    confidence = torch.minimum(confidence[..., first], confidence[..., second]).flatten(1)[..., None, None]
    axes = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    # The nearest point of the segment: the projection, held between its ends.
    share = ((cells - start) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-12)
    squared = (cells - start - share.clamp(0, 1)[..., None] * along).square().sum(-1)
    return (confidence * _gaussian(squared, sigma)).amax(1)


def _gaussian(squared: Tensor, sigma: float) -> Tensor:
    return torch.exp(squared / (-2 * sigma**2))
