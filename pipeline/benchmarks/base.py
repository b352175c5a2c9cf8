"""What every part of the benchmark is made of: ways of doing the same work, timed in turns."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pipeline.progress import Progress
from store.errors import UsageError

# One way of doing the work. It may return figures of its own, which become columns of its row.
Way = Callable[[], Mapping[str, float] | None]


@dataclass(frozen=True)
class BenchmarkConfig:
    """How much work is done.

    videos        clips that are decoded and extracted
    clip_videos   clips whose frames the CLIP part encodes; four make a batch of 32 for each of two cores
    frames        T, frames a clip
    rounds        how often every way is timed, in turns; ``extract_rounds`` those of the extraction, which is long
    steady_clips  that ours extracts to see what a clip costs without start-up: the same videos again and again
    models        CLIP models, all with random weights; the first one also extracts
    engines       of the extraction
    train, test   videos of the made-up splits that heads are trained on: as many as HMDB51's
    head_frames   T of the head
    heads         that are trained
    epochs        of a head; the plain loop trains for ``plain_epochs`` of them, and its seconds are scaled up
    head_seconds  that a head may take to be trained for all epochs; of one that would take longer two are timed
    seeds         of each of three splits, all trained together and one by one, for one epoch
    together      heads that are trained so
    store_videos  of the made-up features that are stored and read: all of HMDB51, where memory and disk allow
    batches       of 256 random videos that are drawn in a round
    units         of the scheduling part, which also runs 4 and 16 times as many
    growth_clips, growth_videos  clips that are extracted, and videos that are planned, opened and loaded, by the part
                  that looks at growth: also 4 and 16 times as many
    """

    videos: int = 24
    clip_videos: int = 4
    frames: int = 16
    rounds: int = 3
    extract_rounds: int = 1
    steady_clips: int = 276
    models: tuple[str, ...] = ("ViT-B-32", "ViT-B-16")
    engines: tuple[str, ...] = ("inline", "ray")
    train: int = 3570
    test: int = 1530
    head_frames: int = 8
    heads: tuple[str, ...] = ("mean", "vcs", "vilp", "pvcs", "pvcs-joint", "attn", "pose", "fuse")
    epochs: int = 30
    head_seconds: float = 40.0
    seeds: int = 5
    together: tuple[str, ...] = ("vcs", "pvcs")
    plain_epochs: int = 1
    store_videos: int = 6766
    batches: int = 4
    units: int = 1250
    growth_clips: int = 32
    growth_videos: int = 512

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise UsageError(f"videos is {self.videos}; allowed: 1 or more")


@dataclass(frozen=True)
class Row:
    """One way: wall seconds of each round, what it did in them, and how many times faster than the plain way it was.

    ``ratio`` is of the medians; ``ratio_range`` spans the rounds, each compared with the plain way of the same round.
    """

    name: str
    rounds: tuple[float, ...]
    count: int
    unit: str
    ratio: float
    ratio_range: tuple[float, float]
    columns: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return median(self.rounds)

    @property
    def rate(self) -> float:
        """``unit`` a second."""
        return self.count / self.seconds

    def against(self, plain: Row) -> Row:
        """The same row, compared with another plain one."""
        return make_row(self.name, self.rounds, plain.rounds, self.count, self.unit, self.columns)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ratio": self.ratio,
            "ratio_range": list(self.ratio_range),
            "seconds": self.seconds,
            "rounds": list(self.rounds),
            "rate": self.rate,
            "unit": f"{self.unit} a second",
            "columns": dict(self.columns),
        }


@dataclass(frozen=True)
class Comparison:
    """Several ways of doing the same work; ``plain`` names the row that the ratios refer to."""

    part: str
    title: str
    plain: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"part": self.part, "title": self.title, "plain": self.plain, "rows": rows, "notes": list(self.notes)}


def compare(
    part: str,
    title: str,
    ways: Mapping[str, Way],
    *,
    plain: str,
    count: int,
    unit: str,
    rounds: int,
    progress: Progress,
    columns: Mapping[str, Mapping[str, float]] | None = None,
    scale: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Time all ways in turns (A B A B), so that what else the machine does falls on all of them alike.

    count     units of work that each way does
    columns   figures by way that were found before; those that a way returns itself are medians over its rounds
    scale     by way that does only a part of the work: what its seconds are multiplied by
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    known, scales = columns or {}, scale or {}
    progress.begin(title, rounds * len(ways))
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            began = time.perf_counter()
            own = way()
            seconds[name].append((time.perf_counter() - began) * scales.get(name, 1))
            figures[name].append(own or {})
            progress.advance(1)
    progress.end()
    rows = tuple(
        make_row(name, seconds[name], seconds[plain], count, unit, {**known.get(name, {}), **_medians(figures[name])})
        for name in ways
    )
    return Comparison(part, title, plain, rows, tuple(notes))


def make_row(
    name: str,
    rounds: Sequence[float],
    plain: Sequence[float],
    count: int,
    unit: str,
    columns: Mapping[str, float],
) -> Row:
    """A row from the seconds of each round, its own and those of the plain way."""
    by_round = [theirs / ours for ours, theirs in zip(rounds, plain, strict=True)]
    spread = (min(by_round), max(by_round))
    return Row(name, tuple(rounds), count, unit, median(plain) / median(rounds), spread, columns)


def discard(work: Callable[..., object], *arguments: object) -> None:
    """Do the work and drop its result, which would otherwise pass for figures of a ``Way``."""
    work(*arguments)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended, all threads together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}
