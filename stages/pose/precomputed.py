"""Poses that are there already: files of other tools, or our own Parquet. ``stages.pose.imports`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.base import Persons, PoseConfig
from stages.pose.imports import open_source
from stages.pose.imports.base import MATCHING, VideoPoses, check_end, check_places, find_entry, match_frames
from stages.pose.imports.heatmaps import HeatmapSource, VideoHeatmaps
from stages.types import Clip, VideoFailure
from store.errors import UsageError, VilpError


class PrecomputedEstimator:
    """The ``precomputed`` backend of the pose stage; ``config.config`` is a file or folder of poses.

    A video that has no entry, or whose entry is not about the frames that are stored, is ``pose-unmatched``. A frame
    that the file does not cover takes the nearest one that it does, see ``match_frames``. Coordinates are pixels of the
    pictures that the file was made from; they become the same fractions of the stored frames.
    """

    def __init__(self, config: PoseConfig) -> None:
        self._source = open_source(config.config)
        self._path = Path(str(config.config))
        self._is_open = False
        self.holds_heatmaps = isinstance(self._source, HeatmapSource)
        if self.holds_heatmaps and config.heatmap is None:
            raise UsageError(
                f"--pose-config is {config.config!r}, heatmaps in which no joint can be told; add --heatmap joints to "
                "store their CLIP embeddings"
            )

    @property
    def name(self) -> str:
        return f"precomputed-{self._path.stem}"

    def record(self) -> dict[str, Any]:
        self._open()  # what cannot be read is refused before a store has a group for it
        return {
            "backend": "precomputed",
            "format": self._source.format,
            "sha256": self._source.digest(),
            "matching": MATCHING,
        }

    def setup(self) -> None:
        self._open()

    def _open(self) -> None:
        if not self._is_open:
            self._source.open()
            self._is_open = True

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        if self.holds_heatmaps:
            return [[Persons.nobody() for _ in clip.video.frames] for clip in clips]
        return [self._clip(clip) for clip in clips]

    def heatmaps(self, clip: Clip, every: int) -> list[np.ndarray] | VideoFailure:
        """A map float32 [h, w] for each ``every``-th frame of a clip, where the files are heatmaps."""
        found = self._read(clip)
        if isinstance(found, VideoFailure):
            return found
        assert isinstance(found, VideoHeatmaps)
        places = match_frames(clip, found.covered, self._path.name)
        if isinstance(places, VideoFailure):
            return places
        try:
            return [found.load(int(place)) for place in places[::every]]
        except UsageError as error:
            return VideoFailure("pose-unmatched", str(error))

    def _clip(self, clip: Clip) -> list[Persons] | VideoFailure:
        found = self._read(clip)
        if isinstance(found, VideoFailure):
            return found
        assert isinstance(found, VideoPoses)
        failure = check_places(clip, found, self._path.name)
        if failure is not None:
            return failure
        wanted = np.asarray(clip.video.indices, np.int64)
        if found.covered is not None:
            places = match_frames(clip, found.covered, self._path.name)
            if isinstance(places, VideoFailure):
                return places
            wanted = found.covered[places]
        elif len(found.frames):
            failure = check_end(clip, int(found.frames[-1]), self._path.name)
            if failure is not None:
                return failure
        height, width = clip.video.frames.shape[1:3]
        source_width, source_height = found.size or (clip.video.width, clip.video.height)
        # For fractions a product with a whole number of pixels, exact in float64: dividing gives the very values back.
        scale = np.array((width / source_width, height / source_height))
        first = np.searchsorted(found.frames, wanted, side="left")
        last = np.searchsorted(found.frames, wanted, side="right")
        return [_persons(found, slice(*rows), scale) for rows in zip(first, last, strict=True)]

    def _read(self, clip: Clip) -> VideoPoses | VideoHeatmaps | VideoFailure:
        video_id = clip.ref.video_id
        key = find_entry(self._source, video_id)
        if key is None:
            return VideoFailure(
                "pose-unmatched",
                f"no entry of {self._path.name} has this video_id; its first is {self._source.example()!r}",
            )
        try:
            return self._source.read(key)
        except VilpError as error:
            return VideoFailure("pose-unmatched", str(error))
        except (KeyError, IndexError, TypeError, ValueError) as error:  # what strangers wrote may hold anything
            return VideoFailure(
                "pose-unmatched",
                f"the entry {key!r} of {self._path.name} cannot be read as {self._source.format} ({error!r})",
            )


def _persons(found: VideoPoses, rows: slice, scale: np.ndarray) -> Persons:
    keypoints = found.keypoints[rows] * (*scale, 1.0)
    boxes = found.boxes[rows] * (*scale, *scale, 1.0)
    return Persons(keypoints, boxes, None if found.persons is None else found.persons[rows])
