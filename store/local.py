"""Objects as files under a directory, on a local or a network file system."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import StoreError, UsageError
from store.failpoints import reach
from store.objects import Blob, Guard, Listing, Piece, is_remote

TEMPORARY = ".tmp-"
# No object: it holds nothing, and only serves to be locked.
LOCK = "_tables/.lock"
LOCK_SECONDS = 60.0
_IOV_MAX = os.sysconf("SC_IOV_MAX")


class LocalObjects:
    """Objects under ``root``.

    An object is written to a temporary file in the same directory, flushed to the disk, renamed over the key, and the
    directory is flushed as well. Guards and swaps exclude each other by ``flock`` on one file: a successor gets its
    lease only when no guarded rename is under way, and whoever renames later looks at the lease first.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if is_remote(root):
            raise UsageError(f"store is {str(root)!r}; allowed: a directory, or s3://bucket/prefix")
        self.root = Path(root).absolute()
        self._guard: Guard | None = None
        self._settled: set[Path] = set()

    @property
    def url(self) -> str:
        return str(self.root)

    def describe(self, key: str) -> str:
        return str(self.path(key))

    def path(self, key: str) -> Path:
        return self.root / key

    def get(self, key: str) -> bytes | None:
        with _read_errors(self.path(key)):
            try:
                return self.path(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Blob]:
        path = os.path.join(self.root, key)  # many of these a batch: the plain function costs a tenth of pathlib's
        with _read_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except NotADirectoryError as error:
                raise FileNotFoundError(str(error)) from None
            try:
                yield _File(descriptor)
            finally:
                os.close(descriptor)

    def size(self, key: str) -> int | None:
        status = self._status(key)
        return None if status is None else status.st_size

    def age(self, key: str) -> float | None:
        status = self._status(key)
        return None if status is None else time.time() - status.st_mtime

    def put(self, key: str, data: bytes, *, point: str = "object") -> None:
        temporary = self._write_temporary(key, data, point)
        with self._shielded(key, temporary):
            self._move(temporary, key, point)

    def swap(self, key: str, data: bytes, expected: bytes | None, *, point: str = "object") -> bool:
        temporary = self._write_temporary(key, data, point)
        with self._locked(fcntl.LOCK_EX, temporary):
            if self.get(key) != expected:
                temporary.unlink()
                return False
            self._move(temporary, key, point)
        return True

    def delete(self, key: str) -> None:
        with self._shielded(key, None), _write_errors(self.path(key)):
            try:
                self.path(key).unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            reach("deleted")
            _flush_directory(self.path(key).parent)

    def prune(self, folder: str) -> None:
        path = self.path(folder)
        while path != self.root:
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return  # something lies in it
            self._settled.discard(path)
            path = path.parent

    def scan(self, prefix: str = "") -> Listing:
        objects, folders, lock = {}, [], str(self.path(LOCK))
        with _read_errors(self.path(prefix)):
            try:
                entries = list(os.scandir(self.path(prefix)))
            except FileNotFoundError:
                entries = []
            except NotADirectoryError:
                path = self.path(prefix)
                blocking = next(each for each in (path, *path.parents) if each.exists())
                raise StoreError(
                    f"{blocking} is a file; a store is a directory: name another with --store",
                    kind="store-format",
                ) from None
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif not _is_temporary(entry.name) and entry.path != lock:
                    with contextlib.suppress(FileNotFoundError):  # removed since the directory was read
                        status = entry.stat()
                        # A clock may stand still between two writings; the next file then has another number.
                        objects[entry.name] = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
        return Listing(dict(sorted(objects.items())), tuple(sorted(folders)))

    def list(self, prefix: str = "") -> Iterator[str]:
        return (key for key in self._walk(prefix) if not _is_temporary(key) and key != LOCK)

    def temporaries(self) -> Iterator[str]:
        return (key for key in self._walk("") if _is_temporary(key))

    def guarded(self, guard: Guard) -> LocalObjects:
        twin = copy.copy(self)
        twin._guard = guard
        return twin

    def _status(self, key: str) -> os.stat_result | None:
        with _read_errors(self.path(key)):
            try:
                return self.path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _walk(self, prefix: str) -> Iterator[str]:
        with _read_errors(self.path(prefix)):
            for folder, folders, names in os.walk(self.path(prefix), onerror=_unless_gone):
                folders.sort()
                for name in sorted(names):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _write_temporary(self, key: str, data: bytes, point: str) -> Path:
        path = self.path(key)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        with _write_errors(path):
            self._settle(path.parent)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    reach(f"{point}-written")
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        reach(f"{point}-flushed")
        return temporary

    def _settle(self, folder: Path) -> None:
        """Make a directory and those above it, durably. One that is there already may have been made a moment ago by
        somebody who has not flushed it yet, so the first use flushes it too."""
        if folder in self._settled:
            return
        if folder != self.root:
            self._settle(folder.parent)
        else:
            for above in reversed([path for path in folder.parents if not path.is_dir()]):
                above.mkdir(exist_ok=True)
                _flush_directory(above.parent)
        folder.mkdir(exist_ok=True)
        _flush_directory(folder.parent)
        self._settled.add(folder)

    def _move(self, temporary: Path, key: str, point: str) -> None:
        with _write_errors(self.path(key)):
            os.replace(temporary, self.path(key))
            reach(f"{point}-renamed")
            _flush_directory(self.path(key).parent)

    @contextlib.contextmanager
    def _shielded(self, key: str, temporary: Path | None) -> Iterator[None]:
        """Run the guard, if there is one, and let nobody take over until the block is through."""
        if self._guard is None:
            yield
            return
        with self._locked(fcntl.LOCK_SH, temporary):
            self._guard()
            yield

    @contextlib.contextmanager
    def _locked(self, mode: int, temporary: Path | None) -> Iterator[None]:
        """Hold the store's lock; where the block raises, the temporary file goes."""
        try:
            with _write_errors(self.path(LOCK)):
                self._settle(self.path(LOCK).parent)
                descriptor = os.open(self.path(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(descriptor, mode)
                yield
            finally:
                os.close(descriptor)
        except BaseException:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            raise

    def _lock(self, descriptor: int, mode: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise StoreError(
                        f"the file system of {self.root} has no locks: {error.strerror}; mount it with flock, or use "
                        "another directory",
                        kind="store-unwritable",
                    ) from error
            if time.monotonic() > deadline:
                raise StoreError(
                    f"a writer has stood still in the middle of a write to {self.root} for {LOCK_SECONDS:g} seconds; "
                    "end it, or let it go on (it may be a stopped process of an earlier run)",
                    kind="store-locked",
                )
            time.sleep(0.01)


class _File:
    """An open file, read into the arrays that are to hold its bytes. It is not mapped: a disk that fails then ends a
    read with an error, and not the process, and many short reads cost less."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def tail(self, length: int) -> np.ndarray:
        data = np.empty(min(length, self.size), np.uint8)
        self.fill([(self.size - len(data), [data])])
        return data

    def fill(self, pieces: Sequence[Piece]) -> None:
        for offset, buffers in pieces:
            self._fill_piece(offset, list(buffers))

    def _fill_piece(self, offset: int, buffers: list[np.ndarray]) -> None:
        """In one call, or in more where the system takes or gives less."""
        while left := sum(map(len, buffers)):
            views: Any = buffers[:_IOV_MAX]
            got = os.preadv(self._descriptor, views, offset)
            if got == 0:
                raise OSError(errno.EIO, "the file has become shorter")
            offset += got
            buffers = [] if got == left else _without(buffers, got)


def _without(buffers: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Buffers without their first bytes."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    return []


def _unless_gone(error: OSError) -> None:
    """A folder that cannot be read must not pass for an empty one."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_temporary(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith(TEMPORARY)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line; what was committed before stays as it was."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; nothing that was committed is harmed, "
            "run the same command again once the cause is gone",
            kind="store-unwritable",
        ) from error


@contextlib.contextmanager
def _read_errors(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; see that the disk is there, and that you may read it",
            kind="store-unreadable",
        ) from error


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
