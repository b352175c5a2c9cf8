"""HMDB51 and UCF101 from their official archives to the layout that the adapters read.

    <root>/.prepare/            downloads, and what is unpacked half way: gone when all is there
    <root>/.prepare/done/       a list for every archive of the files that came out of it

Every step leaves something whole or nothing: an archive gets its name when it is complete, an unpacked folder when
every file is in it, and a list when the files are where they belong. So a run that was cut short anywhere goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pipeline.datasets import load_dataset
from pipeline.datasets.base import TEST, TRAIN, VIDEO_EXTENSIONS, Dataset
from pipeline.datasets.hmdb51 import HMDB51
from pipeline.datasets.official import Official
from pipeline.datasets.prepare.download import Archive, check, download
from pipeline.datasets.prepare.unpack import need_tool, unpack
from pipeline.datasets.ucf101 import UCF101
from pipeline.files import check_directory
from pipeline.progress import Progress
from stages.decode import DecodeConfig, DecodeWorker
from stages.types import VideoRef
from store.errors import MissingError, UsageError

CHUNK = 32


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made from its archives, and what it then has to be.

    place  where a file goes, relative to the root: from its path in the archive and the archive's stem; None: nowhere
    """

    official: Official
    archives: tuple[Archive, ...]
    place: Callable[[PurePosixPath, str], str | None]


def _place_hmdb51(path: PurePosixPath, stem: str) -> str | None:
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return f"{path.parent.name or stem}/{path.name}"
    return f"testTrainMulti_7030_splits/{path.name}" if path.match("*_test_split?.txt") else None


def _place_ucf101(path: PurePosixPath, stem: str) -> str | None:
    if path.suffix.lower() in VIDEO_EXTENSIONS and path.parent.name:
        return f"UCF-101/{path.parent.name}/{path.name}"
    return f"ucfTrainTestlist/{path.name}" if path.suffix == ".txt" else None


_SERRE_LAB = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_CRCV = "https://www.crcv.ucf.edu/data/UCF101"

# Digests: of HMDB51's lists as torchvision has it, of UCF101's lists as TensorFlow Datasets has it. None is known of
# the archives of videos, which are checked by their size on the server, their headers, and what comes out of them.
RECIPES = {
    "hmdb51": Recipe(
        HMDB51,
        (
            Archive(
                "test_train_splits.rar",
                f"{_SERRE_LAB}/test_train_splits.rar",
                digest="md5:15e67781e70dcfbdce2d7dbb9b3344b5",
            ),
            Archive("hmdb51_org.rar", f"{_SERRE_LAB}/hmdb51_org.rar"),
        ),
        _place_hmdb51,
    ),
    "ucf101": Recipe(
        UCF101,
        (
            Archive(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                f"{_CRCV}/UCF101TrainTestSplits-RecognitionTask.zip",
                size=113_943,
                digest="sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            Archive("UCF101.rar", f"{_CRCV}/UCF101.rar"),
        ),
        _place_ucf101,
    ),
}


@dataclass(frozen=True)
class Prepared:
    """What lies under the root after ``prepare``.

    wrong       a line for every count that is not the official one; empty when the dataset is complete
    unreadable  a line for every video that does not decode, or of which far fewer frames decode than it claims
    """

    name: str
    root: Path
    videos: int
    classes: int
    splits: tuple[tuple[int, int], ...]
    wrong: tuple[str, ...]
    unreadable: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "root": str(self.root)}


def prepare(recipe: Recipe, root: Path, *, archives: Path | None = None, progress: Progress | None = None) -> Prepared:
    """Make the dataset complete under ``root``: get what is missing, unpack it, lay it out, count it and decode it all.

    ``archives`` is a folder that has the archives already; nothing is downloaded then, and nothing in it is changed.
    Videos that were laid out by hand are left alone, and count. Raises ``MissingError`` for an archive that is not in
    the folder or not on the server, ``UsageError`` for one that is damaged or not safe to unpack, ``RetryError`` when
    the connection or every tool fails.
    """
    progress = progress or Progress()
    state = root / ".prepare"
    check_directory("root", root)
    if archives is not None and not archives.is_dir():
        raise MissingError(f"--from is {archives}, which is no folder; name the one with the archives")
    if not _complete(recipe, root):
        waiting = [archive for archive in recipe.archives if not _is_done(state, root, archive.name)]
        if any(archive.name.endswith(".rar") for archive in waiting):
            need_tool()
        (state / "done").mkdir(parents=True, exist_ok=True)
        for archive in waiting:
            if archives is None:
                path = download(archive, state, progress=progress)
            else:
                path = archives / archive.name
                if not path.is_file():
                    raise MissingError(f"no {archive.name} in {archives}; get it from {archive.url}")
                check(archive, path)
            _lay_out(recipe, path, archive.name, state, root, progress)
    result = _examine(recipe, root, progress)
    if not result.wrong:
        shutil.rmtree(state, ignore_errors=True)
    return result


def _complete(recipe: Recipe, root: Path) -> bool:
    try:
        dataset = load_dataset(recipe.official.name, root)
    except (MissingError, UsageError):
        return False
    return not list(_counts(recipe.official, dataset))


def _is_done(state: Path, root: Path, key: str) -> bool:
    """Whether the files of an archive were laid out, and still are."""
    try:
        files = json.loads(_list_of(state, key).read_text())
    except (OSError, ValueError):
        return False
    return all((root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items())


def _list_of(state: Path, key: str) -> Path:
    return state / "done" / f"{quote(key, safe='')}.json"


def _lay_out(recipe: Recipe, archive: Path, key: str, state: Path, root: Path, progress: Progress) -> dict[str, int]:
    """Unpack an archive, and those in it, and move its files to where they belong. Returns their sizes by path."""
    work = state / f"{quote(key, safe='')}.d"
    moves = work.with_suffix(".moves")
    if not work.is_dir():
        moves.unlink(missing_ok=True)
        progress.note(f"unpacking {key}")
        unpack(archive, work)
    if not moves.is_file():
        _write(moves, _plan_moves(recipe, work, key))
    files: dict[str, int] = {}
    for source, place in json.loads(moves.read_text()).items():
        _move(work / source, root / place)
        files[place] = (root / place).stat().st_size
    nested = sorted(path for path in work.rglob("*") if path.suffix.lower() == ".rar")
    if nested:
        progress.begin(f"archives in {key}", len(nested))
    for path in nested:
        inner = f"{key}/{path.relative_to(work).as_posix()}"
        done = _is_done(state, root, inner)
        files |= (
            json.loads(_list_of(state, inner).read_text())
            if done
            else _lay_out(recipe, path, inner, state, root, Progress())
        )
        progress.advance(1)
    if nested:
        progress.end()
    _write(_list_of(state, key), files)
    shutil.rmtree(work)
    moves.unlink()
    return files


def _plan_moves(recipe: Recipe, work: Path, key: str) -> dict[str, str]:
    """Where the files of an unpacked archive go, written down before the first is moved."""
    moves: dict[str, str] = {}
    for path in sorted(path for path in work.rglob("*") if path.is_file() and path.suffix.lower() != ".rar"):
        source = path.relative_to(work).as_posix()
        place = recipe.place(PurePosixPath(source), PurePosixPath(key).stem)
        if place in moves.values():
            raise UsageError(f"{key} holds two files for {place!r}; take the official archive")
        if place is not None:
            moves[source] = place
    return moves


def _move(source: Path, target: Path) -> None:
    """Move a file; one of an earlier run that was cut short is there already. Nothing of another size is replaced."""
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.stat().st_size != source.stat().st_size:
        raise UsageError(f"{target} is there already, in another size than the official file; move it away")
    os.replace(source, target)


def _write(path: Path, value: object) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(value))
    fresh.rename(path)


def _examine(recipe: Recipe, root: Path, progress: Progress) -> Prepared:
    name = recipe.official.name
    dataset = load_dataset(name, root)
    return Prepared(
        name,
        root,
        len(dataset.videos),
        len(dataset.class_names),
        _split_sizes(dataset),
        tuple(_counts(recipe.official, dataset)),
        tuple(_unreadable(dataset, progress)),
    )


def _split_sizes(dataset: Dataset) -> tuple[tuple[int, int], ...]:
    subsets = [Counter(video.splits[split] for video in dataset.videos) for split in range(dataset.num_splits)]
    return tuple((count[TRAIN], count[TEST]) for count in subsets)


def _counts(official: Official, dataset: Dataset) -> Iterator[str]:
    """A line for every count that is not the official one."""
    if len(dataset.videos) != official.num_videos:
        example = f", such as {dataset.missing[0]}" if dataset.missing else ""
        missing = f"{len(dataset.missing):,} are missing{example}"
        yield f"{len(dataset.videos):,} videos of {official.num_videos:,}; {missing}"
    if len(dataset.class_names) != official.num_classes:
        yield f"{len(dataset.class_names)} classes of {official.num_classes}"
    for split, (found, wanted) in enumerate(zip(_split_sizes(dataset), official.splits, strict=True), 1):
        if found != wanted:
            yield "split {}: {:,} to train and {:,} to test, of {:,} and {:,}".format(split, *found, *wanted)


def _unreadable(dataset: Dataset, progress: Progress) -> Iterator[str]:
    """A line for every video that does not decode whole, told by decoding them all in a process that may die of it."""
    refs = [VideoRef(slot, video.video_id, str(dataset.root / video.path)) for slot, video in enumerate(dataset.videos)]
    worker = DecodeWorker(DecodeConfig(num_frames=1))
    worker.setup()
    progress.begin("decoding every video", len(refs))
    try:
        while refs:
            chunk = worker(refs[:CHUNK])
            for outcome in chunk.results:
                path = outcome.ref.path
                if outcome.failure is not None:
                    yield f"{path}: {outcome.failure.kind}: {outcome.failure.message}"
                elif outcome.video is not None and outcome.video.partial:
                    yield f"{path}: {outcome.video.num_decodable} of {outcome.video.num_claimed} frames decode"
            refs = refs[len(chunk.results) :]
            progress.advance(len(chunk.results))
    finally:
        worker.close()
    progress.end()
