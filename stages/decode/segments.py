"""Anonymous shared memory that carries frames from the decoding process to its parent without a copy."""

from __future__ import annotations

import mmap
import os

import numpy as np

_ALIGNMENT = 4096


class SharedMemoryError(Exception):
    """The machine has no shared memory left. Only its own size limits that, so no video is to blame."""


class SegmentWriter:
    """The child's side of one memory file: grows it as needed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def write(self, offset: int, array: np.ndarray) -> int:
        """Copy ``array`` to ``offset`` and return the offset of the next. Raises ``SharedMemoryError``."""
        stop = offset + array.nbytes
        if self._map is None or stop > len(self._map):
            self._grow(stop)
        target = np.frombuffer(self._map, np.uint8, array.nbytes, offset)  # type: ignore[arg-type]
        target.reshape(array.shape)[...] = array
        return _aligned(stop)

    def _grow(self, size: int) -> None:
        size = _aligned(max(size, 1))
        try:
            # Without this the kernel would find out at the first write that memory is short, and kill the process.
            os.posix_fallocate(self._fd, 0, size)
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        except OSError as error:
            message = f"no room for {size} bytes of frames in shared memory: {error.strerror}"
            raise SharedMemoryError(message) from None


class SegmentReader:
    """The parent's side: read-only views, which stay valid when the segment grows or the child dies."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("frames", os.MFD_CLOEXEC)
        self._map: mmap.mmap | None = None

    def view(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 array of ``shape`` at ``offset``."""
        count = int(np.prod(shape, dtype=np.int64))
        if self._map is None or offset + count > len(self._map):
            self._map = mmap.mmap(self.fd, os.fstat(self.fd).st_size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8, count, offset).reshape(shape)

    def close(self) -> None:
        """Give up the descriptor; the memory goes when the last view does."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._map = None


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
