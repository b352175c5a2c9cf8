"""Lanes: overlap, retries, and telling a sick environment from sick videos, with an engine made of lists."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.engines.lanes import (
    SHARE_COUNTS_FROM,
    UNIT_ATTEMPTS,
    Decoded,
    UnitResult,
    WorkerLostError,
    run_lanes,
)
from pipeline.plan import Unit
from pipeline.trace import Span
from stages.decode import DecodeOutcome
from stages.types import DecodedVideo, VideoFailure, VideoRef
from store.commits import CommitRow
from store.errors import RetryError, StoreError

BRANCH: Any = SimpleNamespace(modality=SimpleNamespace(path="clip/x"))
GRAPH: Any = SimpleNamespace(branches=(BRANCH,))
SPAN = Span("stage", "row", 0, 1)


def outcome(ref: VideoRef, failure: VideoFailure | None = None) -> DecodeOutcome:
    empty = np.zeros((1, 2, 2, 3), np.uint8)
    video = DecodedVideo(empty, np.zeros(1, np.int32), np.zeros(1), 1, 1, 25.0, 2, 2)
    return DecodeOutcome(ref, None if failure else video, failure, None, None, 0.0)


@dataclass
class FakeEngine:
    """Decodes two videos a chunk. Loses a worker on the first ``losses`` encodings; ``capacities`` are those that it
    tells one after the other, the last one for ever."""

    capacities: list[int]
    losses: int = 0
    failures: Mapping[int, VideoFailure] = field(default_factory=dict)
    open: int = 0
    opened: int = 0
    most_open: int = 0
    alive: int = 0
    most_alive: int = 0
    calls: int = 0
    written: list[tuple[int, list[int]]] = field(default_factory=list)
    noted: list[frozenset[int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def capacity(self) -> int:
        return self.capacities.pop(0) if len(self.capacities) > 1 else self.capacities[0]

    def lane(self) -> FakeLane:
        with self.lock:
            self.opened += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        return FakeLane(self)

    def count(self, chunks: int) -> None:
        with self.lock:
            self.calls += 1
            self.alive += chunks
            self.most_alive = max(self.most_alive, self.alive)


class FakeLane:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.alive, self.is_open = engine, 0, True

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        assert self.is_open
        self.alive += 1
        self.engine.count(1)
        failures = self.engine.failures
        outcomes = [outcome(ref, failures.get(ref.slot)) for ref in refs[:2]]
        return Decoded(outcomes, outcomes, list(refs[:2]), list(refs[2:]), SPAN)

    def encode(self, branch: Any, decoded: Decoded) -> list[int]:
        self.engine.count(0)
        return [ref.slot for ref in decoded.clips]

    def wait(self, handles: Sequence[Any]) -> list[Span]:
        self.alive -= len(handles)
        self.engine.count(-len(handles))
        with self.engine.lock:
            if self.engine.losses > 0 and handles:
                self.engine.losses -= 1
                raise WorkerLostError(f"the encoder was lost, {self.engine.losses} to go")
        return [SPAN] * len(handles)

    def write(
        self, unit: Unit, facts: Sequence[list[DecodeOutcome]], handles: Mapping[str, Sequence[Any]]
    ) -> tuple[Mapping[str, list[CommitRow]], Span]:
        outcomes = [outcome for chunk in facts for outcome in chunk]
        encoded = [slot for chunk in handles["clip/x"] for slot in chunk]
        assert encoded == [o.ref.slot for o in outcomes if o.video is not None] or self.engine.failures
        self.engine.count(0)
        with self.engine.lock:
            self.engine.written.append((unit.shard, [o.ref.slot for o in outcomes]))
            self.engine.noted.append(unit.missing["clip/x"])
        return {"clip/x": [CommitRow(o.ref.slot, "ok") for o in outcomes]}, SPAN

    def cancel(self) -> None: ...

    def close(self) -> None:
        assert self.is_open
        self.is_open = False
        self.engine.count(-self.alive)
        with self.engine.lock:
            self.engine.open -= 1


def units(count: int, videos: int = 5) -> Iterator[Unit]:
    for shard in range(count):
        refs = tuple(VideoRef(shard * videos + n, f"v{shard}-{n}", "x") for n in range(videos))
        yield Unit.whole(shard, refs, ("clip/x",))


def run(engine: FakeEngine, work: Iterable[Unit], root: Path) -> tuple[list[UnitResult], int]:
    done: list[int] = []
    results = list(run_lanes(engine, GRAPH, work, root, done.append))
    assert engine.open == 0
    return results, sum(done)


def test_every_unit_is_written_once_with_its_videos_in_order(tmp_path: Path) -> None:
    engine = FakeEngine([3])
    results, done = run(engine, units(7), tmp_path)
    assert sorted(engine.written) == [(shard, list(range(5 * shard, 5 * shard + 5))) for shard in range(7)]
    assert (len(results), done) == (7, 35)
    assert engine.most_alive <= 3 * 2  # two chunks a lane, however many videos there are


def test_a_lost_worker_costs_a_repetition_and_is_told(tmp_path: Path) -> None:
    engine = FakeEngine([1], losses=2)
    results, done = run(engine, units(3), tmp_path)
    assert {result.unit.shard: result.retries for result in results} == {
        0: ("began again: the encoder was lost, 1 to go", "began again: the encoder was lost, 0 to go"),
        1: (),
        2: (),
    }
    assert done == 15
    assert len(engine.written) == 3
    assert engine.opened == 3  # a lane that lost a worker is not used again


def test_repetitions_are_bounded(tmp_path: Path) -> None:
    engine = FakeEngine([1], losses=UNIT_ATTEMPTS)
    with pytest.raises(StoreError, match=f"shard 0 was begun {UNIT_ATTEMPTS} times.* 0 to go; look") as error:
        run(engine, units(1), tmp_path)
    assert error.value.kind == "too-many-failures"
    assert engine.opened == UNIT_ATTEMPTS


def test_lanes_follow_the_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that join are used: nobody decodes before three lanes are open, which the first machine alone does not
    hold."""
    monkeypatch.setattr("pipeline.engines.lanes.LOOK_SECONDS", 0.01)
    engine = FakeEngine([1, 1, 3])
    three = threading.Barrier(3)

    class Lane(FakeLane):
        def __init__(self, engine: FakeEngine) -> None:
            super().__init__(engine)
            self.met = False

        def decode(self, refs: Sequence[VideoRef]) -> Decoded:
            if not self.met:
                three.wait(timeout=30)
                self.met = True
            return super().decode(refs)

    fake_lane = engine.lane
    monkeypatch.setattr(engine, "lane", lambda: fake_lane() and Lane(engine))
    results, done = run(engine, units(30), tmp_path)
    assert (len(results), done, engine.most_open) == (30, 150, 3)


def test_a_run_without_machines_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.lanes.PATIENCE_SECONDS", 0.0)
    with pytest.raises(StoreError, match="no machine with a CPU"):
        run(FakeEngine([0]), units(1), tmp_path)


def test_memory_and_work_grow_no_faster_than_units(tmp_path: Path) -> None:
    """However many units there are, few exist at a time, and each takes the same number of calls."""

    def measure(count: int) -> tuple[int, float]:
        alive, most = set(), 0

        def counted() -> Iterator[Unit]:
            nonlocal most
            for unit in units(count):
                alive.add(unit.shard)
                most = max(most, len(alive))
                weakref.finalize(unit, alive.discard, unit.shard)
                yield unit

        engine = FakeEngine([3])
        for _ in run_lanes(engine, GRAPH, counted(), tmp_path):
            pass
        assert len(engine.written) == count
        return most, engine.calls / count

    (few, calls), (many, calls_of_many) = measure(50), measure(800)
    assert calls_of_many <= calls
    assert max(few, many) <= 3 + 16 + 4  # in the lanes, unread, and on the way


def test_units_that_cannot_be_listed_end_the_run(tmp_path: Path) -> None:
    def broken() -> Iterator[Unit]:
        yield from units(2)
        raise StoreError("commit 2 is damaged", kind="store-corrupt")

    with pytest.raises(StoreError, match="commit 2 is damaged"):
        run(FakeEngine([2]), broken(), tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "class").mkdir()
    return tmp_path


def test_an_environment_that_fails_in_a_row_stops_the_run(root: Path) -> None:
    sick = {slot: VideoFailure("io-error", "Input/output error") for slot in range(100)}
    engine = FakeEngine([1], failures=sick)
    with pytest.raises(StoreError, match=r"(\d+) videos in a row") as error:
        run(engine, units(10), root)
    assert error.value.kind == "too-many-failures"
    # What failed is noted, so that the next run comes to it last; what was not looked at is left.
    assert engine.written == [(0, [0, 1, 2, 3, 4]), (1, [5, 6, 7, 8])]
    assert engine.noted == [frozenset(range(5)), frozenset(range(5, 9))]


@pytest.mark.parametrize(("every", "stops"), [(9, True), (12, False)])
def test_an_environment_that_fails_for_a_share_stops_the_run(root: Path, every: int, stops: bool) -> None:
    sick = {slot: VideoFailure("timeout", "no progress") for slot in range(0, 200, every)}
    engine = FakeEngine([1], failures=sick)
    if not stops:  # though the first of all fails, so that the share is higher at first
        assert len(run(engine, units(40), root)[0]) == 40
        return
    with pytest.raises(StoreError, match=r"\d+ of \d+ videos could not be read") as error:
        run(engine, units(40), root)
    assert error.value.kind == "too-many-failures"
    done = sum(len(slots) for _, slots in engine.written)
    assert SHARE_COUNTS_FROM - 5 <= done <= SHARE_COUNTS_FROM + every


@pytest.mark.parametrize("kind", ["file-missing", "io-error"])
@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_root_that_is_gone_condemns_nothing(root: Path, kind: str, left: str) -> None:
    engine = FakeEngine([1], failures={0: VideoFailure(kind, "gone")})
    (root / "class").rmdir()
    if left == "nothing":
        root.rmdir()
    with pytest.raises(RetryError, match="mount it again") as error:
        run(engine, units(1), root)
    assert error.value.kind == "root-missing"
    assert engine.written == []


def test_videos_that_are_broken_themselves_do_not_stop_a_run(tmp_path: Path) -> None:
    broken = {slot: VideoFailure("not-a-video", "text") for slot in range(50)}
    assert len(run(FakeEngine([2], failures=broken), units(10), tmp_path)[0]) == 10
