"""Opening a video file: only regular files, only by descriptor, and faults of the environment told from faults of the
file.

A path is handed to the system's ``open`` and to nothing else. Codec libraries get ``/proc/self/fd/N``, so a name such
as ``concat:a|b`` or ``http:x.avi`` is the name of a local file, and the file that was examined is the one that is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from store.errors import RetryError, VideoError

# No picture of a real data set is larger (8K is 33 million pixels); a damaged header can claim 65535 x 65535.
MAX_PIXELS = 8192 * 8192

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Small enough that a slow disk shows progress now and then: the supervisor sees a read only when it returns.
_READ_BYTES = 1 << 17


@contextmanager
def open_regular(path: str) -> Iterator[int]:
    """A read-only descriptor of the regular file at ``path``.

    Raises ``VideoError`` (not-a-video) for anything that is not a regular file, and for an empty one; ``RetryError``
    (file-missing, io-error) where the system cannot open it.
    """
    try:
        # A FIFO would block on open and a device may act on it, so the kind is looked at before, and again after.
        _require_regular(path, os.stat(path))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:
        raise RetryError(f"{path!r} cannot be a path: {error}", kind="file-missing") from None
    except OSError as error:
        raise _environment(path, error) from None
    try:
        status = os.fstat(fd)
        _require_regular(path, status)
        if status.st_size == 0:
            raise VideoError(f"{path!r} is empty", kind="not-a-video")
        yield fd
    finally:
        with suppress(OSError):  # a disk that is gone tells so once more, when all has been read
            os.close(fd)


def fd_path(fd: int) -> str:
    """A name of the open file that no library can take for an address or a pattern."""
    return f"/proc/self/fd/{fd}"


def hash_file(path: str, fd: int) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of the whole file; raises ``RetryError`` (io-error) where it cannot be read."""
    digest, size = hashlib.sha256(), 0
    for block in _blocks(path, fd):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


@contextmanager
def blame_the_disk(path: str, fd: int) -> Iterator[None]:
    """Raise ``RetryError`` (io-error) after the block, whatever came of it, where the file cannot be read to its end.

    Demuxers take a failed read for the end of the file, and some decode what they have. Only a file that can be read is
    itself to blame for what is wrong with its video.
    """
    try:
        yield
    finally:
        for _ in _blocks(path, fd):
            pass


def _blocks(path: str, fd: int) -> Iterator[bytes]:
    position = 0
    try:
        while block := os.pread(fd, _READ_BYTES, position):
            yield block
            position += len(block)
    except OSError as error:
        raise _environment(path, error) from None


def looks_like_video(path: str, fd: int) -> bool:
    """Whether the file begins as one of the common video containers does; raises ``RetryError`` (io-error)."""
    head = next(_blocks(path, fd), b"")
    return (
        (head[:4] == b"RIFF" and head[8:11] == b"AVI")
        or head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        or head[:4] in (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u")
    )


def _require_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise VideoError(f"{path!r} is {found}, not a regular file", kind="not-a-video")


def _environment(path: str, error: OSError) -> RetryError:
    if error.errno in _ABSENT:
        return RetryError(f"{path!r} is not there: {error.strerror}", kind="file-missing")
    return RetryError(f"{path!r} cannot be read: {error.strerror or error}", kind="io-error")
