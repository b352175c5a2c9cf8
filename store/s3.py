"""Objects in a bucket of S3 or of a service that speaks its protocol.

The library is obstore: its conditional puts (``If-None-Match`` and ``If-Match``) are what leases and commits stand on,
it repeats failed requests with growing pauses, and it reads ranges without a file system layer in between. Credentials,
region and endpoint come from the usual environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``; ``AWS_ALLOW_HTTP=true`` for a service without TLS).

One put is atomic and durable when it is answered. A request that failed on the way may still have been carried out, so
after a failed condition the object itself tells whether it was ours that won.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import obstore
from obstore import exceptions
from obstore.store import S3Store

from store.errors import StoreError, UsageError
from store.failpoints import reach
from store.objects import Blob, Guard, Listing, Piece

# A guarded put begins again when somebody else wrote the object in between, which soon costs one of the two its lease.
_ATTEMPTS = 100
# How long a request is repeated before it counts as failed.
RETRY_SECONDS = 60.0
# The process that made the first request. The library's threads do not survive a fork: a request would wait for ever.
_first_asked_in: int | None = None


class S3Objects:
    """Objects under ``s3://bucket/prefix``."""

    def __init__(self, url: str) -> None:
        found = re.fullmatch(r"s3://([^/]+)/(.*[^/])/*", url)
        if found is None:
            raise UsageError(f"store is {url!r}; allowed: s3://bucket/prefix")
        self.url = f"s3://{found[1]}/{found[2]}"
        self._guard: Guard | None = None
        retry: Any = {"max_retries": 20, "retry_timeout": datetime.timedelta(seconds=RETRY_SECONDS)}
        self._store = S3Store(found[1], prefix=found[2], retry_config=retry)

    def describe(self, key: str) -> str:
        return f"{self.url}/{key}"

    def get(self, key: str) -> bytes | None:
        return self._get(key)[0]

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Blob]:
        status = self._head(key)
        if status is None:
            raise FileNotFoundError(self.describe(key))
        yield _Remote(self, key, status["size"])

    def size(self, key: str) -> int | None:
        status = self._head(key)
        return None if status is None else int(status["size"])

    def age(self, key: str) -> float | None:
        status = self._head(key)
        if status is None:
            return None
        return (datetime.datetime.now(datetime.UTC) - status["last_modified"]).total_seconds()

    def put(self, key: str, data: bytes, *, point: str = "object") -> None:
        reach(f"{point}-written")
        if self._guard is None:
            with self._errors("write", key):
                obstore.put(self._store, key, data, use_multipart=False)
        else:
            self._put_guarded(key, data, self._guard)
        reach(f"{point}-renamed")

    def swap(self, key: str, data: bytes, expected: bytes | None, *, point: str = "object") -> bool:
        reach(f"{point}-written")
        current, version = self._get(key)
        if current != expected:
            return False
        won = self._put_if(key, data, version)
        reach(f"{point}-renamed")
        return won

    def delete(self, key: str) -> None:
        if self._guard is not None:
            self._guard()
        with self._errors("write", key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)
        reach("deleted")

    def prune(self, folder: str) -> None:
        """Nothing: a bucket has no folders."""

    def scan(self, prefix: str = "") -> Listing:
        with self._errors("read", prefix):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        objects = {_name(entry["path"]): f"{entry['size']}-{entry['e_tag']}" for entry in found["objects"]}
        return Listing(dict(sorted(objects.items())), tuple(sorted(map(_name, found["common_prefixes"]))))

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors("read", prefix):
            keys = [entry["path"] for page in obstore.list(self._store, prefix or None) for entry in page]
        yield from sorted(keys)

    def temporaries(self) -> Iterator[str]:
        yield from ()  # an upload that was cut short leaves no object

    def guarded(self, guard: Guard) -> S3Objects:
        twin = copy.copy(self)
        twin._guard = guard
        return twin

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[np.ndarray]:
        """Bytes of some ranges of an object; those that lie close together come in one request."""
        starts, ends = [start for start, _ in ranges], [stop for _, stop in ranges]
        with self._errors("read", key):
            found = obstore.get_ranges(self._store, key, starts=starts, ends=ends)
        return [np.frombuffer(memoryview(data), np.uint8) for data in found]

    def _get(self, key: str) -> tuple[bytes | None, str | None]:
        """An object and its version, or None twice where there is none."""
        with self._errors("read", key):
            try:
                found = obstore.get(self._store, key)
                return bytes(found.bytes()), found.meta["e_tag"]
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None, None

    def _head(self, key: str) -> Any:
        with self._errors("read", key):
            try:
                return obstore.head(self._store, key)
            except FileNotFoundError:
                return None  # a head tells nothing of a missing bucket

    def _put_guarded(self, key: str, data: bytes, guard: Guard) -> None:
        for _ in range(_ATTEMPTS):
            # The order matters: what is replaced was there before the lease was found good, so a successor, whose
            # writes come after ours lost its lease, is never overwritten.
            status = self._head(key)
            version = None if status is None else status["e_tag"]
            guard()
            if self._put_if(key, data, version):
                return
        raise StoreError(f"{self.describe(key)} is written by somebody else all the time", kind="store-locked")

    def _put_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put an object if its version is still this one (None: if there is none)."""
        with self._errors("write", key):
            try:
                mode: Any = "create" if version is None else {"e_tag": version}
                obstore.put(self._store, key, data, mode=mode, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                # The answer to a put that did succeed may have been lost, and the repetition was refused.
                return self._get(key)[0] == data
        return True

    @contextlib.contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        """Turn what the service answers into one line. An object that is not there is no such error."""
        self._refuse_fork()
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                if "NoSuchBucket" not in str(error):
                    raise
                raise StoreError(f"there is no bucket for {self.url}; make it first", kind="store-missing") from None
            next_step = "nothing that was committed is harmed, run the same command again once the cause is gone"
            if doing == "read":
                next_step = "see that the service answers, and that AWS_ACCESS_KEY_ID, AWS_REGION and the like are set"
            raise StoreError(
                f"cannot {doing} {self.describe(key)}: {str(error).partition(chr(10))[0]}; {next_step}",
                kind="store-unwritable" if doing == "write" else "store-unreadable",
            ) from error

    def _refuse_fork(self) -> None:
        global _first_asked_in
        _first_asked_in = _first_asked_in or os.getpid()
        if _first_asked_in != os.getpid():
            raise StoreError(
                f"{self.url} cannot be read in a process that was forked from one that has read from a bucket; start "
                'workers with multiprocessing_context="spawn"',
                kind="store-unreadable",
            )


class _Remote:
    """An object, read in ranges. Where it is replaced between two requests, the checksums of its rows tell."""

    def __init__(self, objects: S3Objects, key: str, size: int) -> None:
        self._objects, self._key = objects, key
        self.size = size

    def tail(self, length: int) -> np.ndarray:
        data = np.empty(min(length, self.size), np.uint8)
        self.fill([(self.size - len(data), [data])] if len(data) else [])
        return data

    def fill(self, pieces: Sequence[Piece]) -> None:
        lengths = [sum(map(len, buffers)) for _, buffers in pieces]
        ranges = [(offset, offset + length) for (offset, _), length in zip(pieces, lengths, strict=True)]
        found = self._objects.read_ranges(self._key, ranges) if ranges else []
        for (_, buffers), data in zip(pieces, found, strict=True):
            for buffer in buffers:
                buffer[:], data = data[: len(buffer)], data[len(buffer) :]


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
