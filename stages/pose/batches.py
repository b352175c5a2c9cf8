"""Batches of one fixed size that cross persons, frames and videos, several of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from stages.pose.base import Persons

T = TypeVar("T")
R = TypeVar("R")


class Batches:
    """Runs functions on batches of exactly ``size`` items, the last one filled up, ``parallel`` at a time.

    Each runs on one CPU thread (see ``stages.batching.single_threads``).
    """

    def __init__(self, parallel: int) -> None:
        from stages.batching import single_threads  # needs torch

        self._pool = single_threads(parallel, "pose")

    def map(self, function: Callable[[list[T]], Sequence[R]], items: Sequence[T], size: int) -> list[R]:
        """What ``function`` makes of each item; it is given a batch and returns as many values."""
        batches = [list(items[start : start + size]) for start in range(0, len(items), size)]
        full = [batch + batch[-1:] * (size - len(batch)) for batch in batches]
        results = self._pool.map(function, full)
        return [value for batch, found in zip(batches, results, strict=True) for value in found[: len(batch)]]


def top_down(
    frames: Sequence[np.ndarray],
    detect: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    keypoints: Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], np.ndarray],
) -> list[Persons]:
    """Persons of frames uint8 [H, W, 3]: the boxes [M, 5] of each frame, then keypoints [K, 17, 3] of all persons of
    all frames at once, each given as its frame and its box."""
    boxes = detect(frames)
    joints = keypoints([(frame, box) for frame, found in zip(frames, boxes, strict=True) for box in found])
    ends = np.cumsum([len(found) for found in boxes])
    parts = np.split(joints, ends[:-1]) if len(boxes) else []
    return [Persons(part, found) for part, found in zip(parts, boxes, strict=True)]
