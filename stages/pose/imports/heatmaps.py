"""Heatmap files as ViLP's release makes them: ``<video>/img_<number>.npy``, one array [h, w] a frame.

A value is the highest of all body parts' confidences there; no joint can be told from another, so what comes of these
files is the CLIP embedding of the map (``heatmap_clip``) and no keypoints. The maps were made from pictures that had
been stretched to the estimator's input, so a map covers the whole frame whatever its own aspect ratio is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.pose.imports.base import digest_of_files, first_number, split_number
from store.errors import UsageError


@dataclass(frozen=True)
class VideoHeatmaps:
    """The maps of one video: the frames that have one (int64, ascending, from 0), and where each lies."""

    covered: np.ndarray
    files: tuple[Path, ...]

    def load(self, place: int) -> np.ndarray:
        """The map of frame ``covered[place]``: float32 [h, w], 0..1."""
        path = self.files[place]
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UsageError(f"{path} cannot be read as an array ({error}); make it again") from None
        if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
            raise UsageError(f"{path} is {values.dtype} {list(values.shape)}; allowed: numbers [height, width]")
        return np.nan_to_num(values.astype(np.float32)).clip(0, 1)


class HeatmapSource:
    """See ``stages.pose.imports.base.PoseSource``."""

    format = "heatmaps"

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._files = [file for file in files if file.suffix == ".npy"]

    def digest(self) -> str:
        return digest_of_files(self._root, self._files)

    def open(self) -> None:
        self._entries: dict[str, dict[int, Path]] = {}
        for file in self._files:
            found = split_number(file.stem)
            if found is None:
                raise UsageError(f"{file} has no frame number; allowed: <video>/img_<number>.npy")
            key = file.parent.relative_to(self._root).as_posix()
            self._entries.setdefault(key, {})[found[1]] = file
        self._first = first_number(number for numbers in self._entries.values() for number in numbers)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def example(self) -> str:
        return next(iter(self._entries), "nothing")

    def read(self, key: str) -> VideoHeatmaps:
        numbers = sorted(self._entries[key])
        covered = np.array(numbers, np.int64) - self._first
        return VideoHeatmaps(covered, tuple(self._entries[key][number] for number in numbers))
