"""How the cost a video grows with the number of videos: extraction, opening a store, loading, planning."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Row, make_row
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.extract import Runs, copies
from pipeline.benchmarks.formats import MadeUp, write_made_up
from pipeline.benchmarks.made_up import SHARD_LEN
from pipeline.datasets import load_dataset
from pipeline.plan import Work, make_plan, pending
from pipeline.progress import Progress
from store import FeatureStore
from store.local import LocalObjects

MULTIPLES = (1, 4, 16)
ARRAYS = {"cls": (16, 512)}

Timed = Callable[[], object]


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds a video at 1, 4 and 16 times the work."""
    extraction = partial(_extraction, config, clips, folder)
    made_up = {"opening a store": _opening, "loading a store": _loading, "listing a folder and planning": _planning}
    ways = {"extraction, tiny model, inline": (config.growth_clips, extraction)} | {
        title: (config.growth_videos, partial(_repeated, prepare, config.rounds, folder))
        for title, prepare in made_up.items()
    }
    progress.begin("growth", len(ways))
    found = []
    for title, (videos, seconds_of) in ways.items():
        found.append(_grown(title, videos, seconds_of))
        progress.advance(1)
    progress.end()
    return found


def _grown(title: str, videos: int, seconds_of: Callable[[int], float]) -> Comparison:
    rows: list[Row] = []
    for multiple in MULTIPLES:
        seconds = [seconds_of(videos * multiple) / multiple]
        name = f"ours, {videos * multiple:,} videos"
        rows.append(make_row(name, seconds, rows[0].rounds if rows else seconds, videos, "videos", {}))
    notes = (
        f"seconds are those that {videos:,} videos take; 1 times faster: the cost a video does not grow, and more than "
        "1: what is done once is shared by more",
    )
    return Comparison("growth", title, rows[0].name, tuple(rows), notes)


def _extraction(config: BenchmarkConfig, clips: ClipSet, folder: Path, videos: int) -> float:
    """Start-up left out: shared by more videos, it would hide what grows."""
    many = copies(clips, videos, folder / "copies")
    tiny = dataclasses.replace(config, models=("tiny",))
    times = Runs(tiny, folder / "unused", folder, itertools.count()).ours("inline", "", many)
    shutil.rmtree(folder / "copies")
    return times.steady * videos


def _repeated(prepare: Callable[[Path, int], Timed], rounds: int, folder: Path, videos: int) -> float:
    work = prepare(folder / "made-up", videos)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    shutil.rmtree(folder / "made-up")
    return median(seconds)


def _opening(folder: Path, videos: int) -> Timed:
    write_made_up(folder, MadeUp(videos, ARRAYS))
    return lambda: FeatureStore.open(folder)


def _loading(folder: Path, videos: int) -> Timed:
    write_made_up(folder, MadeUp(videos, ARRAYS))
    store = FeatureStore.open(folder)
    return lambda: store.load(arrays=list(ARRAYS))


def _planning(folder: Path, videos: int) -> Timed:
    """Files that nobody opens, half of them in either of two classes, and a plan of what is left to do for them."""
    for number in range(videos):
        path = folder / f"class{number % 2}" / f"{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")

    def plan() -> Work:
        planned = make_plan(load_dataset("folder", folder), SHARD_LEN, {})
        return pending(LocalObjects(folder / "no store"), planned, ["clip/a"], folder)

    return plan
