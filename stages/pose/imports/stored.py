"""Poses of another group of a feature store, its directory: ``<store>/pose/<id>``.

So heatmaps can be made later of poses that are there, and a store with other frames or classes can take them over.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stages.pose.imports.base import VideoPoses
from store.errors import MissingError, UsageError
from store.groups import of_kind
from store.printable import command
from store.reader import FeatureStore
from store.sealed import canonical


class StoredSource:
    """See ``stages.pose.imports.base.PoseSource``. Extract the group completely first: its contents are its digest."""

    format = "store"

    def __init__(self, folder: Path) -> None:
        self._store = FeatureStore.open(folder.parent.parent)
        self._group = self._store.group("pose", folder.name)
        if "keypoints" not in self._group.modality.arrays:
            raise UsageError(f"{folder} holds no keypoints; name another pose group")

    def digest(self) -> str:
        shards = self._store.commits(self._group).objects.values()
        arrays = {key: value for shard in shards for key, value in shard.items()}
        return hashlib.sha256(canonical(arrays).encode()).hexdigest()

    def open(self) -> None:
        record = self._group.modality.record["frames"]
        frames = [group for group in of_kind(self._store.groups, "frames") if group.modality.record == record]
        if not frames:
            raise MissingError(
                f"{self._group.path} has no frames group; run {command('verify', '--store', self._store.url)}"
            )
        self._frames = frames[0]
        ids = self._store.plan.lookup("slot", "video_id")
        self._slots = {ids[slot]: slot for slot in self._store.usable([self._group, self._frames])}

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    def example(self) -> str:
        return next(iter(self._slots), "nothing")

    def read(self, key: str) -> VideoPoses:
        slots = [self._slots[key]]
        keypoints = self._store.rows(self._group, "keypoints", slots)[0].astype(np.float64)
        boxes = self._store.rows(self._group, "boxes", slots)[0].astype(np.float64)
        # A video shorter than the frame axis repeats frames: one row for each.
        covered, first = np.unique(self._store.rows(self._frames, "index", slots)[0], return_index=True)
        times, persons = np.nonzero((boxes[first] != 0).any(-1))
        places = first[times]
        return VideoPoses(
            covered[times].astype(np.int64),
            keypoints[places, persons],
            boxes[places, persons],
            persons,
            covered=covered.astype(np.int64),
        )
