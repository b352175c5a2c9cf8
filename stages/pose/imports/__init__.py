"""Poses that other tools have made: which file or folder is read how."""

from __future__ import annotations

import os
from pathlib import Path

from stages.pose.imports.base import PoseSource
from store.errors import MissingError, UsageError

FORMATS = (
    "Parquet (.parquet), a skeleton pickle of mmaction2 (.pkl), COCO or AlphaPose JSON (.json), a folder of OpenPose "
    "JSON, of COCO or AlphaPose JSON, or of heatmaps (.npy), or a pose group of a store"
)


def open_source(name: str | None) -> PoseSource:
    """The source that a path names, known by the names of files. Reads none of them.

    Raises ``MissingError`` where nothing is there, ``UsageError`` where it is nothing that is known.
    """
    if not name:
        raise MissingError(f"no precomputed poses: give --pose-config PATH of {FORMATS}", kind="missing-data")
    path = Path(name)
    if not path.exists():
        raise MissingError(
            f"--pose-config is {name!r}, which is not a file or folder; allowed: {FORMATS}", kind="missing-data"
        )
    source = _of_folder(path) if path.is_dir() else _of_file(path)
    if source is None:
        raise UsageError(f"--pose-config is {name!r}, whose format is not known; allowed: {FORMATS}")
    return source


def _of_file(path: Path) -> PoseSource | None:
    from stages.pose.imports.detections import DetectionsSource
    from stages.pose.imports.mmaction import MMActionSource
    from stages.pose.imports.parquet import ParquetSource

    if path.suffix == ".parquet":
        return ParquetSource(path)
    if path.suffix in (".pkl", ".pickle"):
        return MMActionSource(path)
    return DetectionsSource(path, [path]) if path.suffix == ".json" else None


def _of_folder(root: Path) -> PoseSource | None:
    from stages.pose.imports.detections import DetectionsSource
    from stages.pose.imports.heatmaps import HeatmapSource
    from stages.pose.imports.openpose import SUFFIX, OpenPoseSource

    if (root / "zarr.json").is_file() and root.parent.name == "pose":
        from stages.pose.imports.stored import StoredSource

        return StoredSource(root)
    files = [Path(folder, name) for folder, _, names in sorted(os.walk(root)) for name in sorted(names)]
    if any(file.name.endswith(SUFFIX) for file in files):
        return OpenPoseSource(root, files)
    if any(file.suffix == ".json" for file in files):
        return DetectionsSource(root, files)
    return HeatmapSource(root, files) if any(file.suffix == ".npy" for file in files) else None
