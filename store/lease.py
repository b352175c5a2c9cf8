"""Who may write into a store.

A run holds a lease: a numbered file (its epoch) under ``_tables/leases``, made only if that number is not taken. The
holder touches it now and then; a lease whose process is gone (same machine) or that was not touched for a while
(another machine) is dead and may be taken over with the next number. Writers compare their epoch with the newest
before they commit, so that workers that outlive their run can no longer commit anything.
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
from store.layout import LEASES
from store.objects import LocalObjects
from store.sealed import seal, unseal

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 90.0


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
    """Permission to write, as it travels to the writers."""

    part: Part
    epoch: int
    token: str

    @property
    def key(self) -> str:
        return _key(self.part.name, self.epoch)

    def check(self, objects: LocalObjects) -> None:
        """Raise ``StoreError`` (``stale-lease``) unless this lease is still the newest of its part."""
        newest = max(_epochs(objects, self.part.name), default=0)
        holder = _holder(objects, self.key)
        if newest != self.epoch or holder is None or holder["token"] != self.token:
            raise StoreError(
                f"this run held the store {objects.root} under lease {self.epoch}, but lease {newest} has taken over; "
                "nothing more is written by this run",
                kind="stale-lease",
            )


@contextlib.contextmanager
def hold(objects: LocalObjects, part: Part) -> Iterator[Lease]:
    """Hold the lease of a part while the block runs.

    Raises ``StoreError`` (``store-locked``) that names the holder where another run is alive on the same shards.
    """
    lease = _acquire(objects, part)
    stop = threading.Event()
    thread = threading.Thread(target=_heartbeat, args=(objects.path(lease.key), stop), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        holder = _holder(objects, lease.key)
        if holder is not None and holder["token"] == lease.token:
            objects.put(lease.key, seal({**holder, "released": True}), point="lease")


def _acquire(objects: LocalObjects, part: Part) -> Lease:
    while True:
        for other, holder in _living(objects):
            # Parts of the same count never meet; anything else may share a shard.
            if other == part.name or not other.endswith(f"-of-{part.count}"):
                raise StoreError(
                    f"store {objects.root} is in use by process {holder['pid']} on {holder['host']} since "
                    f"{holder['since']} (part {other}); wait for it, or stop it",
                    kind="store-locked",
                )
        epochs = _epochs(objects, part.name)
        lease = Lease(part, max(epochs, default=0) + 1, secrets.token_hex(8))
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        holder = {**asdict(_this_process()), "since": since, "token": lease.token, "released": False}
        if objects.put_new(lease.key, seal(holder)):
            for epoch in epochs:
                objects.delete(_key(part.name, epoch))
            return lease


def living(objects: LocalObjects) -> list[dict[str, Any]]:
    """Holders of live leases: ``host``, ``pid``, ``since`` and ``part`` of each run that is working on the store."""
    return [{**holder, "part": part} for part, holder in _living(objects)]


def _living(objects: LocalObjects) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = objects.path(LEASES)
    for part in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
        epoch = max(_epochs(objects, part), default=0)
        holder = _holder(objects, _key(part, epoch))
        if holder is not None and not holder["released"] and _alive(objects.path(_key(part, epoch)), holder):
            yield part, holder


def _key(part: str, epoch: int) -> str:
    return f"{LEASES}/{part}/{epoch}.json"


def _epochs(objects: LocalObjects, part: str) -> list[int]:
    folder = objects.path(f"{LEASES}/{part}")
    names = [path.stem for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _holder(objects: LocalObjects, key: str) -> dict[str, Any] | None:
    """The holder that a lease names. A damaged lease counts as held by nobody: its epoch still blocks older writers."""
    data = objects.get(key)
    try:
        return None if data is None else unseal(data)
    except ValueError:
        return None


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


def _alive(path: Path, holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname() and holder["boot"] == _boot_id():
        return _started(int(holder["pid"])) == holder["started"]
    try:
        return time.time() - path.stat().st_mtime < DEAD_AFTER_SECONDS
    except FileNotFoundError:
        return False


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
