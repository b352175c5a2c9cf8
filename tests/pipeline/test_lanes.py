"""Lanes: overlap, retries, and telling a sick environment from sick videos, with an engine made of lists."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
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
    run_lanes,
)
from pipeline.plan import Unit
from stages.decode import DecodeOutcome
from stages.types import DecodedVideo, VideoFailure, VideoRef
from store.commits import CommitRow
from store.errors import RetryError, StoreError

BRANCH: Any = SimpleNamespace(modality=SimpleNamespace(path="clip/x"))
GRAPH: Any = SimpleNamespace(branches=(BRANCH,))


class LostWorkerError(Exception):
    pass


def outcome(ref: VideoRef, failure: VideoFailure | None = None) -> DecodeOutcome:
    empty = np.zeros((1, 2, 2, 3), np.uint8)
    video = DecodedVideo(empty, np.zeros(1, np.int32), np.zeros(1), 1, 1, 25.0, 2, 2)
    return DecodeOutcome(ref, None if failure else video, failure, None, None, 0.0)


@dataclass
class FakeEngine:
    """Decodes two videos a chunk; loses a worker on the first ``losses`` encodings."""

    losses: int = 0
    failures: Mapping[int, VideoFailure] = field(default_factory=dict)
    lost: tuple[type[Exception], ...] = (LostWorkerError,)
    alive: int = 0
    most_alive: int = 0
    written: list[tuple[int, list[int]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lane(self) -> FakeEngine:
        return self

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        with self.lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        return Decoded([outcome(ref, self.failures.get(ref.slot)) for ref in refs[:2]], list(refs[:2]), list(refs[2:]))

    def encode(self, branch: Any, decoded: Decoded) -> list[int]:
        return [ref.slot for ref in decoded.clips]

    def wait(self, handles: Sequence[Any]) -> None:
        with self.lock:
            self.alive -= len(handles)
            if self.losses > 0 and handles:
                self.losses -= 1
                self.alive = 0
                raise LostWorkerError

    def write(
        self, unit: Unit, outcomes: Sequence[DecodeOutcome], handles: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, list[CommitRow]]:
        encoded = [slot for chunk in handles["clip/x"] for slot in chunk]
        assert encoded == [o.ref.slot for o in outcomes if o.video is not None] or self.failures
        with self.lock:
            self.written.append((unit.shard, [o.ref.slot for o in outcomes]))
        return {"clip/x": [CommitRow(o.ref.slot, "ok") for o in outcomes]}

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def units(count: int, videos: int = 5) -> list[Unit]:
    refs = [tuple(VideoRef(shard * videos + n, f"v{shard}-{n}", "x") for n in range(videos)) for shard in range(count)]
    return [Unit(shard, refs[shard], ("clip/x",)) for shard in range(count)]


def run(engine: FakeEngine, work: list[Unit], lanes: int, root: Path) -> tuple[list[UnitResult], int]:
    done: list[int] = []
    return list(run_lanes(engine, GRAPH, work, lanes, root, done.append)), sum(done)


def test_every_unit_is_written_once_with_its_videos_in_order(tmp_path: Path) -> None:
    engine = FakeEngine()
    results, done = run(engine, units(7), 3, tmp_path)
    assert sorted(engine.written) == [(shard, list(range(5 * shard, 5 * shard + 5))) for shard in range(7)]
    assert (len(results), done) == (7, 35)
    assert engine.most_alive <= 3 * 2  # two chunks a lane, however many videos there are


def test_a_lost_worker_costs_a_repetition(tmp_path: Path) -> None:
    engine = FakeEngine(losses=2)
    results, done = run(engine, units(3), 1, tmp_path)
    assert [result.attempts for result in results] == [3, 1, 1]
    assert done == 15
    assert len(engine.written) == 3


def test_repetitions_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(LostWorkerError):
        run(FakeEngine(losses=UNIT_ATTEMPTS), units(1), 1, tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "class").mkdir()
    return tmp_path


def test_an_environment_that_fails_in_a_row_stops_the_run(root: Path) -> None:
    sick = {slot: VideoFailure("io-error", "Input/output error") for slot in range(100)}
    engine = FakeEngine(failures=sick)
    with pytest.raises(StoreError, match=r"(\d+) videos in a row") as error:
        run(engine, units(10), 2, root)
    assert error.value.kind == "too-many-failures"
    assert len(engine.written) < 3


@pytest.mark.parametrize(("every", "stops"), [(9, True), (12, False)])
def test_an_environment_that_fails_for_a_share_stops_the_run(root: Path, every: int, stops: bool) -> None:
    sick = {slot: VideoFailure("timeout", "no progress") for slot in range(0, 200, every)}
    engine = FakeEngine(failures=sick)
    if not stops:  # though the first of all fails, so that the share is higher at first
        assert len(run(engine, units(40), 1, root)[0]) == 40
        return
    with pytest.raises(StoreError, match=r"\d+ of \d+ videos could not be read") as error:
        run(engine, units(40), 1, root)
    assert error.value.kind == "too-many-failures"
    done = sum(len(slots) for _, slots in engine.written)
    assert SHARE_COUNTS_FROM - 5 <= done <= SHARE_COUNTS_FROM + every


@pytest.mark.parametrize("kind", ["file-missing", "io-error"])
@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_root_that_is_gone_condemns_nothing(root: Path, kind: str, left: str) -> None:
    engine = FakeEngine(failures={0: VideoFailure(kind, "gone")})
    (root / "class").rmdir()
    if left == "nothing":
        root.rmdir()
    with pytest.raises(RetryError, match="mount it again") as error:
        run(engine, units(1), 1, root)
    assert error.value.kind == "root-missing"
    assert engine.written == []


def test_videos_that_are_broken_themselves_do_not_stop_a_run(tmp_path: Path) -> None:
    broken = {slot: VideoFailure("not-a-video", "text") for slot in range(50)}
    assert len(run(FakeEngine(failures=broken), units(10), 2, tmp_path)[0]) == 10
