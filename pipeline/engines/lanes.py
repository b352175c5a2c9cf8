"""Running units of work in lanes.

A lane is a thread that takes one unit (a shard) after the other and has a decoder of its own. It decodes a chunk of
videos while the chunk before is being encoded, so few chunks of frames a lane are alive at any time: memory is bounded
by the number of lanes, however many videos there are. Lanes share the encoders. While one lane waits for its last
encodings and writes, the others keep the encoders busy, which is why there are at least two.

The engine says how many lanes its machines hold, and is asked again while the run goes on: a node that joins late gets
lanes. A lane that loses a worker or its node ends, its unit begins again in another one, and the result says why. Units
are taken from an iterator one by one as lanes become free, so they need not fit into memory.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from pipeline.trace import Span
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
# How often the engine is asked for its capacity, and how long it may have none.
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
# Results that lanes may be ahead of whoever reads them.
_UNREAD = 16
_MOST_LANES = 4096


class WorkerLostError(Exception):
    """A worker or its node died: no fault of the unit, which has to begin again. The message is one line that says who
    died, and where."""


@dataclass(frozen=True)
class Decoded:
    """A decoded chunk: outcomes without frames, the engine's own handles on these and on the clips with frames, the
    refs still to decode, and when it was decoded. ``retries`` say what was decoded once more, and why, a line each."""

    outcomes: Sequence[DecodeOutcome]
    facts: Any
    clips: Any
    remaining: Sequence[VideoRef]
    span: Span
    retries: Sequence[str] = ()


class Lane(Protocol):
    """One lane of an engine: all that a unit goes through. Handles of encodings are the engine's own. Every method may
    raise ``WorkerLostError``; only ``close`` may follow."""

    def decode(self, refs: Sequence[VideoRef]) -> Decoded: ...

    def encode(self, branch: Branch, decoded: Decoded) -> Any:
        """Begin to encode a chunk; returns a handle."""

    def wait(self, handles: Sequence[Any]) -> Sequence[Span]:
        """Return when these encodings are done, and with when each was."""

    def write(
        self, unit: Unit, facts: Sequence[Any], handles: Mapping[str, Sequence[Any]]
    ) -> tuple[Mapping[str, list[CommitRow]], Span]:
        """Commit a unit: the ``facts`` of its chunks, and the handles of their encodings by branch, in order."""

    def cancel(self) -> None:
        """Make a ``decode`` that another thread waits for raise."""

    def close(self) -> None: ...


class Engine(Protocol):
    """Where the stages of a graph run."""

    def capacity(self) -> int:
        """Lanes that the engine's machines hold at present."""

    def lane(self) -> Lane:
        """Open a lane where there is room. May raise ``WorkerLostError``."""


@dataclass(frozen=True)
class UnitResult:
    """A committed unit: its rows by group. ``retries`` are lines that say what was done again for it, and why."""

    unit: Unit
    rows: Mapping[str, list[CommitRow]]
    seconds: float
    retries: tuple[str, ...]


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
    units: Iterable[Unit],
    root: Path,
    advance: Callable[[int], None] = lambda videos: None,
    record: Callable[[Span, int, Sequence[str]], None] = lambda span, shard, videos: None,
) -> Iterator[UnitResult]:
    """Run all units and yield each as it is committed, in no particular order.

    ``advance`` is told, from any thread, how many more videos are through the encoders; a negative number where a unit
    has to begin again. ``record`` is told, from any thread, of each stage call that is over, with the shard and the ids
    of the videos that it was for. The first error of any lane, or of ``units``, ends the run: no new unit is begun, and
    units in flight are dropped; what was committed stays.

    Raises ``StoreError`` (``too-many-failures``) where the environment fails, where the same unit loses its worker
    again and again, and where no machine is left.
    """
    run = _Run(engine, graph, _Health(root), advance, record, _Queue(units))
    lanes = capacity = 0
    look_at, give_up_at = 0.0, time.monotonic() + PATIENCE_SECONDS
    with ThreadPoolExecutor(_MOST_LANES, thread_name_prefix="lane") as pool:
        try:
            while True:
                now = time.monotonic()
                if now >= look_at or lanes < capacity:
                    capacity, look_at = min(engine.capacity(), _MOST_LANES), now + LOOK_SECONDS
                while lanes < capacity and run.queue:
                    pool.submit(run.work).add_done_callback(run.events.put)
                    lanes += 1
                if lanes or capacity:
                    give_up_at = now + PATIENCE_SECONDS
                if not lanes and not run.queue:
                    return
                if now > give_up_at:
                    raise StoreError(
                        f"no machine with a CPU has been left to the run for {PATIENCE_SECONDS:.0f} seconds; bring one "
                        "back and run the same command",
                        kind="too-many-failures",
                    )
                try:
                    event = run.events.get(timeout=LOOK_SECONDS)
                except Empty:
                    continue
                if isinstance(event, UnitResult):
                    run.unread.release()
                    yield event
                else:
                    lanes -= 1
                    event.result()
        finally:
            run.cancel()


@dataclass(frozen=True)
class _Task:
    """A unit to run, and what was done again for it so far."""

    unit: Unit
    losses: int = 0
    retries: tuple[str, ...] = ()


class _Queue:
    """Hands out units to the lanes: those that have to begin again first, then the next of the iterator, which is not
    asked for more than one ahead."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._new = (_Task(unit) for unit in units)
        self._waiting: list[_Task] = []
        self._lock = threading.Lock()

    def take(self) -> _Task | None:
        """The next task; None where there is none at present."""
        with self._lock:
            return self._waiting.pop() if self._waiting else next(self._new, None)

    def put_back(self, task: _Task) -> None:
        with self._lock:
            self._waiting.append(task)

    def __bool__(self) -> bool:
        """Whether there is a task to take."""
        with self._lock:
            if not self._waiting:
                self._waiting.extend(itertools.islice(self._new, 1))
            return bool(self._waiting)


@dataclass
class _Run:
    """What the lanes of one run share."""

    engine: Engine
    graph: Graph
    health: _Health
    advance: Callable[[int], None]
    record: Callable[[Span, int, Sequence[str]], None]
    queue: _Queue
    events: SimpleQueue[UnitResult | Future[None]] = field(default_factory=SimpleQueue)
    unread: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_UNREAD))
    stop: threading.Event = field(default_factory=threading.Event)
    open: set[Lane] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cancel(self) -> None:
        """Begin no new unit, and drop those in flight."""
        self.stop.set()
        self.unread.release(_MOST_LANES)
        with self.lock:
            for lane in self.open:
                lane.cancel()

    def work(self) -> None:
        """Work in one lane until there are no more units, or until it loses a worker: its unit then begins again in
        another lane, wherever there is room."""
        lane = None
        try:
            while not self.stop.is_set() and (task := self.queue.take()) is not None:
                retries = list(task.retries)
                try:
                    lane = lane or self._open()
                    result = self._unit(lane, task.unit, retries)
                except WorkerLostError as loss:
                    self.queue.put_back(_again(task, retries, loss))
                    return
                if result is not None:
                    self.unread.acquire()
                    self.events.put(result)
        except BaseException:
            self.stop.set()
            raise
        finally:
            if lane is not None:
                with self.lock:
                    self.open.discard(lane)
                lane.close()

    def _open(self) -> Lane:
        lane = self.engine.lane()
        with self.lock:
            self.open.add(lane)
        return lane

    def _unit(self, lane: Lane, unit: Unit, retries: list[str]) -> UnitResult | None:
        """Run one unit; ``retries`` grows by what is done again. None when told to stop."""
        began = time.monotonic()
        finished: list[int] = []
        try:
            rows = self._attempt(lane, unit, finished, retries)
        except WorkerLostError:
            self.advance(-sum(finished))
            raise
        return None if rows is None else UnitResult(unit, rows, time.monotonic() - began, tuple(retries))

    def _attempt(
        self, lane: Lane, unit: Unit, finished: list[int], retries: list[str]
    ) -> Mapping[str, list[CommitRow]] | None:
        """One attempt at a unit. ``finished`` grows by the videos of each chunk that is through the encoders."""
        branches = [branch for branch in self.graph.branches if branch.modality.path in unit.groups]
        handles: dict[str, list[Any]] = {branch.modality.path: [] for branch in branches}
        facts: list[Any] = []
        remaining: Sequence[VideoRef] = unit.refs
        before: tuple[list[str], list[Any]] = ([], [])
        failure: StoreError | None = None
        while remaining and failure is None:
            if self.stop.is_set():
                return None
            decoded = lane.decode(remaining)
            remaining = decoded.remaining
            retries += decoded.retries
            videos = [outcome.ref.video_id for outcome in decoded.outcomes]
            self.record(decoded.span, unit.shard, videos)
            try:
                self.health.judge(decoded.outcomes)
            except StoreError as error:
                failure = error
            facts.append(decoded.facts)
            encodings = []
            if any(outcome.video is not None for outcome in decoded.outcomes):
                encodings = [lane.encode(branch, decoded) for branch in branches]
                for branch, handle in zip(branches, encodings, strict=True):
                    handles[branch.modality.path].append(handle)
            # Only now, so that the encoders have the next chunk at hand when they are through with this one.
            self._finish(lane, unit, *before, finished)
            before = (videos, encodings)
            del decoded  # its frames: the next chunk may need their place
        self._finish(lane, unit, *before, finished)
        if failure is not None:
            # What failed is noted, so that the next run does not begin with it, and stop at it, once more.
            self._write(lane, unit.first(len(unit.refs) - len(remaining)), facts, handles)
            raise failure
        return self._write(lane, unit, facts, handles)

    def _finish(
        self, lane: Lane, unit: Unit, videos: Sequence[str], handles: Sequence[Any], finished: list[int]
    ) -> None:
        """Wait for the encodings of a chunk of a unit."""
        for span in lane.wait(handles):
            self.record(span, unit.shard, videos)
        finished.append(len(videos))
        self.advance(len(videos))

    def _write(
        self, lane: Lane, unit: Unit, facts: Sequence[Any], handles: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, list[CommitRow]]:
        rows, span = lane.write(unit, facts, handles)
        self.record(span, unit.shard, [ref.video_id for ref in unit.refs])
        return rows


def _again(task: _Task, retries: Sequence[str], loss: WorkerLostError) -> _Task:
    """The task as it begins again after a loss."""
    losses = task.losses + 1
    bound_losses(f"shard {task.unit.shard}", losses, loss)
    return _Task(task.unit, losses, (*retries, f"began again: {loss}"))


def bound_losses(what: str, losses: int, loss: WorkerLostError) -> None:
    """Raise ``StoreError`` where something has lost its worker too often to be tried again."""
    if losses >= UNIT_ATTEMPTS:
        raise StoreError(
            f"{what} was begun {losses} times, and each time a worker was lost, the last time: {loss}; look at that "
            "machine's memory and logs, and run the same command again",
            kind="too-many-failures",
        )
