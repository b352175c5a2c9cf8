"""Reading a store: ``FeatureStore``."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from store.columns import numbers
from store.commits import QUARANTINED, corrupt
from store.errors import MissingError, UsageError, one_of
from store.features import Features, TextSet, on_pose_axis
from store.groups import Group, find_group, read_groups
from store.layout import array_key
from store.objects import Objects, is_remote, open_objects
from store.packs import Commits, read_commits
from store.parallel import each
from store.plan import Plan, read_plan
from store.quarantine import quarantined
from store.schema import ArraySpec
from store.sealed import canonical
from store.shards import DamagedShardError, RowBuffers, read_chunk, read_rows

if TYPE_CHECKING:
    import torch

    from store.torch_dataset import FeatureDataset

SUBSETS = ("train", "test")
POSE_ARRAYS = ("keypoints", "boxes", "heatmap_clip")
VIDEO_ARRAYS = ("video_embedding",)
POSEFEAT_ARRAYS = ("features", "scores", "seen")

# Shards are read side by side from a bucket, and where more than this is read of each: then most of the work is the
# system's copying, or waiting. With less, handing them to threads and back takes longer than reading them.
_LARGE = 8 << 20


class FeatureStore:
    """A store of features, opened for reading.

    Only what is committed is ever seen, and what was damaged on the disk raises ``StoreError`` (``store-corrupt``)
    instead of giving wrong numbers. A store that is still being written can be read; open it again to see what came
    later.
    """

    def __init__(self, objects: Objects, plan: Plan, groups: dict[str, Group]) -> None:
        self._objects = objects
        self._groups = groups
        self._commits: dict[str, Commits] = {}
        self.plan: Plan = plan

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> FeatureStore:
        """Open the store in a directory, or at ``s3://bucket/prefix``. Raises ``StoreError`` where there is none that
        this version can read."""
        objects = open_objects(url)
        return cls(objects, read_plan(objects), read_groups(objects))

    @property
    def url(self) -> str:
        return self._objects.url

    @property
    def dataset_name(self) -> str:
        """Kind of dataset: ``hmdb51``, ``ucf101``, ``folder``, ``manifest`` or ``synthetic``."""
        return self.plan.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names; a label is a position in them."""
        return self.plan.class_names

    @property
    def num_splits(self) -> int:
        """Splits are numbered from 1 to this; 0 where the dataset has none."""
        return self.plan.num_splits

    @property
    def expected_videos(self) -> int | None:
        """How many videos the official dataset has; None where no list says."""
        return self.plan.expected_videos

    @property
    def groups(self) -> dict[str, Group]:
        """All groups by path."""
        return dict(self._groups)

    @cached_property
    def videos(self) -> pa.Table:
        """The plan: one row a slot, with labels, source groups and split columns."""
        return self.plan.videos

    def group(self, kind: str, name: str | None = None) -> Group:
        """The group of a kind (``frames``, ``clip``, ``pose``, ``video``) that an id, or its beginning, picks; None
        where there is one alone. Raises ``MissingError`` (``missing-modality``) where there is none, ``UsageError``
        where several fit."""
        return find_group(self._groups, kind, name)

    def commits(self, group: Group) -> Commits:
        """Commits of a group as they were when they were first asked for, each checked against its hash."""
        if group.path not in self._commits:
            self._commits[group.path] = read_commits(self._objects, group.path, shard_len=self.plan.shard_len)
        return self._commits[group.path]

    def status(self, group: Group) -> pa.Table:
        """Commit row of every committed video of a group, slots ascending: see ``store.commits.CommitRow``."""
        return self.commits(group).table

    def quarantined(self) -> pa.Table:
        """Which videos have no features in which group, and why: see ``store.quarantine``."""
        per_video = [(group, self.commits(group)) for group in self._groups.values() if group.modality.per_video]
        return quarantined(self.plan, per_video, self.url)

    def usable(self, groups: Sequence[Group]) -> list[int]:
        """Slots that have features in all the given groups, ascending."""
        slots = self.plan.slots
        for group in groups:
            slots = np.intersect1d(slots, self._slots_with(group, quarantined=False), assume_unique=True)
        return slots.tolist()

    def _slots_with(self, group: Group, *, quarantined: bool) -> np.ndarray:
        """Slots of a group that are committed as quarantined, or as anything else."""
        commits = self.commits(group)
        return commits.slots[commits.mask("status", QUARANTINED) == quarantined]

    def chosen_groups(self, clip: str | None = None, pose: str | None = None, video: str | None = None) -> list[Group]:
        """The group of an encoder, a video model's where ``video`` is given and else CLIP's, and, where ``pose`` is
        given, that pose group; the latter alone where the store has no CLIP and none is asked for."""
        poses = [self.group("pose", pose)] if pose is not None else []
        if video is not None:
            return [self.group("video", video), *poses]
        alone = poses and clip is None and not any(g.modality.kind == "clip" for g in self._groups.values())
        return poses if alone else [self.group("clip", clip), *poses]

    def fingerprint(
        self,
        *,
        clip: str | None = None,
        pose: str | None = None,
        video: str | None = None,
        texts: Sequence[str] = (),
    ) -> str:
        """SHA-256 over what identifies the numbers of the ``chosen_groups``, and of the text sets ``texts`` (ids) of
        the CLIP group among them: their ids and the hashes of all committed array shards."""
        groups = self.chosen_groups(clip, pose, video)
        sets = [find_group(self._groups, "text", text, parent=groups[0].path) for text in texts]
        parts = {
            g.path: {key: digest for shard in self.commits(g).objects.values() for key, digest in shard.items()}
            for g in (*groups, *sets)
        }
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    def summary(
        self, split: int, *, clip: str | None = None, pose: str | None = None, video: str | None = None
    ) -> dict[str, dict[str, int]]:
        """For ``train`` and ``test`` of a split: how many videos are ``planned`` (present on disk), ``usable`` (have
        features in the given groups) and ``quarantined``; the rest is not extracted yet."""
        groups = self.chosen_groups(clip, pose, video)
        usable = set(self.usable(groups))
        quarantined = {slot for group in groups for slot in self._slots_with(group, quarantined=True).tolist()}
        counts = {}
        for subset in SUBSETS:
            slots = set(self.selected(split, subset))
            counts[subset] = {
                "planned": len(slots),
                "usable": len(slots & usable),
                "quarantined": len(slots & quarantined),
            }
        return counts

    def load(
        self,
        *,
        split: int | None = None,
        subset: str | None = None,
        arrays: Sequence[str] | None = None,
        frames: int | None = None,
        slots: Sequence[int] | None = None,
        clip: str | None = None,
        pose: str | None = None,
        video: str | None = None,
        posefeat: str | None = None,
        view: str | None = None,
        device: str = "cpu",
    ) -> Features:
        """Features of a set of videos as whole tensors.

        split, subset  number of the split and ``train`` or ``test``; without them all videos
        arrays         names; by default every array of the CLIP group and, where the store has them, of the pose group
                       and of the video model's; those of a ``posefeat`` group (one a split) only where they or it are
                       named
        frames         T' of the stored T frames, ``floor(i * T / T')``; by default all
        slots          these slots only
        clip, pose, video, posefeat  id of a group, or its beginning, where the store has several
        view           one stored view; by default all of them
        device         where the tensors go: ``cpu``, ``cuda``, ``cuda:1``, ...

        Videos that are quarantined or not extracted yet are left out: see ``summary``. Shapes and dtypes: ``Features``.

        Raises ``UsageError`` for a split, subset, array, view or number of frames that the store does not have,
        ``MissingError`` (``missing-modality``) where a group is absent, and ``StoreError`` (``store-corrupt``) where a
        byte is not as it was written.
        """
        chosen = self.arrays(arrays, clip, pose, video, posefeat)
        wanted = self._wanted(list(chosen.values()), split, subset, slots)
        return self._features(chosen, wanted, frames, view, device)

    def iter_shards(
        self,
        *,
        split: int | None = None,
        subset: str | None = None,
        arrays: Sequence[str] | None = None,
        frames: int | None = None,
        slots: Sequence[int] | None = None,
        clip: str | None = None,
        pose: str | None = None,
        video: str | None = None,
        posefeat: str | None = None,
        view: str | None = None,
        device: str = "cpu",
    ) -> Iterator[Features]:
        """What ``load`` gives and raises, a shard at a time, so that a split never has to fit into memory."""
        chosen = self.arrays(arrays, clip, pose, video, posefeat)
        wanted = self._wanted(list(chosen.values()), split, subset, slots)
        for shard in sorted({slot // self.plan.shard_len for slot in wanted}):
            inside = [slot for slot in wanted if slot // self.plan.shard_len == shard]
            yield self._features(chosen, inside, frames, view, device)

    def dataset(
        self,
        *,
        split: int | None = None,
        subset: str | None = None,
        arrays: Sequence[str] | None = None,
        frames: int | None = None,
        slots: Sequence[int] | None = None,
        clip: str | None = None,
        pose: str | None = None,
        video: str | None = None,
        posefeat: str | None = None,
        view: str | None = None,
    ) -> FeatureDataset:
        """What ``load`` gives, as a map-style ``torch.utils.data.Dataset`` that reads a video when it is asked for;
        ``.stream()`` of it is an iterable one that reads shard by shard."""
        from store.torch_dataset import FeatureDataset

        chosen = self.arrays(arrays, clip, pose, video, posefeat)
        wanted = self._wanted(list(chosen.values()), split, subset, slots)
        read = partial(self._features, chosen, frames=frames, view=view, device="cpu")
        return FeatureDataset(wanted, read, self.plan.shard_len)

    def text(self, *, clip: str | None = None, text: str | None = None) -> TextSet:
        """Class-name embeddings of a CLIP group. Raises ``MissingError`` where they are not extracted yet."""
        import torch

        group = find_group(self._groups, "text", text, parent=self.group("clip", clip).path)
        arrays = {name: torch.from_numpy(self.whole(group, name)) for name in group.modality.arrays}
        record = group.modality.record
        return TextSet(
            class_names=tuple(record["class_names"]),
            templates=tuple(record["templates"]),
            logit_scale=float(record["logit_scale"]),
            logit_bias=float(record["logit_bias"]),
            **arrays,
        )

    def selected(self, split: int | None = None, subset: str | None = None) -> list[int]:
        """Slots of a split, or of its ``train`` or ``test``, or all: with and without features, ascending."""
        slots = self.plan.slots.tolist()
        if split is None:
            if subset is not None:
                raise UsageError(f"subset is {subset!r} but no split is named; give split=1..{self.num_splits}")
            return slots
        one_of("split", split, tuple(range(1, self.num_splits + 1)))
        if subset is not None:
            one_of("subset", subset, SUBSETS)
        subsets = self.videos[f"split{split}"].to_pylist()
        return [slot for slot, name in zip(slots, subsets, strict=True) if name and subset in (None, name)]

    def _wanted(
        self, groups: list[Group], split: int | None, subset: str | None, slots: Sequence[int] | None
    ) -> list[int]:
        wanted = np.intersect1d(self.selected(split, subset), self.usable(groups), assume_unique=True)
        if slots is not None:
            wanted = np.intersect1d(wanted, np.asarray(slots, np.int64))
        return wanted.tolist()

    def arrays(
        self,
        arrays: Sequence[str] | None = None,
        clip: str | None = None,
        pose: str | None = None,
        video: str | None = None,
        posefeat: str | None = None,
    ) -> dict[str, Group]:
        """Group of every array that ``load`` gives for these arguments, by the array's name."""
        chosen: dict[str, Group] = {}
        known: dict[str, None] = {}
        for kind, name in (("clip", clip), ("pose", pose), ("video", video), ("posefeat", posefeat)):
            candidates = [g for g in self._groups.values() if g.modality.kind == kind]
            offered = dict.fromkeys(array for g in candidates for array in g.modality.arrays)
            known |= offered
            wanted = kind != "posefeat" if arrays is None else offered.keys() & set(arrays)
            if name is not None or (candidates and wanted):
                group = self.group(kind, name)  # raises where several fit
                chosen |= dict.fromkeys(group.modality.arrays, group)
        if arrays is None:
            if not chosen:
                self.group("clip", clip)  # raises, and names the command that adds it
            return chosen
        for array in arrays:
            if array not in chosen:  # these raise, and name the command that adds it
                if array in POSE_ARRAYS:
                    self.group("pose", pose)
                if array in VIDEO_ARRAYS:
                    self.group("video", video)
                if array in POSEFEAT_ARRAYS:
                    self.group("posefeat", posefeat)
            one_of("arrays", array, tuple(chosen or known))
        return {array: chosen[array] for array in arrays}

    def _features(
        self, chosen: dict[str, Group], slots: list[int], frames: int | None, view: str | None, device: str
    ) -> Features:
        import torch

        tensors = {}
        pose_frames = None
        clip_group = next((g for g in chosen.values() if g.modality.kind == "clip"), None)
        pose_group = next((g for g in chosen.values() if g.modality.kind == "pose"), None)
        stored = clip_group.modality.length("frame") if clip_group else 0
        frame_index = _subsample(stored, frames) if clip_group else None
        for name, group in chosen.items():
            values = self.rows(group, name, slots)
            spec = group.modality.arrays[name]
            if "frame" in spec.dims:  # embeddings of heatmaps are on the time axis of CLIP, and in its views
                values = _take(values, spec, "frame", _subsample(spec.shape[spec.dims.index("frame")], frames))
            if "view" in spec.dims and view is not None:
                record = group.modality.record
                views = list((record if group.modality.kind == "clip" else record["heatmap"])["views"])
                one_of("view", view, tuple(views))
                values = _take(values, spec, "view", np.array([views.index(view)]))
            tensors[name] = torch.from_numpy(values).to(device)
        if pose_group is not None and frame_index is not None:
            at = on_pose_axis(frame_index, stored, pose_group.modality.length("pose_frame"))
            pose_frames = torch.from_numpy(at)
        return self._describe(tensors, pose_frames, slots, list(chosen.values())[:1], device)

    def _describe(
        self,
        tensors: dict[str, torch.Tensor],
        pose_frames: torch.Tensor | None,
        slots: list[int],
        groups: list[Group],
        device: str,
    ) -> Features:
        import torch

        wanted = np.asarray(slots, np.int64)
        rows = self.plan.at(wanted, "label", "video_id", "source")
        sizes = np.empty((0, 2), np.float32)
        if groups:
            committed = self.commits(groups[0]).of(wanted, "width", "height")
            sizes = np.stack([numbers(side) for side in committed.columns], axis=1, dtype=np.float32)
        return Features(
            tensors=tensors,
            pose_frames=None if pose_frames is None else pose_frames.to(device),
            labels=torch.from_numpy(numbers(rows["label"]).astype(np.int64)).to(device),
            slots=torch.from_numpy(wanted).to(device),
            sizes=torch.from_numpy(sizes).to(device),
            video_ids=tuple(rows["video_id"].to_pylist()),
            sources=tuple(rows["source"].to_pylist()),
        )

    def rows(self, group: Group, name: str, slots: list[int]) -> np.ndarray:
        """Rows ``[len(slots), ...]`` of one array, in the order of the slots, each checked against its checksum."""
        spec, shard_len = group.modality.arrays[name], self.plan.shard_len
        result = np.empty((len(slots), *spec.shape), dtype=spec.dtype)
        shards, positions = np.divmod(np.asarray(slots, dtype=np.int64), shard_len)

        buffers = RowBuffers(result)

        def read(places: np.ndarray) -> None:
            key = self._array_key(group, name, int(shards[places[0]]))
            if key is None:
                result[places] = spec.fill
                return
            with self._damage(key), self._objects.open(key) as blob:
                read_rows(blob, spec, shard_len, positions[places], buffers, places.tolist())

        order = np.argsort(shards, kind="stable")
        by_shard = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if slots else []
        if is_remote(self.url) or result.nbytes > _LARGE * len(by_shard):
            each(read, by_shard)
        else:
            for places in by_shard:
                read(places)
        return result

    def whole(self, group: Group, name: str) -> np.ndarray:
        """All of an array of a text set, such as ``class_embeddings`` [K, C, D], checked against its hash."""
        spec = group.modality.arrays[name]
        key = self._array_key(group, name, 0)
        if key is None:
            return np.full(spec.shape, spec.fill, spec.dtype)
        with self._damage(key), self._objects.open(key) as blob:
            return read_chunk(blob, spec)

    def _array_key(self, group: Group, name: str, shard: int) -> str | None:
        """Where a committed shard of an array lies; None where its commit says that it is all fill."""
        key = array_key(group.path, name, shard, len(group.modality.arrays[name].shape) + group.modality.per_video)
        vouched = self.commits(group).objects.get(shard)
        if vouched is None:
            raise MissingError(
                f"shard {shard} of {group.path} is not extracted yet; run vilp-pipe extract again",
                kind="missing-modality",
            )
        if key in vouched:
            return key
        # Only a shard of which no video has features has an array that is all fill: else its line of hashes is damaged.
        inside = self._slots_with(group, quarantined=False) // self.plan.shard_len == shard
        if inside.any() or not group.modality.per_video:
            raise corrupt(self._objects, f"the hashes of {self._objects.describe(key)} are damaged")
        return None

    @contextlib.contextmanager
    def _damage(self, key: str) -> Iterator[None]:
        try:
            yield
        except (DamagedShardError, FileNotFoundError) as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
            raise corrupt(self._objects, f"{self._objects.describe(key)} {reason}") from error


def _subsample(stored: int, frames: int | None) -> np.ndarray:
    """Positions of T' frames among the stored T: ``floor(i * T / T')``."""
    if frames is None:
        frames = stored
    if not 1 <= frames <= stored:
        raise UsageError(f"frames is {frames}; allowed: 1 to {stored}, the number that is stored")
    return np.arange(frames) * stored // frames


def _take(values: np.ndarray, spec: ArraySpec, dim: str, index: np.ndarray) -> np.ndarray:
    """Some positions along a named dimension of rows ``[N, *spec.shape]``."""
    axis = spec.dims.index(dim)
    return values if np.array_equal(index, np.arange(spec.shape[axis])) else np.take(values, index, axis=1 + axis)
