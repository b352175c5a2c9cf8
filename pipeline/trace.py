"""A trace of an extraction: when each worker was busy with what, for Perfetto (ui.perfetto.dev) and chrome://tracing.

The file is JSON of the Trace Event Format, as an array: a complete event ("X") for every stage call, on a row for every
thread or actor that stages ran on. Events are written as they come, so memory stays what it is however long a run is.
A run that is killed leaves the array open, which both viewers read. Times are the workers' own clocks: on a cluster,
rows of different nodes are off by as much as these are.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from store.errors import UsageError

T = TypeVar("T")

# No row has this number: Perfetto takes a thread with the number of its process for the main one.
_PROCESS = 0


@dataclass(frozen=True)
class Span:
    """One call of a stage: on which row, from when to when, in nanoseconds since 1970. Calls of a row never overlap."""

    stage: str
    row: str
    start: int
    end: int


def timed(stage: str, node: str | None, function: Callable[..., T], *arguments: Any) -> tuple[T, Span]:
    """Call a function; returns what it returned, and the span of the call. ``node`` names the machine of an actor; None
    stands for a thread of the submitting process."""
    row = threading.current_thread().name
    if node is not None:
        row = f"{stage} on node {node}, process {os.getpid()}, thread {threading.get_native_id()}"
    start = time.time_ns()
    result = function(*arguments)
    return result, Span(stage, row, start, time.time_ns())


@dataclass
class _Stage:
    rows: set[str] = field(default_factory=set)
    calls: int = 0
    busy: int = 0


class Trace:
    """Writes spans to a file, and adds up busy time. Raises ``UsageError`` where the file cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._began = time.time_ns()
        self._rows: dict[str, int] = {}
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        try:
            self._file = self.path.open("w", encoding="ascii")
        except OSError as error:
            raise UsageError(f"profile {self.path} cannot be written: {error.strerror}; name another file") from None
        named = {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": "vilp-pipe extract"}}
        self._file.write(f"[{json.dumps(named)}")

    def add(self, span: Span, shard: int, videos: Sequence[str]) -> None:
        """Write a call for ``videos`` of a shard. May be called from any thread."""
        with self._lock:
            if span.row not in self._rows:
                self._rows[span.row] = len(self._rows) + 1
                self._event(name="thread_name", ph="M", tid=self._rows[span.row], args={"name": span.row})
            # Whole microseconds, both ends rounded down, so that what follows on a row still does.
            start, end = ((at - self._began) // 1000 for at in (span.start, span.end))
            self._event(
                name=span.stage,
                ph="X",
                ts=start,
                dur=end - start,
                tid=self._rows[span.row],
                args={"shard": shard, "videos": list(videos)},
            )
            stage = self._stages.setdefault(span.stage, _Stage())
            stage.rows.add(span.row)
            stage.calls += 1
            stage.busy += span.end - span.start

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the file, wall seconds so far, and for each stage how many ``workers`` it had, its
        ``calls``, and the ``busy`` and ``idle`` seconds of these workers together: what is not busy is idle, start-up
        included. A thread that decodes and writes is a worker of both stages."""
        wall = (time.time_ns() - self._began) / 1e9
        with self._lock:
            stages = {
                name: {
                    "workers": len(stage.rows),
                    "calls": stage.calls,
                    "busy": stage.busy / 1e9,
                    "idle": wall * len(stage.rows) - stage.busy / 1e9,
                }
                for name, stage in sorted(self._stages.items())
            }
        return {"trace": str(self.path), "seconds": wall, "stages": stages}

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._file.write("]\n")
            self._file.close()

    def _event(self, **event: Any) -> None:
        self._file.write(f",\n{json.dumps({**event, 'pid': _PROCESS})}")
