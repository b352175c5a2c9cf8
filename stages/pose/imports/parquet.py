"""Poses in one Parquet file for a dataset, such as the true poses of the synthetic set.

One row a person and frame; coordinates are fractions of the frame's width and height:

================  =============  ==============================================================================
column            type           meaning
================  =============  ==============================================================================
``video_id``      string         as in the plan
``frame``         integer        position among the frames that decode, from 0
``person``        integer        who, through the video; -1: a row that says nobody is there
``keypoints``     list of 51     17 x (x, y, confidence 0..1), COCO order
``box``           list of 5      x1, y1, x2, y2, score
================  =============  ==============================================================================

A frame without a row has nobody. A video without a row is not matched, which is a failure of that video: a video in
which nobody ever appears is told by one row with person -1 (its keypoints and box may be null).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.coco import NUM_JOINTS
from stages.pose.imports.base import VideoPoses, digest_of_files
from store.errors import UsageError

COLUMNS = ("video_id", "frame", "person", "keypoints", "box")
KEYPOINT_VALUES, BOX_VALUES = NUM_JOINTS * 3, 5
NOBODY = -1


class ParquetSource:
    """See ``stages.pose.imports.base.PoseSource``. Opening reads the whole file, about 250 bytes a row."""

    format = "parquet"

    def __init__(self, path: Path) -> None:
        self._path = path

    def digest(self) -> str:
        return digest_of_files(self._path, [self._path])

    def open(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            missing = set(COLUMNS) - set(pq.read_schema(self._path).names)
            if missing:
                raise UsageError(f"{self._path} has no column {min(missing)!r}; needed: {', '.join(COLUMNS)}")
            table = pq.read_table(self._path, columns=list(COLUMNS))
        except pa.ArrowInvalid as error:
            raise UsageError(f"{self._path} cannot be read as Parquet ({error}); name another file") from None
        table = table.sort_by([(name, "ascending") for name in COLUMNS[:3]]).combine_chunks()
        self._frame, self._person = (table[name].to_numpy() for name in ("frame", "person"))
        # Rows that say nobody hold no coordinates: what is dense is the others, found through their running count.
        there = self._person != NOBODY
        self._dense = np.cumsum(there) - 1
        self._keypoints = self._values(table.filter(pa.array(there)), "keypoints", KEYPOINT_VALUES)
        self._boxes = self._values(table.filter(pa.array(there)), "box", BOX_VALUES)
        video_ids = np.asarray(table["video_id"].to_pylist(), dtype=object)
        twice = there[1:] & (video_ids[1:] == video_ids[:-1])
        twice &= (self._frame[1:] == self._frame[:-1]) & (self._person[1:] == self._person[:-1])
        if twice.any():
            row = int(twice.argmax())
            raise UsageError(
                f"{self._path}: video {video_ids[row]!r}, frame {self._frame[row]} has person {self._person[row]} "
                "twice; allowed: one row a person and frame"
            )
        ids, starts = np.unique(video_ids, return_index=True)
        self._rows = dict(zip(ids, zip(starts, [*starts[1:], len(table)], strict=True), strict=True))

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def example(self) -> str:
        return next(iter(self._rows), "nothing")

    def read(self, key: str) -> VideoPoses:
        start, end = self._rows[key]
        there = self._person[start:end] != NOBODY
        rows = self._dense[start:end][there]
        return VideoPoses(
            self._frame[start:end][there],
            self._keypoints[rows].astype(np.float64),
            self._boxes[rows].astype(np.float64),
            self._person[start:end][there],
        )

    def _values(self, table: Any, column: str, count: int) -> np.ndarray:
        import pyarrow.compute as pc

        values = np.zeros((len(table), count), dtype=np.float32)
        if len(table):
            array = table[column].combine_chunks()
            lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            if (lengths != count).any():
                row = int(np.flatnonzero(lengths != count)[0])
                raise UsageError(
                    f"{self._path}: {column} of video {table['video_id'][row].as_py()!r}, frame "
                    f"{table['frame'][row].as_py()} has {lengths[row]} values; allowed: {count}"
                )
            values = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, count)
        return values.reshape(-1, NUM_JOINTS, 3) if count == KEYPOINT_VALUES else values
