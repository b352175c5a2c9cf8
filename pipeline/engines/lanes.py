"""Running units of work in lanes.

A lane is a thread that takes one unit (a shard) after the other and has a decoder of its own. It decodes a chunk of
videos while the chunk before is being encoded, so at most two chunks of frames a lane are alive at any time: memory is
bounded by the number of lanes, however many videos there are. Lanes share the encoders. While one lane waits for its
last encodings and writes, the others keep the encoders busy, which is why there are at least two.
"""

from __future__ import annotations

import os
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

# A run stops where so many videos in a row fail for reasons that the environment may be to blame for, or more than this
# share of at least so many.
ENVIRONMENT_FAILURES_IN_A_ROW = 8
ENVIRONMENT_FAILURE_SHARE = 0.1
SHARE_COUNTS_FROM = 50

# Where the disk did not answer, asking it once more would hang this process too.
_ROOT_IS_ASKED_AFTER = ("io-error", "file-missing")

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
    tried: int = 0
    failed: int = 0
    in_a_row: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._device = _device(self.root)

    def judge(self, outcomes: Sequence[DecodeOutcome]) -> None:
        """Raise when the environment, not a video, is to blame: nothing may be condemned for it."""
        for outcome in outcomes:
            failure = outcome.failure
            environmental = failure is not None and failure.kind in RetryError.KINDS
            with self.lock:
                self.tried += 1
                self.failed += environmental
                self.in_a_row = self.in_a_row + 1 if environmental else 0
                many = self._too_many()
            if failure is None or not environmental:
                continue
            if failure.kind in _ROOT_IS_ASKED_AFTER and self._root_is_gone():
                raise RetryError(
                    f"root {self.root} is gone; nothing is condemned for it: mount it again and run the same command",
                    kind="root-missing",
                )
            if many:
                raise StoreError(
                    f"{many} could not be read, the last one {outcome.ref.video_id!r}: {failure.message}; nothing is "
                    "condemned for it: mend the cause and run the same command",
                    kind="too-many-failures",
                )

    def _too_many(self) -> str:
        if self.in_a_row >= ENVIRONMENT_FAILURES_IN_A_ROW:
            return f"{self.in_a_row} videos in a row"
        if self.tried >= SHARE_COUNTS_FROM and self.failed > ENVIRONMENT_FAILURE_SHARE * self.tried:
            return f"{self.failed} of {self.tried} videos"
        return ""

    def _root_is_gone(self) -> bool:
        # What is left of a disk that was unmounted is the folder that it was mounted on: on another device, or empty.
        device = _device(self.root)
        return device is None or device != self._device


def _device(folder: Path) -> int | None:
    """The device that a folder lies on; None where there is no such folder, or nothing in it."""
    try:
        with os.scandir(folder) as entries:
            return folder.stat().st_dev if any(True for _ in entries) else None
    except OSError:
        return None


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
