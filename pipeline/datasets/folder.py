"""A directory a class: ``<class>/**/*.mp4``, or the same below ``train/`` and ``test/`` (or ``val/``)."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from pipeline.datasets.base import (
    TEST,
    TRAIN,
    UNUSED,
    Dataset,
    Video,
    Videos,
    need_folder,
    need_videos,
    scan_videos,
    stem,
    unique_ids,
)
from store.errors import UsageError

VAL = "val"
HINT = "put a folder of videos a class there, or pass --root DIR"
TRAIN_SHARE = 0.7


def load(root: Path, seed: int) -> Dataset:
    """One split: the one on disk, or else a stratified one, 70 in 100 for training, by a hash of path and seed.

    Where ``train/``, ``val/`` and ``test/`` are all there, ``val/`` is in neither subset; beside ``train/`` alone it is
    the test set. Each video is a source of its own, as nothing says otherwise. Missing are links that lead nowhere.

    Raises ``UsageError`` where only a part of the folders is such a split.
    """
    need_folder(root, "folder", HINT)
    dangling: list[str] = []
    files = scan_videos(root, dangling=dangling)
    tops = {path.split("/")[0] for path in files if "/" in path}
    split_on_disk = TRAIN in tops and tops in ({TRAIN, TEST}, {TRAIN, VAL}, {TRAIN, TEST, VAL})
    if TRAIN in tops and not split_on_disk:
        _refuse_half_a_split(root, tops, nested=all(path.count("/") > 1 for path in files if "/" in path))
    depth = 1 if split_on_disk else 0
    class_of = {path: parts[depth] for path in files if len(parts := PurePosixPath(path).parts) > depth + 1}
    class_names = tuple(sorted(set(class_of.values())))
    if split_on_disk:
        subset_of = {TRAIN: TRAIN, TEST: TEST, VAL: UNUSED if TEST in tops else TEST}
        subsets = {path: subset_of[path.split("/")[0]] for path in class_of}
    else:
        subsets = _stratified(class_of, seed)
    paths = list(class_of)
    videos = (
        Video(
            video_id=video_id,
            path=path,
            label=class_names.index(class_of[path]),
            class_name=class_of[path],
            source=stem(path),
            splits=(subsets[path],),
            start=None,
            end=None,
            bytes=files[path].bytes,
            mtime_ns=files[path].mtime_ns,
        )
        for path, video_id in zip(paths, unique_ids(paths, [stem(path) for path in paths]), strict=True)
    )
    dataset = Dataset(
        name="folder",
        root=root,
        class_names=class_names,
        num_splits=1,
        videos=Videos.of(videos, 1),
        missing=tuple(sorted(dangling)),
        unlisted=tuple(path for path in files if path not in class_of),
        licence="unknown",
        expected_videos=None,
    )
    return need_videos(dataset, f"{root}/<class>/", HINT)


def _refuse_half_a_split(root: Path, tops: set[str], *, nested: bool) -> None:
    """Raise ``UsageError`` where ``train/`` would count as a class and is none: alone with folders of classes in it, or
    beside ``test/`` or ``val/`` and something else. A class may be called train, as vehicles are."""
    others = ", ".join(f"{top}/" for top in sorted(tops - {TRAIN, TEST, VAL}))
    if tops == {TRAIN} and nested:
        raise UsageError(
            f"{root} holds train/ and no test/; put test/ (or val/) beside it, or pass --root {root / TRAIN} to have "
            "its videos split"
        )
    if tops & {TEST, VAL} and others:
        raise UsageError(f"{root} holds train/ and test/ or val/, and {others} beside them; move {others} elsewhere")


def _stratified(class_of: dict[str, str], seed: int) -> dict[str, str]:
    """Subsets by path; a class with two videos or more has one in each subset."""
    by_class: dict[str, list[str]] = {}
    for path, class_name in class_of.items():
        by_class.setdefault(class_name, []).append(path)
    subsets: dict[str, str] = {}
    for paths in by_class.values():
        paths = sorted(paths, key=lambda path: hashlib.sha256(f"{seed}:{path}".encode()).digest())
        num_train = max(1, min(len(paths) - 1, round(TRAIN_SHARE * len(paths))))
        subsets |= {path: TRAIN if position < num_train else TEST for position, path in enumerate(paths)}
    return subsets
