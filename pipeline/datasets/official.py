"""Datasets with official lists: videos below a root, matched with lists beside them or in a folder of their own.

``hmdb51`` and ``ucf101`` say what is theirs alone: what the dataset is, and how its lists are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.base import Dataset, FileInfo, Video, Videos, need_folder, need_videos, scan_videos, stem
from store.errors import MissingError, UsageError


@dataclass(frozen=True)
class Official:
    """What a dataset is officially, and where its files lie.

    splits   numbers of training and test videos of each split
    hint     how to get the files, the end of an error
    folders  below the root that may hold the folders of classes
    lists    folder of the lists; it holds one that is called as ``marker`` says, a pattern
    """

    name: str
    num_videos: int
    num_classes: int
    splits: tuple[tuple[int, int], ...]
    licence: str
    hint: str
    folders: tuple[str, ...]
    lists: str
    marker: str


@dataclass(frozen=True)
class Listed:
    """One video as the lists of a dataset describe it; ``path`` is relative to the folder of videos."""

    path: str
    video_id: str
    label: int
    source: str
    splits: tuple[str, ...]


# Class names by label, and every listed video, from the folder of lists.
ReadLists = Callable[[Path], tuple[tuple[str, ...], list[Listed]]]


def load_official(official: Official, read_lists: ReadLists, root: Path, splits_dir: Path | None) -> Dataset:
    """The videos under ``root`` that the official lists name.

    The lists are in ``splits_dir``, or else beside the videos. Raises ``MissingError`` where there is no video or no
    list, ``UsageError`` where a list is not what it should be.
    """
    need_folder(root, official.name, official.hint)
    prefix = next((f"{name}/" for name in official.folders if (root / name).is_dir()), "")
    class_names, listed = read_lists(_find_lists(official, root, splits_dir))
    files = {path: info for path, info in scan_videos(root).items() if path.startswith(prefix)}
    videos, missing, unlisted = match_listed(listed, class_names, files, prefix)
    dataset = Dataset(
        name=official.name,
        root=root,
        class_names=class_names,
        num_splits=len(official.splits),
        videos=videos,
        missing=missing,
        unlisted=unlisted,
        licence=official.licence,
        expected_videos=official.num_videos,
    )
    return need_videos(dataset, str(root / prefix), official.hint)


def _find_lists(official: Official, root: Path, splits_dir: Path | None) -> Path:
    name = official.lists
    candidates = [splits_dir, splits_dir / name] if splits_dir is not None else [root / name, root.parent / name, root]
    for folder in candidates:
        if any(folder.glob(official.marker)):
            return folder
    looked = ", ".join(map(str, candidates))
    raise MissingError(
        f"no {official.marker} of {official.name} (looked in {looked}); {official.hint}", kind="missing-data"
    )


def read_list(path: Path) -> list[tuple[int, str]]:
    """The lines of a split file that are not blank, stripped, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingError(
            f"no split file {path}; pass --splits DIR with the official lists", kind="missing-data"
        ) from (None)
    except UnicodeDecodeError:
        raise UsageError(f"split file {path} is not text in UTF-8; take the official one") from None
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def match_listed(
    listed: Iterable[Listed], class_names: Sequence[str], files: Mapping[str, FileInfo], prefix: str
) -> tuple[Videos, tuple[str, ...], tuple[str, ...]]:
    """Videos present, paths missing, paths unlisted, for lists whose paths lie below ``prefix`` of the root.

    A listed name matches a file of another letter case or with another extension too (``v_X.avi`` re-encoded as
    ``v_X.mp4``), since copies of these datasets differ in both; an exact match comes first.
    """
    loose: dict[str, str] = {}
    for path in files:
        loose.setdefault(stem(path).lower(), path)
    videos: list[Video] = []
    missing: list[str] = []
    used: set[str] = set()
    for item in listed:
        wanted = prefix + item.path
        match = wanted if wanted in files else loose.get(stem(wanted).lower())
        if match is None:
            missing.append(wanted)
            continue
        used.add(match)
        info = files[match]
        videos.append(
            Video(
                video_id=item.video_id,
                path=match,
                label=item.label,
                class_name=class_names[item.label],
                source=item.source,
                splits=item.splits,
                start=None,
                end=None,
                bytes=info.bytes,
                mtime_ns=info.mtime_ns,
            )
        )
    unlisted = set(files) - used
    num_splits = max((len(video.splits) for video in videos), default=0)
    return (
        Videos.of(sorted(videos, key=lambda video: video.path), num_splits),
        tuple(sorted(missing)),
        tuple(sorted(unlisted)),
    )
