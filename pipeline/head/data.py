"""What the heads read from a feature store. All access to the store is in this file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.head.models import HeadConfig
from pipeline.head.pooling import Pooled, cache_path, pool_view, read_cache, write_cache
from store.errors import MissingError, StoreError, UsageError
from store.features import Features, TextSet
from store.groups import Group
from store.reader import FeatureStore

# Inputs of heads by the stored arrays that they are made of.
CLIP_ARRAYS = {"frames": "cls", "tokens": "penult", "pooled": "value", "presence": "value", "heatmap": "value"}
POSE_ARRAYS = {"pose_embedding": "heatmap_clip", "pooled": "keypoints", "presence": "keypoints", "heatmap": "keypoints"}
POOLED_INPUTS = ("pooled", "presence", "heatmap")

# Official numbers of training and test videos by split.
OFFICIAL_SPLITS: dict[str, tuple[tuple[int, int], ...]] = {
    "hmdb51": ((3570, 1530),) * 3,
    "ucf101": ((9537, 3783), (9586, 3734), (9624, 3696)),
}


@dataclass(frozen=True)
class Selection:
    """Which features of a store a head reads: full ids of the groups, T' and the fingerprint of the numbers."""

    store: str
    dataset: str
    clip: str
    pose: str | None
    frames: int
    views: tuple[str, ...]
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "views": list(self.views)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        known = {field.name: data[field.name] for field in fields(cls)}
        return cls(**{**known, "views": tuple(data["views"])})


@dataclass(frozen=True)
class Inputs:
    """Inputs of a head for N videos, resident on one device: tensors [N, V, T, ...] by the names in ``INPUTS``."""

    tensors: Mapping[str, Tensor]
    labels: Tensor
    slots: Tensor
    video_ids: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def views(self) -> int:
        return next(iter(self.tensors.values())).shape[1]

    @property
    def device(self) -> torch.device:
        return self.labels.device


class Batches:
    """Takes batches out of resident inputs, in float32.

    On a CPU the token grids are converted row by row into a buffer that is kept: a fresh allocation of this size costs
    more than the copy. A batch is therefore valid until the next one is taken.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._flat = {name: tensor.flatten(0, 1) for name, tensor in inputs.tensors.items()}
        self._views = inputs.views
        self._buffers: dict[str, Tensor] = {}

    def take(self, rows: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Videos ``rows`` [B], each in its view of ``views`` [B]; both int64, on the CPU."""
        index = rows * self._views + views
        return {name: self._rows(name, tensor, index) for name, tensor in self._flat.items()}

    def _rows(self, name: str, tensor: Tensor, index: Tensor) -> Tensor:
        if name != "tokens" or tensor.device.type != "cpu":
            return tensor.index_select(0, index.to(tensor.device)).float()
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < len(index):
            buffer = self._buffers[name] = torch.empty(len(index), *tensor.shape[1:])
        for position, row in enumerate(index.tolist()):
            buffer[position].copy_(tensor[row])
        return buffer[: len(index)]


def open_store(store: FeatureStore | str | os.PathLike[str]) -> FeatureStore:
    return store if isinstance(store, FeatureStore) else FeatureStore.open(store)


def select(
    store: FeatureStore, config: HeadConfig, *, frames: int, clip: str | None = None, pose: str | None = None
) -> Selection:
    """Which features ``config``'s head reads of a store.

    Raises ``MissingError`` where the store lacks a modality, with the command that adds it, and ``UsageError`` where T'
    exceeds what is stored.
    """
    clip_group = store.group("clip", clip)
    for name in config.inputs:
        array = CLIP_ARRAYS.get(name)
        if array and array not in clip_group.modality.arrays:
            raise MissingError(
                f"head {config.head!r} reads {array!r} tokens and {clip_group.modality.id} has none; add them with: "
                f"vilp-pipe extract --store {store.url} --modality clip --tokens value,penult",
                kind="missing-modality",
            )
    cls = clip_group.modality.arrays["cls"]
    stored = cls.shape[cls.dims.index("frame")]
    if not 1 <= frames <= stored:
        raise UsageError(f"frames is {frames}; allowed: 1 to {stored}, the number that {store.url} holds a video")
    pose_group = _pose_group(store, config, pose)
    pose_id = pose_group.modality.id if pose_group else None
    return Selection(
        store=store.url,
        dataset=store.dataset_name,
        clip=clip_group.modality.id,
        pose=pose_id,
        frames=frames,
        views=tuple(clip_group.modality.record["views"]),
        fingerprint=store.fingerprint(clip=clip_group.modality.id, pose=pose_id),
    )


def _pose_group(store: FeatureStore, config: HeadConfig, pose: str | None) -> Group | None:
    arrays = {POSE_ARRAYS[name] for name in config.inputs if name in POSE_ARRAYS}
    if not arrays:
        return None
    if not any(group.modality.kind == "pose" for group in store.groups.values()):
        raise MissingError(
            f"head {config.head!r} reads pose and {store.url} has none; add it with: "
            f"vilp-pipe extract --store {store.url} --modality pose --pose onnx --det-weights FILE "
            "--pose-weights FILE, or train --head vcs or attn, which need none",
            kind="missing-modality",
        )
    group = store.group("pose", pose)
    for array in sorted(arrays - set(group.modality.arrays)):
        raise MissingError(
            f"head {config.head!r} reads {array!r} (CLIP embeddings of heatmap images) and {group.modality.id} has "
            "none; extraction does not make them yet: train --head pvcs or fuse, which read keypoints and tokens",
            kind="missing-modality",
        )
    return group


def load_inputs(
    store: FeatureStore, selection: Selection, config: HeadConfig, *, split: int, subset: str, device: str
) -> Inputs:
    """The whole inputs of a head for one subset of a split, on ``device``.

    Raises ``StoreError`` (``store-corrupt``) with the names of videos that hold NaN or infinity.
    """
    direct = [name for name in config.inputs if name not in POOLED_INPUTS]
    arrays = {name: CLIP_ARRAYS.get(name) or POSE_ARRAYS[name] for name in direct}
    slots = usable_slots(store, selection)
    features = store.load(
        split=split,
        subset=subset,
        arrays=tuple(arrays.values()),
        frames=selection.frames,
        slots=slots,
        clip=selection.clip,
        pose=selection.pose,
    )
    if not len(features):
        raise MissingError(
            f"{subset} of split {split} has no video with features in {store.url}; run vilp-pipe status --store "
            f"{store.url}"
        )
    tensors = {name: features[array] for name, array in arrays.items()}
    wanted = [name for name in config.inputs if name in POOLED_INPUTS]
    if wanted:
        tensors |= _pooled_inputs(store, selection, config.sigma, features, wanted)
    _refuse_non_finite(tensors, features)
    return Inputs(
        tensors={name: tensor.to(device) for name, tensor in tensors.items()},
        labels=features.labels.to(device),
        slots=features.slots,
        video_ids=features.video_ids,
        sources=features.sources,
    )


def load_text(store: FeatureStore, selection: Selection) -> TextSet:
    return store.text(clip=selection.clip)


def usable_slots(store: FeatureStore, selection: Selection) -> list[int]:
    """Slots with features in every group that the selection names."""
    groups = [store.group("clip", selection.clip)]
    if selection.pose is not None:
        groups.append(store.group("pose", selection.pose))
    return store.usable(groups)


def pooled_view(store: FeatureStore, selection: Selection, sigma: float, view: str) -> Pooled:
    """Tokens under the persons of all videos in one view, from the cache or pooled now and kept."""
    key = {"fingerprint": selection.fingerprint, "sigma": sigma, "view": view}
    path = cache_path(key)
    slots = usable_slots(store, selection)
    cached = read_cache(path)
    if cached is not None and cached.slots.tolist() == slots:
        return cached
    record = store.group("clip", selection.clip).modality.record
    shards = store.iter_shards(
        arrays=("value", "keypoints"), slots=slots, clip=selection.clip, pose=selection.pose, view=view
    )
    pooled = pool_view(shards, view=view, size=int(record["preprocess"]["size"]), sigma=sigma)
    write_cache(path, pooled)
    return pooled


def _pooled_inputs(
    store: FeatureStore, selection: Selection, sigma: float, features: Features, wanted: Sequence[str]
) -> dict[str, Tensor]:
    """The wanted fields of ``Pooled`` for the videos of ``features``: [B, V, T', ...]."""
    views = []
    for view in selection.views:
        pooled = pooled_view(store, selection, sigma, view)
        rows = torch.searchsorted(pooled.slots, features.slots)
        stored = pooled.presence.shape[1]
        frames = torch.arange(selection.frames) * stored // selection.frames
        views.append({name: getattr(pooled, name)[rows][:, frames] for name in wanted})
    return {name: torch.stack([tensors[name] for tensors in views], dim=1) for name in wanted}


def _refuse_non_finite(tensors: Mapping[str, Tensor], features: Features) -> None:
    for name, tensor in tensors.items():
        # The sum of a row is finite if its values are: far cheaper than looking at each, and exact after the recheck.
        sums = torch.stack([row.sum(dtype=torch.float32) for row in tensor])
        suspects = (~sums.isfinite()).nonzero().flatten().tolist()
        bad = [features.video_ids[row] for row in suspects if not tensor[row].isfinite().all()]
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise StoreError(
                f"{name} holds values that are not finite for {', '.join(bad[:5])}{more}; run: "
                "vilp-pipe verify --repair",
                kind="store-corrupt",
            )


def coverage(store: FeatureStore, selection: Selection, split: int) -> dict[str, dict[str, int]]:
    """For ``train`` and ``test`` of a split: videos ``expected``, ``used``, ``quarantined`` and ``missing``.

    Missing are those that are not on the disk and those that are not extracted yet. Raises ``StoreError``
    where a split of an official dataset has more videos than it is defined with.
    """
    summary = store.summary(split, clip=selection.clip, pose=selection.pose)
    official = OFFICIAL_SPLITS.get(store.dataset_name)
    result = {}
    for position, subset in enumerate(("train", "test")):
        counts = summary[subset]
        expected = official[split - 1][position] if official else counts["planned"]
        if counts["planned"] > expected:
            raise StoreError(
                f"{subset} of {store.dataset_name} split {split} has {counts['planned']} videos in {store.url}; the "
                f"official split has {expected}",
                kind="store-mismatch",
            )
        missing = expected - counts["usable"] - counts["quarantined"]
        result[subset] = {
            "expected": expected,
            "used": counts["usable"],
            "quarantined": counts["quarantined"],
            "missing": missing,
        }
    return result


def not_on_disk(store: FeatureStore) -> int:
    """Videos that the dataset's lists name and the plan does not have."""
    return sum(reason == "missing" for reason in store.plan.missing["reason"].to_pylist())


def random_weights(store: FeatureStore, selection: Selection) -> bool:
    """Whether the CLIP model of the features was never trained."""
    return "seed" in store.group("clip", selection.clip).modality.record["weights"]


def default_run_directory(store: FeatureStore, head: str) -> Path:
    """The first free one of ``runs/<store>-<head>``, ``runs/<store>-<head>-2``, ..."""
    name = f"{Path(store.url).name}-{head}"
    candidates = [Path("runs") / name] + [Path("runs") / f"{name}-{number}" for number in range(2, 10_000)]
    return next(path for path in candidates if not path.exists())
