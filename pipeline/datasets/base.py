"""What a dataset is to the rest of the pipeline, and what every adapter needs: finding video files quickly."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from store.errors import MissingError, RetryError, UsageError
from store.plan import videos_schema

VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
TRAIN, TEST, UNUSED = "train", "test", ""
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Video:
    """One video of a dataset, present on disk.

    path      relative to the dataset's root, with forward slashes
    label     0-based, a position in the dataset's ``class_names``
    source    what was cut from one recording has one source: validation and intervals never split it
    splits    the subset it is in, a split: "train", "test", or "" where the split leaves it out
    start,    seconds; they cut a clip out of a longer file, None means the file's own start or end
    end
    """

    video_id: str
    path: str
    label: int
    class_name: str
    source: str
    splits: tuple[str, ...]
    start: float | None
    end: float | None
    bytes: int
    mtime_ns: int


class Videos(Sequence[Video]):
    """Videos in a fixed order, kept as columns, so that a million of them fit into a few hundred megabytes.

    table  the columns of a plan (``store.plan.videos_schema``) but for ``slot``
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, videos: Iterable[Video], num_splits: int) -> Videos:
        rows = []
        for video in videos:
            row = dict(vars(video))
            row |= {f"split{number}": name for number, name in enumerate(row.pop("splits"), start=1)}
            rows.append(row)
        return cls(pa.Table.from_pylist(rows, schema=video_columns(num_splits)))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> Videos: ...

    def __getitem__(self, index: int | slice) -> Video | Videos:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return Videos(self.table.take(pa.array(chosen, pa.int64())))
        return _video(self.table.slice(chosen, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Video]:
        for batch in self.table.to_batches(max_chunksize=ROWS_AT_ONCE):
            yield from map(_video, batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Videos) and self.table.equals(other.table)

    __hash__ = None  # type: ignore[assignment]


def video_columns(num_splits: int) -> pa.Schema:
    """The columns of a plan but for ``slot``."""
    schema = videos_schema(num_splits)
    return schema.remove(schema.get_field_index("slot"))


def _video(row: dict[str, Any]) -> Video:
    names = sorted((name for name in row if name.startswith("split")), key=lambda name: int(name[5:]))
    return Video(splits=tuple(row.pop(name) for name in names), **row)


@dataclass(frozen=True)
class Dataset:
    """The videos of a dataset that are on disk, in a fixed order, and what lists and disk disagree about.

    videos           present, ordered by path
    missing          paths of listed videos that are not on disk
    unlisted         paths of video files on disk that no list names
    expected_videos  videos of the complete dataset; None where there is no official number
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    num_splits: int
    videos: Videos
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    licence: str
    expected_videos: int | None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size in bytes and modification time in nanoseconds of a file."""

    bytes: int
    mtime_ns: int


def scan_videos(root: Path, *, dangling: list[str] | None = None) -> dict[str, FileInfo]:
    """Video files below ``root`` by relative path, sorted. Hidden files and folders are skipped, links are followed
    where they lead somewhere; ``dangling`` takes the paths of those with the name of a video that do not.

    One pass, one stat a file; a link to a folder that it lies in is not followed again.
    """
    found: dict[str, FileInfo] = {}
    pending = [("", os.fspath(root))]
    while pending:
        prefix, folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    is_video = entry.name.lower().endswith(VIDEO_EXTENSIONS)
                    if _leads_nowhere(entry):
                        if is_video and dangling is not None:
                            dangling.append(_text(prefix + entry.name, root))
                    elif entry.is_dir():
                        if not (entry.is_symlink() and _contains(entry.path, folder)):
                            pending.append((f"{prefix}{entry.name}/", entry.path))
                    elif is_video and entry.is_file():
                        found[_text(prefix + entry.name, root)] = file_info(entry)
        except OSError as error:
            raise RetryError(
                f"cannot list {folder!r}: {error.strerror}; see that the disk is there and readable"
            ) from (error)
    return dict(sorted(found.items()))


def file_info(entry: os.DirEntry[str] | Path) -> FileInfo:
    """Size and modification time of a file."""
    status = entry.stat()
    return FileInfo(status.st_size, status.st_mtime_ns)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to nothing, or to itself."""
    try:
        if entry.is_symlink():
            entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return True
        raise
    return False


def _contains(folder: str, path: str) -> bool:
    folder, path = os.path.realpath(folder), os.path.realpath(path)
    return os.path.commonpath([folder, path]) == folder


def _text(path: str, root: Path) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the name of {path!r} in {root} is not UTF-8; rename the file") from None
    return path


def need_folder(root: Path, name: str, hint: str) -> Path:
    """``root``, or a ``MissingError`` that says where it looked and what to do."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MissingError(f"no video of {name}: {root} {what}; {hint}", kind="missing-data")
    return root


def need_videos(dataset: Dataset, looked: str, hint: str) -> Dataset:
    """``dataset``, or a ``MissingError`` where not one of its videos is on disk."""
    if not dataset.videos:
        counts = f"{len(dataset.missing):,} listed videos are missing" if dataset.missing else "no video file is there"
        if dataset.unlisted:
            counts += f", {len(dataset.unlisted):,} files are named in no list, such as {dataset.unlisted[0]!r}"
        raise MissingError(f"no video of {dataset.name}: looked in {looked}; {counts}; {hint}", kind="missing-data")
    return dataset


def stem(path: str) -> str:
    """``path`` without its extension."""
    return posixpath.splitext(path)[0]


def unique_ids(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """``names``, and where several videos would share one, their whole paths instead."""
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    return [name if count[name] == 1 else path for path, name in zip(paths, names, strict=True)]
