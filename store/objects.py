"""Durable, atomic objects: the seam between a store and the disk or bucket where its bytes lie.

A key is a relative path with ``/``. Whoever reads a key sees all of an old object or all of a new one, and what a
method has written when it returns survives a power failure. Writers that outlive their run are kept out by a guard:
see ``Objects.guarded``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

Guard = Callable[[], None]

# An offset, and uint8 arrays that take the bytes from there on, one after the other.
Piece = tuple[int, Sequence[np.ndarray]]


class Blob(Protocol):
    """One object, opened: it stays what it was when it was opened, whatever is written under its key."""

    size: int

    def tail(self, length: int) -> np.ndarray:
        """The last ``length`` bytes (all of them, where there are fewer), uint8."""

    def fill(self, pieces: Sequence[Piece]) -> None:
        """Fill the buffers of every piece with the bytes from its offset on, which all lie inside the object."""


@dataclass(frozen=True)
class Listing:
    """What lies directly under a prefix: objects with their versions (which change whenever an object is written), and
    the names of folders."""

    objects: dict[str, str]
    folders: tuple[str, ...]


class Objects(Protocol):
    """The seam between a store and where its bytes lie. ``tests/conformance/test_objects.py`` holds every
    implementation to it.

    Methods raise ``StoreError``: ``store-unwritable`` and ``store-unreadable`` where the disk or the service fails.
    """

    @property
    def url(self) -> str:
        """What ``open_objects`` takes."""

    def describe(self, key: str) -> str:
        """Where an object lies, for messages."""

    def get(self, key: str) -> bytes | None:
        """The whole object, or None where there is none."""

    def open(self, key: str) -> AbstractContextManager[Blob]:
        """The object, to read parts of it; raises ``FileNotFoundError`` where there is none."""

    def size(self, key: str) -> int | None:
        """Size in bytes, or None where there is no such object."""

    def age(self, key: str) -> float | None:
        """Seconds since the object was written, or None where there is none."""

    def put(self, key: str, data: bytes, *, point: str = "object") -> None:
        """Write an object, or replace it. ``point`` names the failpoints on the way."""

    def swap(self, key: str, data: bytes, expected: bytes | None, *, point: str = "object") -> bool:
        """Write an object only if what is there is ``expected`` (None: nothing); False where it is not. No two callers
        succeed with one ``expected``, and nobody's guarded write happens between the look and the writing."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def prune(self, folder: str) -> None:
        """Remove a folder and those above it as far as they are empty, where there is such a thing as a folder. Only
        for one who holds the whole store: a writer that is at work takes the folders that it has made for granted."""

    def scan(self, prefix: str = "") -> Listing:
        """What lies directly under a prefix."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys of all objects below a prefix, sorted, temporary files left out."""

    def temporaries(self) -> Iterator[str]:
        """Keys of what writers left behind when they were killed."""

    def guarded(self, guard: Guard) -> Self:
        """The same objects for one who holds a lease: ``put`` and ``delete`` call ``guard``, which raises when somebody
        else has taken over, and then cannot overwrite anything that the successor wrote."""


def open_objects(url: str | os.PathLike[str]) -> Objects:
    """The objects of the store at ``url``: a directory, or ``s3://bucket/prefix``. Touches nothing yet.

    Raises ``UsageError`` for any other kind of address, and for ``s3://`` without a bucket or a prefix.
    """
    if str(url).startswith("s3://"):
        from store.s3 import S3Objects

        return S3Objects(str(url))
    from store.local import LocalObjects

    return LocalObjects(url)


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether ``url`` names an object store rather than a directory."""
    return "://" in str(url)
