"""Tokens under the persons, or under each body part, pooled once for each pose estimator, heatmap and view, and kept.

``m = h / sum h`` over the heatmap h of a frame, ``z = sum_g m[g] X[g]``, ``q = max_g h[g]``: nothing is learnt, so 5.4
GB of tokens (HMDB51, ViT-B/16, 16 frames) become 111 MB once, and training never reads the tokens again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pipeline.head.config import HeadConfig
from pipeline.head.skeleton import motion_shares
from stages.cache import cache_directory
from stages.geometry import to_view
from stages.heatmap import pool_weights, render
from store.features import Features

# Raised when the numbers of a cached file would come out differently.
CACHE_VERSION = 1

# COCO joints of each body part. Shoulders and hips hardly move against the trunk: they are its.
BODY_PARTS: dict[str, tuple[int, ...]] = {
    "head": (0, 1, 2, 3, 4),
    "trunk": (5, 6, 11, 12),
    "left arm": (7, 9),
    "right arm": (8, 10),
    "left leg": (13, 15),
    "right leg": (14, 16),
}


class Pooled(NamedTuple):
    """What is kept of the tokens of N videos in one view, all stored frames.

    slots     int64 [N]
    pooled    float16 [N, T, D], zero where nobody is
    presence  float16 [N, T], height of the heatmap's peak, 0 where nobody is
    heatmap   float16 [N, T, G, G]
    """

    slots: Tensor
    pooled: Tensor
    presence: Tensor
    heatmap: Tensor


class PooledParts(NamedTuple):
    """The same under each of the J body parts, without the heatmaps: parts [N, T, J, D], part_presence [N, T, J]."""

    slots: Tensor
    parts: Tensor
    part_presence: Tensor


Kept = TypeVar("Kept", Pooled, PooledParts)


def pool_tokens(tokens: Tensor, heatmap: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of ``tokens`` [..., G, G, D] under ``heatmap`` [..., G, G], float32 [..., D], and its peak [...].

    Where the heatmap is zero both are zero. Heatmaps [..., J, G, G] of J body parts give [..., J, D] and [..., J].
    """
    weights, peak = pool_weights(heatmap)
    rows = weights.flatten(-2)
    one = heatmap.ndim == tokens.ndim - 1
    pooled = (rows.unsqueeze(-2) if one else rows) @ tokens.float().flatten(-3, -2)
    return pooled.squeeze(-2) if one else pooled, peak


def view_heatmaps(
    features: Features, config: HeadConfig, *, view: str, size: int, grid: int, by_part: bool = False
) -> Tensor:
    """Heatmaps of the CLIP frames on the token grid of a view, as the head reads them: float32 [B, T, G, G], or of each
    part [B, T, J, G, G].

    Keypoints are kept as fractions of the frame; here they move to fractions of the view, an image of ``size`` pixels.
    """
    keypoints = features["keypoints"].float()
    if config.persons == "moving":
        keypoints = by_motion(keypoints, features.sizes)
    if features.pose_frames is not None:
        keypoints = keypoints[:, features.pose_frames]
    moved = keypoints.clone()
    width, height = features.sizes.unbind(dim=-1)
    moved[..., :2] = to_view(keypoints[..., :2], view, width, height, size)
    if not by_part:
        return render(moved, grid, sigma=config.sigma)
    parts = [render(moved[..., joints, :], grid, sigma=config.sigma) for joints in BODY_PARTS.values()]
    return torch.stack(parts, dim=2)


def by_motion(keypoints: Tensor, sizes: Tensor) -> Tensor:
    """Keypoints [B, Tp, P, 17, 3] whose confidence counts by how much their person moves beside the others; ``sizes``
    [B, 2] are widths and heights of the frames."""
    weighed = keypoints.clone()
    weighed[..., 2] *= motion_shares(keypoints, sizes[:, 0] / sizes[:, 1])[:, None, :, None]
    return weighed


def pool_view(shards: Iterable[Features], kept: type[Kept], config: HeadConfig, *, view: str, size: int) -> Kept:
    """Pool the ``value`` tokens of one view, [B, 1, T, G, G, D], shard by shard."""
    parts = []
    for features in shards:
        tokens = features["value"][:, 0]
        of_parts = kept is PooledParts
        grid = tokens.shape[2]
        heatmap = view_heatmaps(features, config, view=view, size=size, grid=grid, by_part=of_parts)
        pooled, presence = pool_tokens(tokens, heatmap)
        rows = (features.slots, pooled.half(), presence.half(), heatmap.half())
        parts.append(rows[: len(kept._fields)])
    return kept(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def cache_path(key: dict[str, Any]) -> Path:
    """Where pooled tokens are kept that follow from ``key``, plain JSON values."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, key], sort_keys=True).encode()).hexdigest()
    return cache_directory() / f"pooled-{digest[:24]}.safetensors"


def read_cache(path: Path, kept: type[Kept]) -> Kept | None:
    """What ``write_cache`` kept, or None where it is absent or not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get("sha256")
            result = kept(**{name: file.get_tensor(name) for name in kept._fields})
    except (OSError, SafetensorError):
        return None
    return result if digest == _digest(result) else None


def write_cache(path: Path, pooled: Pooled | PooledParts) -> None:
    """Keep ``pooled``, atomically. A cache that cannot be written costs time later, not this run."""
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".pooled-")
        os.close(handle)
        try:
            tensors = {key: value.contiguous() for key, value in pooled._asdict().items()}
            save_file(tensors, name, metadata={"sha256": _digest(pooled)})
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        warnings.warn(f"pooled tokens were not kept in {path.parent}: {error}; set VILP_CACHE", stacklevel=2)


def _digest(pooled: Pooled | PooledParts) -> str:
    digest = hashlib.sha256()
    for name, tensor in pooled._asdict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
