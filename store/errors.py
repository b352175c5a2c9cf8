"""Every error that vilp-pipe raises on purpose, grouped by what a handler would do with it.

Each error carries a stable, machine-readable ``kind``; quarantine reports use the same kinds. The message is one line
that names the offending value, what is allowed, and what to do next.

================  =====================================================  ====================
class             what a handler does                                    exit code of the CLI
================  =====================================================  ====================
``UsageError``    show it: an option or argument has to change           2
``MissingError``  show it: data, weights or a modality must be provided  1
``VideoError``    quarantine this one video and go on                    0
``RetryError``    try this video again on its own; the environment may   1 when it persists
                  be at fault
``StoreError``    stop: the store cannot be used as it is                1
================  =====================================================  ====================
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from store.printable import one_line


class VilpError(Exception):
    """Base of all deliberate errors. ``kind`` must be one of ``KINDS`` of the class."""

    KINDS: tuple[str, ...] = ()

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        kind = kind or self.KINDS[0]
        if kind not in self.KINDS:
            raise ValueError(f"kind {kind!r} is not one of {', '.join(self.KINDS)}")
        super().__init__(one_line(message))
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword-only kind would be lost by the default pickling, and workers send errors across processes.
        return (_rebuild, (type(self), str(self), self.kind))


def _rebuild(cls: type[VilpError], message: str, kind: str) -> VilpError:
    return cls(message, kind=kind)


class UsageError(VilpError):
    """An argument has a value that is not allowed."""

    KINDS = ("usage",)


class MissingError(VilpError):
    """Something the user has to provide is not there."""

    KINDS = ("missing-data", "missing-weights", "missing-modality", "missing-package")


class VideoError(VilpError):
    """This one video cannot be used; its neighbours can."""

    KINDS = (
        "decode-failed",
        "not-a-video",
        "no-frames",
        "too-large",
        "decoder-crash",
        "decoder-timeout",
        "decoder-memory",
        "non-finite",
        "pose-unmatched",
    )


class RetryError(VilpError):
    """The environment may be at fault: never condemn a video for it without a retry on its own."""

    KINDS = ("io-error", "file-missing", "timeout", "out-of-memory", "root-missing")


class StoreError(VilpError):
    """The store cannot be used as it is."""

    KINDS: tuple[str, ...] = (
        "store-missing",
        "store-format",
        "store-version",
        "store-corrupt",
        "store-mismatch",
        "store-locked",
        "store-unwritable",
        "store-unreadable",
        "stale-lease",
        "too-many-failures",
    )


class UnwrittenError(StoreError):
    """What was found cannot be written. ``result`` is what was to be kept, where finding it took long."""

    KINDS = ("store-unwritable",)
    result: Any = None


def one_of(name: str, value: object, allowed: tuple[object, ...] | list[object]) -> None:
    """Raise a ``UsageError`` that names the value, the allowed set and the nearest of it, unless ``value`` is in it."""
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}{nearest(value, allowed)}")


def nearest(value: object, allowed: Iterable[object]) -> str:
    """The end of a message about a value that is not allowed: ``; did you mean X?``, or nothing where nothing is near.

    Case does not count.
    """
    names = {str(name).lower(): str(name) for name in allowed}
    near = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[near[0]]}?" if near else ""
