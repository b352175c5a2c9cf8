"""The seam between decoding and its implementations.

A backend is a callable ``decode(path, num_frames, *, start, end, max_short_side) -> DecodedVideo`` that raises
``VideoError`` for a file that cannot be used and ``RetryError`` where the environment may be at fault. Users name their
own as ``"module:function"``. Ours also take ``clips``, a ``ClipSampling`` of which the frames follow the others.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from stages.types import DecodedVideo
from store.errors import MissingError, UsageError, nearest

BACKENDS = ("pyav", "decord")


class Backend(Protocol):
    """What ``decode_video`` promises, for arguments that were already checked."""

    def __call__(
        self, path: str, num_frames: int, *, start: float | None, end: float | None, max_short_side: int | None
    ) -> DecodedVideo: ...


def load_backend(name: str) -> Backend:
    """The backend called ``name``: one of ``BACKENDS``, or ``module:function`` for one of the user's.

    Raises ``UsageError`` for a name that is neither, and ``MissingError`` where its package is not installed.
    """
    check_backend(name)
    module, _, function = (
        f"stages.decode.{name}_backend:decode".rpartition(":") if name in BACKENDS else name.partition(":")
    )
    try:
        found: Any = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise MissingError(
            f"decoder {name!r} cannot be imported: {error}; install its package or choose another of "
            f"{', '.join(BACKENDS)}",
            kind="missing-package",
        ) from None
    if not callable(found):
        raise UsageError(f"decoder is {name!r}, but {module} has no function {function!r}")
    return found


def check_backend(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` has the form of a backend's name; imports nothing."""
    module, _, function = name.partition(":")
    own = function.isidentifier() and all(part.isidentifier() for part in module.split("."))
    if name not in BACKENDS and not own:
        raise UsageError(
            f"decoder is {name!r}; allowed: {', '.join(BACKENDS)}, or module:function for one of your own"
            f"{nearest(name, BACKENDS)}"
        )
