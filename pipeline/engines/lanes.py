"""Running units of work in lanes.

A lane is a thread that takes one unit (a shard) after the other and has a decoder of its own. It decodes a chunk of
videos while the chunk before is being encoded, so at most two chunks of frames a lane are alive at any time: memory is
bounded by the number of lanes, however many videos there are. Lanes share the encoders. While one lane waits for its
last encodings and writes, the others keep the encoders busy, which is why there are at least two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from stages.decode import DecodeOutcome
from stages.types import VideoRef
from store.commits import CommitRow
from store.errors import RetryError, StoreError

ENVIRONMENT_FAILURES_IN_A_ROW = 8
UNIT_ATTEMPTS = 3


@dataclass(frozen=True)
class Decoded:
    """A decoded chunk: outcomes without frames, a handle on the clips with frames, and the refs still to decode."""

    outcomes: Sequence[DecodeOutcome]
    clips: Any
    remaining: Sequence[VideoRef]


class Lane(Protocol):
    """One lane of an engine."""

    def decode(self, refs: Sequence[VideoRef]) -> Decoded: ...

    def cancel(self) -> None:
        """Make a ``decode`` that another thread waits for raise."""

    def close(self) -> None: ...


class Engine(Protocol):
    """Where the stages of a graph run. Handles of encodings are the engine's own; ``wait`` returns when they are
    done."""

    lost: tuple[type[Exception], ...]

    def lane(self) -> Lane: ...

    def encode(self, branch: Branch, decoded: Decoded) -> Any: ...

    def wait(self, handles: Sequence[Any]) -> None: ...

    def write(
        self, unit: Unit, outcomes: Sequence[DecodeOutcome], handles: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, list[CommitRow]]: ...


@dataclass(frozen=True)
class UnitResult:
    """A committed unit: its rows by group."""

    unit: Unit
    rows: Mapping[str, list[CommitRow]]
    seconds: float
    attempts: int


@dataclass
class _Health:
    """Tells failures of videos from failures of the environment, over all lanes."""

    root: Path
    in_a_row: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, outcomes: Sequence[DecodeOutcome]) -> None:
        """Raise when the environment, not a video, is to blame: nothing may be condemned for it."""
        for outcome in outcomes:
            environmental = outcome.failure is not None and outcome.failure.kind in RetryError.KINDS
            with self.lock:
                self.in_a_row = self.in_a_row + 1 if environmental else 0
                many = self.in_a_row >= ENVIRONMENT_FAILURES_IN_A_ROW
            if environmental and not self.root.exists():
                raise StoreError(
                    f"root {self.root} is gone; nothing is condemned for it: mount it again and run the same command",
                    kind="too-many-failures",
                )
            if many and outcome.failure is not None:
                raise StoreError(
                    f"{ENVIRONMENT_FAILURES_IN_A_ROW} videos in a row could not be read, the last one "
                    f"{outcome.ref.video_id}: {outcome.failure.message}; mend the cause and run the same command",
                    kind="too-many-failures",
                )


def run_lanes(
    engine: Engine,
    graph: Graph,
    units: Sequence[Unit],
    lanes: int,
    root: Path,
    advance: Callable[[int], None] = lambda videos: None,
) -> Iterator[UnitResult]:
    """Run all units and yield each as it is committed, in no particular order.

    ``advance`` is told, from any thread, how many more videos are through the encoders; a negative number where a unit
    has to begin again. The first error of any lane ends the run: no new unit is begun, and units in flight are dropped;
    what was committed stays.
    """
    queue: SimpleQueue[Unit] = SimpleQueue()
    for unit in units:
        queue.put(unit)
    results: SimpleQueue[UnitResult] = SimpleQueue()
    run = _Run(engine, graph, _Health(root), advance)
    open_lanes: list[Lane] = []

    def work() -> None:
        lane = engine.lane()
        open_lanes.append(lane)
        try:
            while not run.stop.is_set():
                try:
                    unit = queue.get_nowait()
                except Empty:
                    return
                result = run.unit(lane, unit)
                if result is not None:
                    results.put(result)
        except BaseException:
            run.stop.set()
            raise
        finally:
            lane.close()

    with ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane") as pool:
        pending = {pool.submit(work) for _ in range(min(lanes, len(units)))}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                yield from _drain(results)
                for future in done:
                    future.result()
        except BaseException:
            run.stop.set()
            for lane in open_lanes:
                lane.cancel()
            raise
    yield from _drain(results)


def _drain(results: SimpleQueue[UnitResult]) -> Iterator[UnitResult]:
    while not results.empty():
        yield results.get()


@dataclass
class _Run:
    """What the lanes of one run share."""

    engine: Engine
    graph: Graph
    health: _Health
    advance: Callable[[int], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def unit(self, lane: Lane, unit: Unit) -> UnitResult | None:
        """Run one unit, again from its beginning where the engine lost a worker or a node. None when told to stop."""
        began = time.monotonic()
        for attempt in range(1, UNIT_ATTEMPTS + 1):
            outcomes: list[DecodeOutcome] = []
            try:
                rows = self._attempt(lane, unit, outcomes)
                return None if rows is None else UnitResult(unit, rows, time.monotonic() - began, attempt)
            except self.engine.lost:
                self.advance(-len(outcomes))
                if attempt == UNIT_ATTEMPTS or self.stop.is_set():
                    raise
        raise AssertionError("unreachable")

    def _attempt(self, lane: Lane, unit: Unit, outcomes: list[DecodeOutcome]) -> Mapping[str, list[CommitRow]] | None:
        """One attempt at a unit. ``outcomes`` grows by each chunk that is through the encoders."""
        branches = [branch for branch in self.graph.branches if branch.modality.path in unit.groups]
        handles: dict[str, list[Any]] = {branch.modality.path: [] for branch in branches}
        remaining: Sequence[VideoRef] = unit.refs
        before: tuple[Sequence[DecodeOutcome], list[Any]] = ((), [])
        while remaining:
            if self.stop.is_set():
                return None
            decoded = lane.decode(remaining)
            remaining = decoded.remaining
            self.health.judge(decoded.outcomes)
            encodings = []
            if any(outcome.video is not None for outcome in decoded.outcomes):
                encodings = [self.engine.encode(branch, decoded) for branch in branches]
                for branch, handle in zip(branches, encodings, strict=True):
                    handles[branch.modality.path].append(handle)
            # Only now, so that the encoders have the next chunk at hand when they are through with this one.
            self._finish(*before, outcomes)
            before = (decoded.outcomes, encodings)
        self._finish(*before, outcomes)
        return self.engine.write(unit, outcomes, handles)

    def _finish(self, chunk: Sequence[DecodeOutcome], handles: Sequence[Any], outcomes: list[DecodeOutcome]) -> None:
        """Wait for the encodings of a chunk."""
        self.engine.wait(handles)
        outcomes += chunk
        self.advance(len(chunk))
