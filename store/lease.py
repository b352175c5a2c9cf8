"""Who may write into a store.

One sealed object, ``_tables/lease.json``, names the holders: a run for each part of the shards, and for a moment
whoever changes the plan. It is replaced by compare-and-swap alone, so of two that want the same at once one wins. A
holder shows that it lives by a heartbeat of its own now and then; one whose process is gone (same machine) or that was
silent for a while (another machine) is dead, and may be taken over. Every write of a run is guarded by its lease (see
``Objects.guarded``), so that workers that outlive their run can no longer change anything.

Nothing here relies on clocks for safety: where two clocks disagree so much that a living run is taken for dead, that
run is refused from then on, and stops.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from store.errors import StoreError
from store.layout import HEARTBEATS, LEASE
from store.objects import Objects
from store.sealed import seal, unseal

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 90.0
PLANNING_SECONDS = 120.0

_PLANNING = "planning"
# Tokens of what this process holds right now: a lease that it failed to give back is nobody's.
_held: set[str] = set()


@dataclass(frozen=True)
class Part:
    """Which share of the shards a run works on: shard s belongs to part ``s % count``. ``0 of 1`` is all of them."""

    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index


WHOLE = Part()


@dataclass(frozen=True)
class Lease:
    """Permission to write, as it travels to the writers. ``name`` is that of the part that is held."""

    name: str
    epoch: int
    token: str

    def check(self, objects: Objects) -> None:
        """Raise ``StoreError`` (``stale-lease``) unless this lease still stands."""
        state = _state(objects.get(LEASE))
        holder = state["holders"].get(self.name)
        if holder is None or holder["token"] != self.token:
            raise StoreError(
                f"this run held the store {objects.url} under lease {self.epoch}, but lease {state['epoch']} has taken "
                "over; nothing more is written by this run",
                kind="stale-lease",
            )

    def stamp(self) -> dict[str, str]:
        """When a commit was written and under which lease: metadata of the commits that are written now."""
        return {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "epoch": str(self.epoch)}

    def guard(self, objects: Objects) -> Objects:
        """The objects, writable for as long as this lease stands."""
        return objects.guarded(lambda: self.check(objects))


@contextlib.contextmanager
def hold(objects: Objects, part: Part) -> Iterator[Lease]:
    """Hold the lease of a part while the block runs.

    Raises ``StoreError`` (``store-locked``) that names the holder where another run is alive on the same shards.
    """
    with _hold(objects, part.name, wait_seconds=0.0) as lease:
        yield lease


@contextlib.contextmanager
def planning(objects: Objects) -> Iterator[Objects]:
    """Objects for one who makes or changes the plan or the definition of a group; the next one waits. What was read
    before has to be read again: it may have changed."""
    with _hold(objects, _PLANNING, wait_seconds=PLANNING_SECONDS) as lease:
        yield lease.guard(objects)


def living(objects: Objects) -> list[dict[str, Any]]:
    """Holders of live leases: ``host``, ``pid``, ``since`` and ``part`` of each run that is working on the store, and
    ``silent_seconds`` since its last heartbeat."""
    holders = _state(objects.get(LEASE))["holders"].items()
    return [
        {**holder, "part": name, "silent_seconds": objects.age(_heartbeat_key(name))}
        for name, holder in holders
        if _alive(objects, name, holder)
    ]


@contextlib.contextmanager
def _hold(objects: Objects, name: str, *, wait_seconds: float) -> Iterator[Lease]:
    lease = _acquire(objects, name, time.monotonic() + wait_seconds)
    stop = threading.Event()
    thread = threading.Thread(target=_heartbeat, args=(objects, lease, stop), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        _held.discard(lease.token)
        with contextlib.suppress(StoreError):  # what ended the block is the news; a lease left behind dies of itself
            _release(objects, lease)


def _acquire(objects: Objects, name: str, deadline: float) -> Lease:
    while True:
        current = objects.get(LEASE)
        state = _state(current)
        living = {other: holder for other, holder in state["holders"].items() if _alive(objects, other, holder)}
        busy = [other for other in living if _conflict(name, other)]
        if busy and time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        if busy:
            holder = living[busy[0]]
            raise StoreError(
                f"store {objects.url} is in use by process {holder['pid']} on {holder['host']} since "
                f"{holder['since']} (part {busy[0]}); wait for it, or stop it",
                kind="store-locked",
            )
        lease = Lease(name, state["epoch"] + 1, secrets.token_hex(8))
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        living[name] = {**asdict(_this_process()), "since": since, "epoch": lease.epoch, "token": lease.token}
        _beat(objects, lease)
        _held.add(lease.token)
        if objects.swap(LEASE, seal({"epoch": lease.epoch, "holders": living}), current, point="lease"):
            return lease
        _held.discard(lease.token)


def _release(objects: Objects, lease: Lease) -> None:
    while True:
        current = objects.get(LEASE)
        state = _state(current)
        if state["holders"].get(lease.name, {}).get("token") != lease.token:
            return
        del state["holders"][lease.name]
        if objects.swap(LEASE, seal(state), current, point="lease"):
            objects.delete(_heartbeat_key(lease.name))
            return


def _conflict(name: str, other: str) -> bool:
    """Parts of the same count never meet; anything else may share a shard."""
    if _PLANNING in (name, other):
        return name == other
    return name == other or name.partition("-of-")[2] != other.partition("-of-")[2]


def _state(data: bytes | None) -> dict[str, Any]:
    """The holders. A damaged lease names nobody: whoever held it is refused, and the next run makes a new one."""
    try:
        return {"epoch": 0, "holders": {}} if data is None else unseal(data)
    except ValueError:
        return {"epoch": 0, "holders": {}}


def _heartbeat_key(name: str) -> str:
    return f"{HEARTBEATS}/{name}.json"


def _beat(objects: Objects, lease: Lease) -> None:
    objects.put(_heartbeat_key(lease.name), seal({"token": lease.token}), point="heartbeat")


def _heartbeat(objects: Objects, lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(StoreError):
            _beat(objects, lease)


@dataclass(frozen=True)
class _Process:
    host: str
    boot: str
    pid: int
    started: str


def _this_process() -> _Process:
    return _Process(socket.gethostname(), _boot_id(), os.getpid(), _started(os.getpid()) or "")


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks, which tells it from a later one with the same number."""
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _alive(objects: Objects, name: str, holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname() and holder["boot"] == _boot_id():
        if holder["pid"] == os.getpid():
            return holder["token"] in _held
        return _started(int(holder["pid"])) == holder["started"]
    age = objects.age(_heartbeat_key(name))
    return age is not None and age < DEAD_AFTER_SECONDS
