"""Which frames of a video are taken, when they are shown and how large they become: plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample_indices(num_decodable: int, num_frames: int) -> np.ndarray:
    """``floor(i * n / T)`` for i in 0..T-1 as int32 [T], for n = ``num_decodable`` >= 1 and T = ``num_frames`` >= 1.

    Where T divides T', the T indices are among the T' indices; with n < T frames repeat.
    """
    return (np.arange(num_frames, dtype=np.int64) * num_decodable // num_frames).astype(np.int32)


def display_times(timestamps: Sequence[float | None], fps: float) -> np.ndarray:
    """Presentation times (seconds, float64 [n], ascending) of n frames in display order.

    Decoders give frames in display order, but AVI has no presentation timestamps, so the ones that libavformat makes up
    come in the order of storage. The i-th frame shown has the i-th smallest time. A frame without a timestamp is taken
    to follow its predecessor by one frame duration.
    """
    step = 1 / fps if fps > 0 else 0.0
    times = np.empty(len(timestamps), np.float64)
    previous = -step
    for i, timestamp in enumerate(timestamps):
        previous = times[i] = previous + step if timestamp is None else timestamp
    times.sort()
    return times


def clip_range(times: np.ndarray, start: float | None, end: float | None) -> tuple[int, int]:
    """Positions ``(first, stop)`` of the frames with ``start <= time < end``; None means no bound on that side."""
    first = 0 if start is None else int(np.searchsorted(times, start, side="left"))
    stop = len(times) if end is None else int(np.searchsorted(times, end, side="left"))
    return first, max(first, stop)


def capped_size(width: int, height: int, max_short_side: int | None) -> tuple[int, int]:
    """``(width, height)`` in pixels with the short side at most ``max_short_side``; smaller frames stay as they are.

    The long side keeps the aspect ratio, rounded half up to whole pixels.
    """
    short = min(width, height)
    if max_short_side is None or short <= max_short_side:
        return width, height
    return tuple(max_short_side if side == short else _scale(side, max_short_side, short) for side in (width, height))  # type: ignore[return-value]


def _scale(side: int, cap: int, short: int) -> int:
    return (2 * side * cap + short) // (2 * short)
