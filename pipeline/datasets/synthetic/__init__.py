"""The embedded default: people rendered from a kinematic model, with the truth about every frame in sidecars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.datasets.base import Dataset, FileInfo, Video, Videos, need_videos, scan_videos
from pipeline.datasets.synthetic.config import CLASSES, NUM_SPLITS, TINY, SyntheticConfig
from pipeline.datasets.synthetic.render import (
    ANNOTATIONS,
    TRUTH,
    Progress,
    read_recipe,
    render_dataset,
    render_sample,
)
from store.errors import UsageError

__all__ = [
    "ANNOTATIONS",
    "CLASSES",
    "TINY",
    "TRUTH",
    "SyntheticConfig",
    "load",
    "preview",
    "read_recipe",
    "render_dataset",
    "render_sample",
]

LICENCE = "CC0-1.0 (rendered)"


def load(root: Path, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The set in ``root``, rendered first where there is none; a set rendered with another config is read as it is."""
    recipe = read_recipe(root)
    if recipe is None:
        render_dataset(root, seed=seed, progress=progress)
    elif recipe["seed"] != seed:
        raise UsageError(
            f"{root} holds a synthetic set of seed {recipe['seed']}, asked for {seed}; give another folder"
        )
    files = scan_videos(root)
    dataset = _listed(root, files)
    return need_videos(dataset, str(root), "delete the folder to render it anew")


def preview(folder: Path, seed: int = 0) -> Dataset:
    """The set as it would be listed in the empty ``folder``, with not one video rendered: their sizes are 0."""
    render_sample(folder, seed=seed)
    paths = pq.read_table(folder / ANNOTATIONS, columns=["path"])["path"].to_pylist()
    return _listed(folder, dict.fromkeys(paths, FileInfo(0, 0)))


def _listed(root: Path, files: Mapping[str, FileInfo]) -> Dataset:
    rows = pq.read_table(root / ANNOTATIONS).to_pylist()
    videos = (
        Video(
            video_id=row["video_id"],
            path=row["path"],
            label=row["label"],
            class_name=row["class_name"],
            source=f"s{row['subject']:02d}",
            splits=tuple(row[f"split{number}"] for number in range(1, NUM_SPLITS + 1)),
            start=None,
            end=None,
            bytes=files[row["path"]].bytes,
            mtime_ns=files[row["path"]].mtime_ns,
        )
        for row in sorted(rows, key=lambda row: row["path"])
        if row["path"] in files
    )
    listed = {row["path"] for row in rows}
    class_names = tuple(name for _, name in sorted({(row["label"], row["class_name"]) for row in rows}))
    return Dataset(
        name="synthetic",
        root=root,
        class_names=class_names,
        num_splits=NUM_SPLITS,
        videos=Videos.of(videos, NUM_SPLITS),
        missing=tuple(sorted(listed - set(files))),
        unlisted=tuple(sorted(set(files) - listed)),
        licence=LICENCE,
        expected_videos=len(rows),
    )
