"""Disks that fail as real ones do: mounts that go away, and a file system whose reads fail, take long or never end.

``python disks.py FOLDER MOUNT FAULTS`` serves the files of ``FOLDER`` read-only at ``MOUNT``, by the kernel's FUSE
protocol. ``FAULTS`` is a JSON file of the faults of the moment: by file name (or ``*`` for all) ``"eio"``, ``"eio
later"`` (in the second half of the file), ``"hang"`` (the read is never answered) or a number (seconds that every read
takes).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MS_RDONLY, MS_NOSUID, MS_NODEV, MNT_DETACH = 1, 2, 4, 2
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: Path, flags: int = 0, data: str = "") -> None:
    """Mount a file system of ``kind``. Raises ``OSError``."""
    if _libc.mount(kind.encode(), os.fsencode(target), kind.encode(), flags, data.encode()):
        raise OSError(ctypes.get_errno(), f"mount {kind}")


def unmount(target: Path) -> None:
    """Take the file system away from its folder, though files of it be open."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"unmount {target}")


@contextlib.contextmanager
def tmpfs(target: Path, size: str = "") -> Iterator[Path]:
    """A file system in memory at ``target``, of a size such as ``4k``; skips the test where mounting is not allowed."""
    target.mkdir(exist_ok=True)
    try:
        mount("tmpfs", target, data=f"size={size}" if size else "")
    except OSError as error:
        pytest.skip(f"mounting is not allowed here, run as root to test this: {error}")
    try:
        yield target
    finally:
        with contextlib.suppress(OSError):
            unmount(target)


class FaultyDisk:
    """The files of a folder on a disk with faults, served by a process of its own. Skips the test where FUSE is not
    allowed."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.root, self._faults = target, target.with_suffix(".json")
        target.mkdir(exist_ok=True)
        self.set_faults({})
        command = [sys.executable, __file__, folder, target, self._faults]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        if (answer := self._server.stdout.readline().strip()) != "mounted":
            self._server.wait()
            pytest.skip(f"FUSE is not allowed here, run as root to test this: {answer}")

    def set_faults(self, faults: dict[str, object]) -> None:
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps(faults))
        new.rename(self._faults)

    def wait_for_a_read(self) -> None:
        """Until a read begins to hang."""
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "hanging\n"

    def die(self) -> None:
        """Stop to serve: what is read, and what was never answered, fails. The mount stays."""
        self._server.kill()
        self._server.wait()

    def __enter__(self) -> FaultyDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        unmount(self.root)
        if self._server.stdout is not None:
            self._server.stdout.close()


class _Server:
    """Enough of FUSE (protocol 7.31) for a tree of files that are only read."""

    def __init__(self, folder: Path, fd: int, faults: Path) -> None:
        self._fd, self._faults = fd, faults
        self._paths = {1: folder}
        self._nodes = {folder: 1}

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # unmounted
            _, code, unique, node, *_ = struct.unpack_from("<IIQQIIII", request)
            handler = self._HANDLERS.get(code)
            if code in self._WITHOUT_ANSWER:
                continue
            try:
                answer = handler(self, node, request[40:]) if handler else errno.ENOSYS
            except OSError as error:
                answer = error.errno or errno.EIO
            if answer is None:
                continue
            failed = isinstance(answer, int)
            body = b"" if failed else answer
            with contextlib.suppress(OSError):  # whoever asked is gone
                os.write(self._fd, struct.pack("<IiQ", 16 + len(body), -answer if failed else 0, unique) + body)

    def _init(self, node: int, body: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHH8I", 7, 31, 1 << 17, 0, 16, 12, 4096, 1, 32, 0, *[0] * 8)

    def _attributes(self, path: Path) -> bytes:
        found = path.stat()
        seconds, rest = divmod(found.st_mtime_ns, 10**9)
        times, rests = [seconds] * 3, [rest] * 3
        blocks = -(-found.st_size // 512)
        owner = (found.st_mode, found.st_nlink, 0, 0, 0, 4096, 0)
        return struct.pack("<6Q10I", found.st_ino, found.st_size, blocks, *times, *rests, *owner)

    def _lookup(self, node: int, body: bytes) -> bytes:
        path = self._paths[node] / os.fsdecode(body.split(b"\0")[0])
        attributes = self._attributes(path)
        number = self._nodes.setdefault(path, len(self._nodes) + 1)
        self._paths[number] = path
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + attributes

    def _getattr(self, node: int, body: bytes) -> bytes:
        return struct.pack("<Q2I", 0, 0, 0) + self._attributes(self._paths[node])

    def _open(self, node: int, body: bytes) -> bytes:
        return struct.pack("<Q2I", 0, 0, 0)

    def _read(self, node: int, body: bytes) -> bytes | int | None:
        _, offset, size = struct.unpack_from("<QQI", body)
        path = self._paths[node]
        faults = json.loads(self._faults.read_text())
        fault = faults.get(path.name, faults.get("*"))
        if fault == "hang":
            print("hanging", flush=True)
            return None
        if fault == "eio" or (fault == "eio later" and offset + size > path.stat().st_size // 2):
            return errno.EIO
        if isinstance(fault, float):
            time.sleep(fault)  # the fault itself: a slow disk
        with path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        entries = b""
        for number, path in enumerate(sorted(self._paths[node].iterdir())[offset:], offset + 1):
            name = os.fsencode(path.name)
            entry = struct.pack("<QQII", number, number, len(name), stat.S_IFMT(path.stat().st_mode) >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def _nothing(self, node: int, body: bytes) -> bytes:
        return b""

    _WITHOUT_ANSWER = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
    _HANDLERS = {  # noqa: RUF012
        1: _lookup, 3: _getattr, 14: _open, 15: _read, 18: _nothing, 25: _nothing,
        26: _init, 27: _open, 28: _readdir, 29: _nothing,
    }  # fmt: skip


def _serve(folder: Path, target: Path, faults: Path) -> None:
    # Where the tests are killed, the mount must not stay behind.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},max_read={1 << 17}"
        mount("fuse", target, MS_RDONLY | MS_NOSUID | MS_NODEV, options)
    except OSError as error:
        print(error, flush=True)
        return
    print("mounted", flush=True)
    try:
        _Server(folder, fd, faults).run()
    finally:
        unmount(target)


if __name__ == "__main__":
    _serve(*map(Path, sys.argv[1:]))
