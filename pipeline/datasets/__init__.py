"""Datasets: where the videos are, what their labels are, and which split they belong to.

from pipeline.datasets import load_dataset
dataset = load_dataset("ucf101", "data/ucf101")
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.datasets import folder, hmdb51, manifest, ucf101
from pipeline.datasets.base import Dataset, Video
from store.errors import UsageError, one_of

__all__ = ["DATASETS", "Dataset", "Video", "default_root", "load_dataset", "video_root"]

DATASETS = ("ucf101", "hmdb51", "folder", "manifest", "synthetic")


def default_root(name: str) -> Path:
    """``$VILP_DATA/<name>``, or ``data/<name>`` in the working directory."""
    return Path(os.environ.get("VILP_DATA") or "data") / name


def video_root(name: str, root: str | Path) -> Path:
    """The folder that the paths of a dataset's videos are relative to: its root, or that of the manifest's file."""
    path = Path(root)
    return path.parent if name == "manifest" and path.suffix in (".csv", ".parquet") else path


def load_dataset(
    name: str, root: str | Path | None = None, *, splits_dir: str | Path | None = None, seed: int = 0
) -> Dataset:
    """The dataset ``name``, one of ``DATASETS``.

    root        folder of the dataset, or the file of a manifest; ``default_root(name)`` unless given
    splits_dir  folder of the official split lists, for ucf101 and hmdb51 where they are not beside the videos
    seed        of what is made here: the split of a folder that has none, and the rendering of the synthetic set

    Reads names and file times only; opens no video. The synthetic set is rendered where it is not there yet.
    Raises ``UsageError`` for an unknown name or lists that are not what they should be, ``MissingError`` where there is
    no video or no list.
    """
    one_of("dataset", name, DATASETS)
    where = Path(root) if root is not None else default_root(name)
    lists = Path(splits_dir) if splits_dir is not None else None
    if lists is not None and name not in ("ucf101", "hmdb51"):
        raise UsageError(f"--splits is for ucf101 and hmdb51; the splits of {name} come with it, leave it out")
    if name == "ucf101":
        return ucf101.load(where, lists)
    if name == "hmdb51":
        return hmdb51.load(where, lists)
    if name == "folder":
        return folder.load(where, seed)
    if name == "manifest":
        return manifest.load(where)
    from pipeline.datasets import synthetic  # OpenCV and PyAV, which the others do without

    return synthetic.load(where, seed)
