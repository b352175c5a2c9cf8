"""Poses that are there already: one Parquet file for a dataset, such as the true poses of the synthetic set.

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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.base import NUM_JOINTS, Persons, PoseConfig, file_digest
from stages.types import Clip, VideoFailure
from store.errors import MissingError, UsageError

COLUMNS = ("video_id", "frame", "person", "keypoints", "box")
KEYPOINT_VALUES, BOX_VALUES = NUM_JOINTS * 3, 5
NOBODY = -1


class PrecomputedEstimator:
    """The ``precomputed`` backend of the pose stage; ``config.config`` is the Parquet file.

    ``setup()`` reads the whole file, about 250 bytes a row, sorted by video.
    """

    def __init__(self, config: PoseConfig) -> None:
        if not config.config:
            raise MissingError("no file of precomputed poses: give --pose-config FILE.parquet", kind="missing-data")
        self._path = Path(config.config)
        if not self._path.is_file():
            raise MissingError(
                f"--pose-config is {config.config!r}, which is not a file; name a Parquet file with the columns "
                f"{', '.join(COLUMNS)}",
                kind="missing-data",
            )

    @property
    def name(self) -> str:
        return f"precomputed-{self._path.stem}"

    def record(self) -> dict[str, Any]:
        return {"backend": "precomputed", "sha256": file_digest(self._path)}

    def setup(self) -> None:
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

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        return [self._clip(clip) for clip in clips]

    def _clip(self, clip: Clip) -> list[Persons] | VideoFailure:
        video_id = clip.ref.video_id
        if video_id not in self._rows:
            return VideoFailure("pose-unmatched", f"{video_id}: no row in {self._path.name} has this video_id")
        start, end = self._rows[video_id]
        height, width = clip.video.frames.shape[1:3]
        frames = self._frame[start:end]
        first = start + np.searchsorted(frames, clip.video.indices, side="left")
        last = start + np.searchsorted(frames, clip.video.indices, side="right")
        return [self._persons(*rows, width=width, height=height) for rows in zip(first, last, strict=True)]

    def _persons(self, first: int, last: int, *, width: int, height: int) -> Persons:
        ids = self._person[first:last]
        rows = self._dense[first:last][ids != NOBODY]
        # Times a whole number of pixels is exact in float64: dividing gives the very fractions of the file back.
        keypoints = self._keypoints[rows] * (width, height, 1.0)
        return Persons(keypoints, self._boxes[rows] * (width, height, width, height, 1.0), ids[ids != NOBODY])

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
