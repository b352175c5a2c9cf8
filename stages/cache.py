"""The folder of what can be made or fetched again: weights of published models, pooled tokens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_VARIABLE = "VILP_CACHE"


def cache_directory() -> Path:
    """``$VILP_CACHE``, or ``~/.cache/vilp-pipe``."""
    return Path(os.environ.get(_VARIABLE) or Path.home() / ".cache" / "vilp-pipe")


@contextlib.contextmanager
def cache_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make ``folder`` the cache of this process, and of those that it starts, while the block runs."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = os.fspath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
