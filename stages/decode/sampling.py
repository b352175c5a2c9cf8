"""Which frames of a video are taken, when they are shown and how large they become: plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from store.errors import UsageError


@dataclass(frozen=True)
class ClipSampling:
    """Clips as video models want them: ``clips`` of ``length`` successive frames at ``rate`` frames a second, spread
    evenly from the video's beginning to its end."""

    clips: int
    length: int
    rate: float

    def __post_init__(self) -> None:
        for name in ("clips", "length", "rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} of a clip sampling is {getattr(self, name)}; allowed: more than 0")

    @property
    def num_frames(self) -> int:
        return self.clips * self.length

    def indices(self, num_decodable: int, fps: float) -> np.ndarray:
        """Positions among n = ``num_decodable`` >= 1 frames at ``fps`` frames a second, int32 [clips, length].

        The video is resampled to ``rate`` by taking frame ``floor(j * fps / rate)`` for j = 0, 1, ..., and the clips
        start at evenly spaced j, the first at 0 and the last as late as it fits; a single one lies in the middle. So
        does torchvision (``VideoClips`` with ``UniformClipSampler``). A video that is shorter than one clip is shown
        slower instead: its clips are all ``floor(i * n / length)``. Where the rate is unknown (0), frames are not left
        out.
        """
        step, count = (fps / self.rate, int(num_decodable * self.rate / fps)) if fps > 0 else (1.0, num_decodable)
        if count < self.length:
            step, count = num_decodable / self.length, self.length
        gaps, latest = self.clips - 1, count - self.length
        starts = np.arange(self.clips) * latest // gaps if gaps else np.array([latest // 2])
        frames = np.floor((starts[:, None] + np.arange(self.length)) * step)
        return frames.clip(max=num_decodable - 1).astype(np.int32)


def frame_indices(num_decodable: int, fps: float, num_frames: int, clips: ClipSampling | None) -> np.ndarray:
    """Which of ``num_decodable`` frames are taken, int32: ``num_frames`` evenly spaced, then the clips'."""
    even = sample_indices(num_decodable, num_frames) if num_frames else np.empty(0, np.int32)
    return even if clips is None else np.concatenate([even, clips.indices(num_decodable, fps).ravel()])


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
