"""Durable, atomic objects in a directory: the only code that writes into a store.

A key is a relative path with ``/``. Whoever reads a key sees all of the old object or all of the new one, and once
``put`` has returned the object survives a power failure: it is written to a temporary file in the same directory,
flushed to the disk, renamed over the key, and the directory is flushed as well.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from store.errors import StoreError, UsageError
from store.failpoints import reach

TEMPORARY = ".tmp-"


class LocalObjects:
    """Objects under ``root`` on a local or POSIX network file system."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if "://" in str(root):
            raise UsageError(f"store is {str(root)!r}; allowed: a directory on a local or network file system")
        self.root = Path(root).absolute()

    def path(self, key: str) -> Path:
        return self.root / key

    def get(self, key: str) -> bytes | None:
        """The whole object, or None where there is none."""
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        """Size in bytes, or None where there is no such object."""
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, data: bytes, *, point: str = "object") -> None:
        """Write ``data`` under ``key``, replacing what is there. ``point`` names the failpoints on the way."""
        temporary = self._write_temporary(key, data, point)
        with _disk_errors(self.path(key)):
            os.replace(temporary, self.path(key))
            reach(f"{point}-renamed")
            _flush_directory(self.path(key).parent)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write ``data`` under ``key`` only if nothing is there; False where something is."""
        temporary = self._write_temporary(key, data, "new")
        with _disk_errors(self.path(key)):
            try:
                os.link(temporary, self.path(key))
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            _flush_directory(self.path(key).parent)
        return True

    def delete(self, key: str) -> None:
        """Remove an object durably; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _disk_errors(self.path(key)):
            self.path(key).unlink()
            _flush_directory(self.path(key).parent)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under a directory, sorted, temporary files left out."""
        for key in self._walk(prefix):
            if not key.rsplit("/", 1)[-1].startswith(TEMPORARY):
                yield key

    def temporaries(self) -> Iterator[str]:
        """Keys of temporary files that writers left behind when they were killed."""
        for key in self._walk(""):
            if key.rsplit("/", 1)[-1].startswith(TEMPORARY):
                yield key

    def _walk(self, prefix: str) -> Iterator[str]:
        for folder, folders, names in os.walk(self.path(prefix)):
            folders.sort()
            for name in sorted(names):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _write_temporary(self, key: str, data: bytes, point: str) -> Path:
        path = self.path(key)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        with _disk_errors(path):
            _make_directories(path.parent)
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


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line; what was committed before stays as it was."""
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; nothing that was committed is harmed, "
            "run the same command again once the cause is gone",
            kind="store-unwritable",
        ) from error


def _make_directories(path: Path) -> None:
    """Create missing directories, each made durable in its parent."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _flush_directory(folder.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
