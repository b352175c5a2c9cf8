"""What a power failure may leave of a directory, from a record of what was done to it.

A kill proves nothing about ``fsync``: the kernel writes on. Here every call that a store makes of the file system is
recorded, and for each moment of the record the worst that a file system may have kept is worked out: of a file what it
held at its last ``fsync``, of a directory the entries that it had at its last one; whatever came later may be lost,
each change for itself.
"""

from __future__ import annotations

import builtins
import itertools
import math
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import store.local as local_module


@dataclass(frozen=True)
class Step:
    """One call: ``write``, ``fsync``, ``move``, ``remove``, ``folder`` (mkdir), ``fsync-folder``; or ``note``, which a
    test puts in between. Paths are relative to the recorded folder; ``data`` is what a ``write`` left in the file, and
    ``target`` where a ``move`` went, or what a ``note`` says."""

    call: str
    path: str
    data: bytes = b""
    target: Any = None


@dataclass
class Recorder:
    """Records what ``store.local`` does below ``root``. ``without`` names calls that are left out of the record, as
    if they had not been made: what a store would be that forgets them."""

    root: Path
    without: frozenset[str] = frozenset()
    steps: list[Step] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)
    _folders: dict[int, str] = field(default_factory=dict)

    def note(self, value: Any) -> None:
        """From here on ``value`` is promised."""
        self.steps.append(Step("note", "", target=value))

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record while the block runs, whatever thread does it."""
        real_mkdir, real_unlink = Path.mkdir, Path.unlink

        def mkdir(path: Path, *args: Any, **options: Any) -> None:
            with self._lock:
                there = path.is_dir()
                real_mkdir(path, *args, **options)
                if not there:
                    self._add("folder", path)

        def unlink(path: Path, *args: Any, **options: Any) -> None:
            with self._lock:
                real_unlink(path, *args, **options)
                self._add("remove", path)

        with (
            mock.patch.object(local_module, "os", _RecordedOs(self)),
            mock.patch.object(local_module, "open", self._open, create=True),
            mock.patch.object(Path, "mkdir", mkdir),
            mock.patch.object(Path, "unlink", unlink),
        ):
            yield self

    def _open(self, path: Path, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        if "b" in mode and set(mode) & set("xwa+"):
            return _RecordedFile(self, file, path)
        return file

    def _add(self, call: str, path: Any, data: bytes = b"", target: Any = None) -> None:
        if call in self.without:
            return
        below = [os.path.relpath(each, self.root) if each is not None else None for each in (path, target)]
        if not str(below[0]).startswith(".."):
            self.steps.append(Step(call, str(below[0]), data, below[1]))


class _RecordedFile:
    """A file that is written; all else is the file's own."""

    def __init__(self, recorder: Recorder, file: Any, path: Path) -> None:
        self._recorder, self._file, self._path = recorder, file, path
        self._data = b""
        recorder._add("write", path)

    def write(self, data: bytes) -> int:
        written: int = self._file.write(data)
        self._data += data
        with self._recorder._lock:
            self._recorder._add("write", self._path, self._data)
        return written

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        descriptor: int = self._file.fileno()
        return descriptor

    def __enter__(self) -> _RecordedFile:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()


class _RecordedOs:
    """The module ``os`` as ``store.local`` sees it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, source: Path, target: Path) -> None:
        with self._recorder._lock:
            os.replace(source, target)
            self._recorder._add("move", source, target=target)

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        with self._recorder._lock:
            os.fsync(descriptor)
            self._recorder._add("fsync-folder" if path.is_dir() else "fsync", path)


@dataclass
class _File:
    """What lies on the disk of a file for sure, and what it holds."""

    durable: bytes | None = None
    data: bytes = b""

    def most(self) -> int:
        return 1 if self.durable == self.data else 3

    def left(self) -> Iterator[bytes]:
        """What a failure may leave: written and not flushed, a file may be empty, cut, or whole."""
        if self.durable == self.data:
            yield self.data
            return
        yield from {b"", self.data[: len(self.data) // 2], self.data}


@dataclass
class _Folder:
    """Entries that are on the disk for sure, and what was done to them since: each a few changes that come together
    (name and what it names now, None for nothing)."""

    durable: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[tuple[str, Any], ...]] = field(default_factory=list)

    def change(self, *changes: tuple[str, Any]) -> None:
        self.pending.append(changes)
        for name, entry in changes:
            if entry is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = entry

    def most(self) -> int:
        """No fewer than the states that a failure may leave."""
        return 2 ** len(self.pending) * math.prod(entry.most() for entry in {**self.durable, **self.entries}.values())

    def left(self) -> Iterator[dict[str, Any]]:
        """Entries that a failure may leave: any choice of the changes since the last flush."""
        for kept in itertools.product((True, False), repeat=len(self.pending)):
            yield self.after(kept)

    def after(self, kept: Sequence[bool]) -> dict[str, Any]:
        """Entries where these of the pending changes were kept."""
        entries = dict(self.durable)
        for keep, changes in zip(kept, self.pending, strict=True):
            for name, entry in changes if keep else ():
                if entry is None:
                    entries.pop(name, None)
                else:
                    entries[name] = entry
        return entries


State = dict[str, "bytes | None"]  # contents by path; None for a folder


def states_after(steps: Sequence[Step], *, limit: int, seed: int) -> Iterator[State]:
    """What a power failure after the last of these steps may leave, each once: all of it where that is at most
    ``limit``, else so many, drawn with a seed."""
    root = _replay(steps)
    if root.most() <= limit:
        states = list(_left(root))
    else:
        draw = random.Random(seed)
        states = [_drawn(root, draw) for _ in range(limit)]
    yield from {_frozen(state): state for state in states}.values()


def _frozen(state: State) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(sorted(state.items()))


def _replay(steps: Sequence[Step]) -> _Folder:
    root = _Folder()
    for step in steps:
        if step.call == "note":
            continue
        folder, name = _find(root, step.path)
        match step.call:
            case "write":
                if name not in folder.entries:
                    folder.change((name, _File()))
                folder.entries[name].data = step.data
            case "fsync":
                file = folder.entries[name]
                file.durable = file.data
            case "folder":
                folder.change((name, _Folder()))
            case "remove":
                folder.change((name, None))
            case "move":
                other, new = _find(root, step.target)
                assert other is folder, "only moves inside a folder are known here"
                folder.change((name, None), (new, folder.entries[name]))
            case "fsync-folder":
                flushed = folder.entries[name] if name else root
                flushed.durable, flushed.pending = dict(flushed.entries), []
    return root


def _find(root: _Folder, path: str) -> tuple[_Folder, str]:
    *folders, name = [part for part in path.split("/") if part != "."] or [""]
    folder = root
    for part in folders:
        folder = folder.entries[part]
    return folder, name


def _left(folder: _Folder, prefix: str = "") -> Iterator[State]:
    """All states of a folder, by product over what lies in it."""
    for entries in folder.left():
        parts = []
        for name, entry in entries.items():
            path = prefix + name
            if isinstance(entry, _Folder):
                parts.append([{path: None} | below for below in _left(entry, f"{path}/")])
            else:
                parts.append([{path: data} for data in entry.left()])
        for chosen in itertools.product(*parts):
            yield {key: value for part in chosen for key, value in part.items()}


def _drawn(folder: _Folder, draw: random.Random, prefix: str = "") -> State:
    state: State = {}
    for name, entry in folder.after([draw.random() < 0.5 for _ in folder.pending]).items():
        if isinstance(entry, _Folder):
            state |= {prefix + name: None} | _drawn(entry, draw, f"{prefix}{name}/")
        else:
            state[prefix + name] = draw.choice(list(entry.left()))
    return state


def materialise(state: State, root: Path) -> None:
    """Make a directory what a failure left."""
    root.mkdir(parents=True)
    for path, data in sorted(state.items()):
        if data is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
