"""The videos of an export: their keys, facts and arrays."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from store.commits import OK, PARTIAL
from store.errors import StoreError
from store.groups import Group
from store.reader import FeatureStore
from store.schema import slug
from store.sealed import canonical
from store.torch_dataset import FeatureDataset

# Enough to tell videos apart at a glance; the slot makes a key unique.
_NAME_LENGTH = 60
# What is said of a text set beside its arrays: see ``store.features.TextSet``.
_TEXT_FACTS = ("class_names", "templates", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class Sample:
    """One video: ``arrays`` are the bytes of its .npy files by name, ``facts`` its row in the index."""

    key: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, bytes]


@dataclass(frozen=True)
class Samples:
    """N videos with features, in the order of their slots.

    arrays    group of every array by name
    texts     text sets of the CLIP group that is among them, by id: class names as the model embeds them
    table     key, slot, video_id, path, label, class_name, source, splits, status, width and height, one row a video
    left_out  videos of the selection that have no features
    """

    store: FeatureStore
    dataset: FeatureDataset
    arrays: Mapping[str, Group]
    texts: Mapping[str, Group]
    table: pa.Table
    selection: Mapping[str, Any]
    left_out: int

    @staticmethod
    def of(
        store: FeatureStore,
        split: int | None,
        subset: str | None,
        arrays: Sequence[str] | None,
        frames: int | None,
        view: str | None,
        clip: str | None,
        pose: str | None,
        video: str | None = None,
        posefeat: str | None = None,
    ) -> Samples:
        """The selection that ``FeatureStore.load`` makes of the same arguments."""
        names: dict[str, Any] = {"clip": clip, "pose": pose, "video": video, "posefeat": posefeat}
        dataset = store.dataset(split=split, subset=subset, arrays=arrays, frames=frames, view=view, **names)
        chosen = store.arrays(arrays, **names)
        for name in chosen:
            # They become names of files, and a store may be a stranger's.
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise StoreError(f"{store.url} names an array {name!r}; it is no store of ours", kind="store-format")
        selection = {"split": split, "subset": subset, "frames": frames, "view": view}
        planned = len(store.selected(split, subset))
        table = _table(store, np.asarray(dataset.slots, np.int64), list(chosen.values()))
        clips = {group.path for group in chosen.values() if group.modality.kind == "clip"}
        texts = {
            group.modality.id: group
            for group in store.groups.values()
            if group.modality.parent in clips and _is_written(store, group)
        }
        return Samples(store, dataset, chosen, texts, table, selection, planned - len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def keys(self) -> list[str]:
        return self.table["key"].to_pylist()

    def file(self, position: int, array: str) -> str:
        """Where an array of a video lies among .npy files."""
        return f"{array}/{self.keys[position]}.npy"

    def files(self, array: str) -> list[str]:
        return [self.file(position, array) for position in range(len(self))]

    def read(self, positions: Sequence[int]) -> list[Sample]:
        """Some of the videos, in the given order."""
        slots = [self.dataset.slots[position] for position in positions]
        features = self.dataset.read(sorted(slots))
        rows = {int(slot): row for row, slot in enumerate(features.slots)}
        facts = self.table.take(pa.array(positions, pa.int64())).to_pylist()
        return [
            Sample(fact["key"], fact, {name: npy_bytes(features[name][rows[slot]].numpy()) for name in self.arrays})
            for slot, fact in zip(slots, facts, strict=True)
        ]

    def text_files(self) -> dict[str, bytes]:
        """The .npy files of the text sets by name, such as ``text/<id>/class_embeddings.npy``."""
        return {
            f"text/{name}/{array}.npy": npy_bytes(self.store.whole(group, array))
            for name, group in self.texts.items()
            for array in group.modality.arrays
        }

    def about(self) -> dict[str, Any]:
        """What is exported, as plain JSON values; others for other features, labels or selections."""
        first = self.dataset.read(self.dataset.slots[:1])
        frames = first.pose_frames
        return {
            "format": "vilp-export",
            "version": 1,
            "dataset": self.store.dataset_name,
            "licence": self.store.plan.licence,
            "class_names": list(self.store.class_names),
            "videos": len(self),
            "selection": dict(self.selection),
            "arrays": {
                name: {
                    "shape": list(first[name].shape[1:]),
                    "dtype": group.modality.arrays[name].dtype,
                    "dims": list(group.modality.arrays[name].dims),
                    "group": group.path,
                }
                for name, group in self.arrays.items()
            },
            "texts": {
                name: {
                    **{key: group.modality.record[key] for key in _TEXT_FACTS},
                    "arrays": {
                        array: {"shape": list(spec.shape), "dtype": spec.dtype, "dims": list(spec.dims)}
                        for array, spec in group.modality.arrays.items()
                    },
                    "group": group.path,
                }
                for name, group in self.texts.items()
            },
            # For each CLIP frame its position on the axis of pose frames.
            "pose_frames": None if frames is None else frames.tolist(),
            "sha256": self._digest(),
        }

    def _digest(self) -> str:
        """Over the hashes of all shards that are read, and over what is said of the videos."""
        paths = sorted({group.path for group in (*self.arrays.values(), *self.texts.values())})
        shards = {
            path: {str(n): dict(found) for n, found in self.store.commits(self.store.groups[path]).objects.items()}
            for path in paths
        }
        facts = self.table.to_pylist()
        return hashlib.sha256(canonical([shards, facts]).encode()).hexdigest()


def _is_written(store: FeatureStore, text: Group) -> bool:
    """Whether a text set has been computed, and has names for files: a store may be a stranger's."""
    for name in (text.modality.id, *text.modality.arrays):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise StoreError(f"{store.url} names a text {name!r}; it is no store of ours", kind="store-format")
    return bool(store.commits(text).objects)


def npy_bytes(values: np.ndarray) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def key_of(slot: int, video_id: str) -> str:
    """A name for a file that holds nothing but digits, lower-case letters and hyphens, and sorts by slot."""
    return f"{slot:08d}-{slug(video_id)[:_NAME_LENGTH].rstrip('-')}"


def _table(store: FeatureStore, slots: np.ndarray, groups: Sequence[Group]) -> pa.Table:
    splits = [f"split{number}" for number in range(1, store.num_splits + 1)]
    table = store.plan.at(slots, "slot", "video_id", "path", "label", "class_name", "source", *splits)
    commits = [store.commits(group) for group in groups]
    partial = np.zeros(len(slots), bool)
    for found in commits:
        partial |= np.isin(slots, found.slots[found.mask("status", PARTIAL)])
    sizes = commits[0].of(slots, "width", "height")
    keys = [key_of(int(slot), name) for slot, name in zip(slots, table["video_id"].to_pylist(), strict=True)]
    table = table.add_column(0, "key", pa.array(keys, pa.string()))
    table = table.append_column("status", pa.array(np.where(partial, PARTIAL, OK).tolist(), pa.string()))
    for name in ("width", "height"):
        table = table.append_column(name, sizes[name])
    return table
