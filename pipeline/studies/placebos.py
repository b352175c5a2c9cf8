"""Placebos of pose: what stands in its place when everything else stays as it is.

``training mean``        the mean heatmap of the training videos, or mean embedding (``vilp``), or mean skeleton
``uniform grid``         the same weight everywhere
``centred Gaussian``     one blob in the middle of the picture
``person box``           the boxes of the persons, without their joints
``shuffled over time``   each video's own poses at other frames
``another video``        the poses of a video of another source
``same class``           the poses of another video of the same class

For the last one the label of a test video is read. It is no rival that real pose has to beat, but a measure of what
poses say of a class: see ``pipeline.studies.pose``.

Constant maps are as tall as the training videos' heatmaps are on average, so that they may move frames as far. Tokens
are pooled anew under each map, in one pass over the stored tokens for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.head.data import PART_INPUTS, POOLED_INPUTS, Inputs, load_skeletons, view_size
from pipeline.head.job import Job
from pipeline.head.pooling import pool_tokens, view_heatmaps
from pipeline.head.selection import stored_frames
from stages.geometry import to_view
from store.features import Features

MEAN, UNIFORM, CENTRE, BOX = "training mean", "uniform grid", "centred Gaussian", "person box"
TIME, OTHER, SAME = "shuffled over time", "another video", "same class"
MAPS, MOVED = (MEAN, UNIFORM, CENTRE, BOX), (TIME, OTHER, SAME)
# Inputs that say where somebody is, by themselves: a placebo replaces them as they are.
_OWN = ("pose_embedding", "skeleton")


class Placebos:
    """Placebo inputs of one split: of its training videos first, whose statistics the test videos then get."""

    def __init__(self, job: Job, split: int) -> None:
        self._job, self._split = job, split
        self._means: dict[str, Tensor] = {}
        self._peak: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Placebos that the head of the job can be given."""
        names = (*MAPS, *MOVED) if self._pools else (MEAN, *MOVED)
        still = self._job.selection.frames == 1 and "skeleton" not in self._job.config.inputs
        return tuple(name for name in names if not (name == TIME and still))

    @property
    def _pools(self) -> bool:
        return not set(self._job.config.inputs).isdisjoint((*POOLED_INPUTS, *PART_INPUTS))

    def inputs(self, real: Inputs, subset: str) -> dict[str, Inputs]:
        """Every placebo in place of the pose in ``real``, the inputs of ``subset``."""
        rng = np.random.default_rng([0, self._split, subset == "test"])
        rows = {
            OTHER: other_videos(real.sources, rng),
            SAME: same_class(real.labels.cpu().numpy(), real.sources, rng),
        }
        tensors: dict[str, dict[str, Tensor]] = {name: dict(real.tensors) for name in self.names}
        for name in (n for n in _OWN if n in real.tensors):
            tensor = real.tensors[name]
            if subset == "train":
                self._means[name] = tensor.float().mean(dim=(0, 2)).to(tensor.dtype)
            # A map says nothing of a skeleton: the mean takes its place.
            for still in (m for m in MAPS if m in tensors):
                tensors[still][name] = self._means[name].unsqueeze(1).expand_as(tensor)
            for moved in (m for m in MOVED if m in tensors):
                tensors[moved][name] = self._shuffled(real, name, rng) if moved == TIME else tensor[rows[moved]]
        if self._pools:
            for view, name in enumerate(self._job.selection.views):
                for placebo, pooled in self._pooled(real, subset, name, rows, rng).items():
                    for key, value in pooled.items():
                        if view == 0:
                            tensors[placebo][key] = torch.empty_like(real.tensors[key])
                        tensors[placebo][key][:, view] = value
        return {name: replace(real, tensors=found) for name, found in tensors.items()}

    def _shuffled(self, real: Inputs, name: str, rng: np.random.Generator) -> Tensor:
        """What says by itself where somebody is, each video's own at other moments. Of skeletons it is the stored poses
        that change places: their motion would otherwise still tell what came after what."""
        tensor = real.tensors[name]
        if name != "skeleton":
            return _take(tensor, _other_orders(len(real), tensor.shape[2], rng))
        store, pose = self._job.store, self._job.selection.pose
        stored = store.group("pose", pose).modality.arrays["keypoints"].shape[0]
        order = _other_orders(len(real), stored, rng)
        return load_skeletons(store, self._job.selection, real.slots.tolist(), order).to(tensor.device)

    def _pooled(
        self, real: Inputs, subset: str, view: str, rows: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, dict[str, Tensor]]:
        """What is pooled in one view under every placebo's maps: the inputs by name, [N, T', ...]."""
        job = self._job
        parts = "parts" in job.config.inputs
        true, boxes = self._heatmaps(real, view, parts)
        if subset == "train":
            self._means[f"map {view}"] = true.mean(dim=(0, 1))
            self._peak = true.amax((-2, -1)).mean(dim=(0, 1))
        assert self._peak is not None
        peak = self._peak[..., None, None]
        maps = {
            MEAN: self._means[f"map {view}"].expand_as(true),
            UNIFORM: peak.expand(true.shape[2:]).expand_as(true),
            CENTRE: (peak * _blob(true.shape[-1])).expand_as(true),
            BOX: (boxes.unsqueeze(2) if parts else boxes).expand_as(true),
            OTHER: true[rows[OTHER]],
            SAME: true[rows[SAME]],
        }
        if TIME in self.names:
            maps[TIME] = _take(true.unsqueeze(1), _other_orders(len(true), true.shape[1], rng)).squeeze(1)
        pooled = self._pool(real, view, maps)
        names = PART_INPUTS if parts else POOLED_INPUTS
        wanted = [name for name in names if name in job.config.inputs]
        found = {}
        for placebo, (tokens, presence) in pooled.items():
            values = (tokens, presence) if parts else (tokens, presence, maps[placebo].half())
            found[placebo] = {name: value for name, value in zip(names, values, strict=True) if name in wanted}
        return found

    def _shards(self, real: Inputs, view: str, arrays: Sequence[str]) -> Iterator[Features]:
        selection = self._job.selection
        return self._job.store.iter_shards(
            arrays=arrays,
            slots=real.slots.tolist(),
            frames=None if arrays == ("keypoints", "boxes") else selection.frames,
            clip=selection.clip,
            pose=selection.pose,
            view=None if arrays == ("keypoints", "boxes") else view,
        )

    def _heatmaps(self, real: Inputs, view: str, parts: bool) -> tuple[Tensor, Tensor]:
        """True heatmaps [N, T', (J,) G, G] and those of boxes [N, T', G, G] of some videos, at the head's frames."""
        selection = self._job.selection
        clip = self._job.store.group("clip", selection.clip)
        grid = int(clip.modality.arrays["value"].shape[-2])
        size, stored = view_size(self._job.store, selection), stored_frames(clip)
        true, boxes = [], []
        for features in self._shards(real, view, ("keypoints", "boxes")):
            positions = torch.arange(selection.frames) * stored // selection.frames
            positions = positions * features["keypoints"].shape[1] // stored
            at = replace(features, pose_frames=positions)
            true.append(view_heatmaps(at, self._job.config, view=view, size=size, grid=grid, by_part=parts))
            boxes.append(box_maps(at, view=view, size=size, grid=grid))
        return torch.cat(true), torch.cat(boxes)

    def _pool(self, real: Inputs, view: str, maps: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in maps}
        start = 0
        for features in self._shards(real, view, ("value",)):
            tokens = features["value"][:, 0].float()
            for name, heatmaps in maps.items():
                pooled, presence = pool_tokens(tokens, heatmaps[start : start + len(features)].float())
                found[name].append((pooled.half(), presence.half()))
            start += len(features)
        return {
            name: (torch.cat([p for p, _ in parts]), torch.cat([q for _, q in parts])) for name, parts in found.items()
        }


def other_videos(sources: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """For each video a random one of another source, where there is one: int64 [N]."""
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    return _partners(np.arange(len(group)), group, rng)


def same_class(labels: np.ndarray, sources: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """For each video a random other one of its class, of another source where there is one: int64 [N]. The only video
    of a class keeps itself."""
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    found = np.arange(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        found[rows] = _partners(rows, group[rows], rng)
    return found


def _partners(rows: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = rows.copy()
    for position, mine in enumerate(group):
        candidates = rows[group != mine]
        if not len(candidates):
            candidates = np.delete(rows, position)
        if len(candidates):
            found[position] = candidates[rng.integers(len(candidates))]
    return found


def _other_orders(count: int, steps: int, rng: np.random.Generator) -> Tensor:
    """A random order of the steps of each video, int64 [N, T], in which none keeps its place where there are two or
    more (a random cycle)."""
    order = np.empty((count, steps), np.int64)
    for row in order:
        around = rng.permutation(steps)
        row[around] = np.roll(around, 1)
    return torch.from_numpy(order)


def _take(tensor: Tensor, order: Tensor) -> Tensor:
    """The steps of each video [N, V, T, ...] in an order int64 [N, T], the same for all its views."""
    rows = torch.arange(len(tensor), device=tensor.device)[:, None]
    return tensor[rows, :, order.to(tensor.device)].transpose(1, 2)


def _blob(grid: int) -> Tensor:
    """A Gaussian in the middle of G x G cells, a quarter of the grid wide, of height 1."""
    away = (torch.arange(grid) + 0.5) / grid - 0.5
    line = torch.exp(-away.square() / (2 * 0.25**2))
    return line[:, None] * line


def box_maps(features: Features, *, view: str, size: int, grid: int) -> Tensor:
    """The highest score of the boxes that a cell's centre lies in: float32 [B, T, G, G], at the CLIP frames."""
    boxes = features["boxes"].float()
    if features.pose_frames is not None:
        boxes = boxes[:, features.pose_frames]
    width, height = features.sizes.unbind(dim=-1)
    first, second = (to_view(boxes[..., corner], view, width, height, size) for corner in (slice(0, 2), slice(2, 4)))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    centres = (torch.arange(grid) + 0.5) / grid
    in_column = (centres >= low[..., :1]) & (centres <= high[..., :1])
    in_row = (centres >= low[..., 1:]) & (centres <= high[..., 1:])
    inside = in_row.unsqueeze(-1) & in_column.unsqueeze(-2)
    score = (boxes[..., 4] * (high > low).all(dim=-1))[..., None, None]
    return (inside * score).amax(dim=2)
