"""Requests side by side: what takes a round trip each to an object store, or a flush each on a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 8


def each(work: Callable[[T], object], items: Iterable[T], *, done: Callable[[T], None] = lambda item: None) -> None:
    """Call ``work`` on every item, a few at a time, and ``done`` after each, in order and in this thread. The first
    error ends it: what has not begun by then does not begin."""
    items = list(items)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for item, _ in zip(items, pool.map(work, items), strict=True):
            done(item)
    finally:
        pool.shutdown(cancel_futures=True)
