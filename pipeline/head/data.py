"""Inputs of heads, read from a feature store once and kept on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.head.config import HeadConfig
from pipeline.head.pooling import Kept, Pooled, PooledParts, cache_path, pool_view, read_cache, write_cache
from pipeline.head.selection import CLIP_ARRAYS, Selection, encoder_group, stored_frames, usable_slots
from pipeline.head.sides import Flips, flips
from pipeline.head.skeleton import mirror_keypoints, skeletons
from store.errors import MissingError, StoreError
from store.features import Features
from store.printable import command
from store.reader import FeatureStore

POOLED_INPUTS = ("pooled", "presence", "heatmap")
PART_INPUTS = ("parts", "part_presence")


@dataclass(frozen=True)
class Inputs:
    """Inputs of a head for N videos: tensors [N, V, T, ...] by the names in ``config.INPUTS``.

    labels  int64 [N], on the device that computes; the tensors are there too, unless they did not fit
    frames  T' of the T frames that a head reads; None: all of them
    flips   how to use mirrored views, where there are some and a class names a side
    notes   what a reader of the figures has to know
    """

    tensors: dict[str, Tensor]
    labels: Tensor
    slots: Tensor
    video_ids: tuple[str, ...]
    sources: tuple[str, ...]
    frames: int | None = None
    flips: Flips | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def views(self) -> int:
        return next(iter(self.tensors.values())).shape[1]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def stored_frames(self) -> int:
        """T of the tensors on CLIP's time axis; of skeletons where there is nothing else."""
        return next(iter(self.tensors.values())).shape[2]

    @property
    def num_frames(self) -> int:
        """T'."""
        return self.frames or self.stored_frames

    def segments(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """T' of the T frames for each of ``count`` videos, int64 [count, T']: the first of each of T' equal segments,
        or, drawn from ``generator``, a random one of it. None where T' is T."""
        if self.num_frames == self.stored_frames:
            return None
        bounds = torch.arange(self.num_frames + 1) * self.stored_frames // self.num_frames
        start, length = bounds[:-1].expand(count, -1), bounds.diff()
        if generator is None:
            return start
        return start + (torch.rand(start.shape, generator=generator) * length).long()

    def leave_device(self) -> None:
        """Take the tensors off the device, which makes room on it; their batches are then sent one by one."""
        for name, tensor in self.tensors.items():
            self.tensors[name] = tensor.cpu()

    def rows(self, index: Tensor) -> Inputs:
        """Those of some videos: ``index`` int64 [M]."""
        picked = index.tolist()
        return replace(
            self,
            tensors={name: tensor[index.to(tensor.device)] for name, tensor in self.tensors.items()},
            labels=self.labels[index.to(self.device)],
            slots=self.slots[index],
            video_ids=tuple(self.video_ids[i] for i in picked),
            sources=tuple(self.sources[i] for i in picked),
        )

    def only(self, names: Sequence[str], **others: Tensor) -> Inputs:
        """Some of the tensors, with those in ``others`` in place of their own."""
        return replace(self, tensors={name: others[name] if name in others else self.tensors[name] for name in names})


class Batches:
    """Takes batches out of inputs, on the device of the labels: in float32, patch tokens in ``tokens``.

    On a CPU the token grids are converted row by row into a buffer that is kept: a fresh allocation of this size costs
    more than the copy. A batch is therefore valid until the next one is taken.
    """

    def __init__(self, inputs: Inputs, *, tokens: torch.dtype = torch.float32) -> None:
        self._tokens = tokens
        self._flat = {name: tensor.flatten(0, 1) for name, tensor in inputs.tensors.items()}
        self._views = inputs.views
        self.device = inputs.device
        self._buffers: dict[str, Tensor] = {}

    def take(self, rows: Tensor, views: Tensor, frames: Tensor | None = None) -> dict[str, Tensor]:
        """Videos ``rows`` [B], each in its view of ``views`` [B], at its ``frames`` [B, T'] on CLIP's time axis, None
        for all of them; all int64, on the CPU."""
        index = rows * self._views + views
        return {
            name: self._rows(name, tensor, index, None if name == "skeleton" else frames)
            for name, tensor in self._flat.items()
        }

    def _rows(self, name: str, tensor: Tensor, index: Tensor, frames: Tensor | None) -> Tensor:
        if name == "tokens" and tensor.device.type == self.device.type == "cpu":
            return self._token_rows(tensor, index, frames)
        if frames is None:
            taken = tensor.index_select(0, index.to(tensor.device))
        else:
            flat = (index.unsqueeze(1) * tensor.shape[1] + frames).flatten().to(tensor.device)
            taken = tensor.flatten(0, 1).index_select(0, flat).unflatten(0, frames.shape)
        return taken.to(self.device, self._tokens if name == "tokens" else torch.float32)

    def _token_rows(self, tensor: Tensor, index: Tensor, frames: Tensor | None) -> Tensor:
        shape = tensor.shape[1:] if frames is None else torch.Size((frames.shape[1], *tensor.shape[2:]))
        buffer = self._buffers.get("tokens")
        if buffer is None or len(buffer) < len(index) or buffer.shape[1:] != shape:
            buffer = self._buffers["tokens"] = torch.empty(len(index), *shape, dtype=self._tokens)
        for position, row in enumerate(index.tolist()):
            buffer[position].copy_(tensor[row] if frames is None else tensor[row, frames[position]])
        return buffer[: len(index)]


def load_inputs(
    store: FeatureStore,
    selection: Selection,
    config: HeadConfig,
    *,
    split: int | None,
    subset: str | None,
    device: str,
    every_frame: bool = False,
    slots: Sequence[int] | None = None,
) -> Inputs:
    """The inputs of a head for one subset of a split (of all videos where both are None), on ``device``; with ``slots``
    of these videos alone.

    With ``every_frame`` all stored frames are there, of which a head reads T' (``Inputs.frames``). What does not fit
    into the memory of the device stays outside and is sent batch by batch; ``Inputs.notes`` says so.

    Raises ``StoreError`` (``store-corrupt``) with the names of videos that hold NaN or infinity.
    """
    derived = (*POOLED_INPUTS, *PART_INPUTS, "skeleton")
    direct = {name: _array(name, config) for name in config.inputs if name not in derived}
    encoder = encoder_group(store, selection)
    stored = stored_frames(encoder) if encoder else selection.frames
    count = stored if every_frame else selection.frames
    usable = set(usable_slots(store, selection))
    features = store.load(
        split=split,
        subset=subset,
        arrays=tuple(direct.values()) or ("keypoints",),
        frames=count if direct else None,
        slots=sorted(usable if slots is None else usable & set(slots)),
        pose=selection.pose,
        **(selection.encoder_id if direct else {}),
    )
    if not len(features):
        raise no_features(store, f"{subset} of split {split}" if split is not None else store.dataset_name)
    positions = torch.arange(count) * stored // count
    tensors = {}
    for name, array in direct.items():
        tensors[name] = _as_view(name, features[array]) if config.encoder == "video" else features[array]
    tensors |= _pooled_inputs(store, selection, config, features.slots, positions)
    if "skeleton" in config.inputs:
        tensors["skeleton"] = load_skeletons(store, selection, features.slots.tolist())
    tensors = _wanted_views(store, selection, {name: tensors[name] for name in config.inputs})
    _refuse_non_finite(tensors, features)
    tensors, notes = _resident(tensors, device)
    return Inputs(
        tensors=tensors,
        labels=features.labels.to(device),
        slots=features.slots,
        video_ids=features.video_ids,
        sources=features.sources,
        frames=selection.frames if every_frame else None,
        flips=flips(store.class_names, selection.views),
        notes=notes,
    )


def no_features(store: FeatureStore, where: str) -> MissingError:
    """The error that ``where``, a part of the dataset, has no video that can be read."""
    return MissingError(
        f"{where} has no video with features in {store.url}; run {command('status', '--store', store.url)}"
    )


def _as_view(name: str, clips: Tensor) -> Tensor:
    """Embeddings of clips [B, K, D] as the frames [B, 1, K, D] or the only tokens [B, 1, K, 1, 1, D] of one view."""
    return clips.unsqueeze(1) if name == "frames" else clips[:, None, :, None, None]


def _array(name: str, config: HeadConfig) -> str:
    if config.encoder == "video":
        return "video_embedding"
    if name == "tokens":
        return config.tokens
    return "heatmap_clip" if name == "pose_embedding" else CLIP_ARRAYS[name]


def _wanted_views(store: FeatureStore, selection: Selection, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors read with all stored views, in the selection's views; the others have those already."""
    encoder = encoder_group(store, selection)
    if encoder is None:
        return tensors
    stored = list(encoder.modality.record["views"])
    if list(selection.views) == stored:
        return tensors
    index = [stored.index(view) for view in selection.views if view in stored]
    made = (*POOLED_INPUTS, *PART_INPUTS, "skeleton")
    return {name: tensor if name in made else tensor[:, index] for name, tensor in tensors.items()}


def pooled_view(store: FeatureStore, selection: Selection, config: HeadConfig, view: str, kept: type[Kept]) -> Kept:
    """Tokens under the persons (or under their parts) of all videos in one view, from the cache or pooled now."""
    maps = {"sigma": config.sigma, "persons": config.persons, "view": view}
    path = cache_path({"fingerprint": selection.fingerprint, **maps, "kept": kept.__name__})
    slots = usable_slots(store, selection)
    cached = read_cache(path, kept)
    if cached is not None and cached.slots.tolist() == slots:
        return cached
    shards = store.iter_shards(
        arrays=("value", "keypoints"), slots=slots, clip=selection.clip, pose=selection.pose, view=view
    )
    pooled = pool_view(shards, kept, config, view=view, size=view_size(store, selection))
    write_cache(path, pooled)
    return pooled


def view_size(store: FeatureStore, selection: Selection) -> int:
    """Side of the model's input in pixels."""
    return int(store.group("clip", selection.clip).modality.record["preprocess"]["size"])


def _pooled_inputs(
    store: FeatureStore, selection: Selection, config: HeadConfig, slots: Tensor, positions: Tensor
) -> dict[str, Tensor]:
    """The wanted fields of what is pooled, at some frames of some videos: [B, V, T', ...]."""
    wanted = [name for name in config.inputs if name in (*POOLED_INPUTS, *PART_INPUTS)]
    views: list[dict[str, Tensor]] = []
    for view in selection.views if wanted else ():
        found: dict[str, Tensor] = {}
        if not set(wanted).isdisjoint(POOLED_INPUTS):
            pooled = pooled_view(store, selection, config, view, Pooled)
            found |= {name: getattr(pooled, name)[torch.searchsorted(pooled.slots, slots)] for name in POOLED_INPUTS}
        if not set(wanted).isdisjoint(PART_INPUTS):
            parts = pooled_view(store, selection, config, view, PooledParts)
            found |= {name: getattr(parts, name)[torch.searchsorted(parts.slots, slots)] for name in PART_INPUTS}
        views.append(found)
    return {name: torch.stack([of_view[name][:, positions] for of_view in views], dim=1) for name in wanted}


def load_skeletons(
    store: FeatureStore, selection: Selection, slots: Sequence[int], order: Tensor | None = None
) -> Tensor:
    """Skeletons of some videos in every view, float16 [B, V, Ts, Q, F]: mirrored in the view ``flip``. ``order`` int64
    [B, Tp] puts the stored poses of each video into another order first."""
    parts, start = [], 0
    for features in store.iter_shards(arrays=("keypoints",), slots=slots, pose=selection.pose):
        keypoints, aspect = features["keypoints"], features.sizes[:, 0] / features.sizes[:, 1]
        if order is not None:
            keypoints = torch.stack([k[o] for k, o in zip(keypoints, order[start:], strict=False)])
            start += len(keypoints)
        views = [mirror_keypoints(keypoints) if view == "flip" else keypoints for view in selection.views]
        parts.append(torch.stack([skeletons(points, aspect) for points in views], dim=1).half())
    return torch.cat(parts)


def _resident(tensors: dict[str, Tensor], device: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``tensors`` on the device, or as they are with a note that says so."""
    try:
        return {name: _move(tensor, device) for name, tensor in tensors.items()}, ()
    except torch.OutOfMemoryError:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return tensors, (does_not_fit(tensors, device),)


def does_not_fit(tensors: Mapping[str, Tensor], device: str) -> str:
    """What a reader of the figures has to know of features that are not on the device."""
    size = sum(tensor.nbytes for tensor in tensors.values()) / 2**30
    return (
        f"the features ({size:.1f} GiB) do not fit into the memory of {device}: they stay outside and are sent "
        "batch by batch, which is slower; fewer --frames need less"
    )


def _move(tensor: Tensor, device: str) -> Tensor:
    return tensor.to(device)


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
