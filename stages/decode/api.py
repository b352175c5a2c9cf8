"""``decode_video``: frames of one file, in this process."""

from __future__ import annotations

import math
import os
from typing import Any

from stages.decode.backends import BACKENDS, load_backend
from stages.decode.sampling import ClipSampling
from stages.decode.source import blame_the_disk, open_regular
from stages.types import DecodedVideo
from store.errors import UsageError, VideoError

# Encoders scale the short side to a few hundred pixels: a thread of 20000x1 would become gigabytes and end the run.
MAX_ASPECT = 16


def decode_video(
    path: str | os.PathLike[str],
    num_frames: int = 16,
    *,
    backend: str = "pyav",
    start: float | None = None,
    end: float | None = None,
    max_short_side: int | None = None,
    clips: ClipSampling | None = None,
) -> DecodedVideo:
    """Decode ``num_frames`` frames, evenly spread over the frames that decode, and behind them those of ``clips``.

    Frame i is the ``floor(i * n / num_frames)``-th of the n frames that decode, counted by decoding forward and never
    taken from a header; with n < ``num_frames`` frames repeat. Frames are RGB, turned upright by the file's display
    rotation (to the nearest quarter turn), in the size of the first frame, with square pixels assumed.

    path            a local regular file; never parsed as an address or a pattern
    backend         ``pyav``, ``decord``, or ``module:function`` for one of your own
    start, end      seconds on the clock of the file's timestamps: only frames with ``start <= time < end`` count
    max_short_side  pixels; larger frames are shrunk by area averaging until the short side has this size, the long side
                    in proportion, rounded half up. ``width`` and ``height`` of the result are those before
    clips           successive frames to be had as well, clip after clip; with them ``num_frames`` may be 0. Not for a
                    backend of your own

    Raises ``UsageError`` for an argument that is not allowed, ``VideoError`` (not-a-video, decode-failed, no-frames,
    too-large) for a file that cannot be used, ``RetryError`` (file-missing, io-error) where the environment may be at
    fault, ``MissingError`` where the backend is not installed.
    """
    if num_frames < (1 if clips is None else 0):
        raise UsageError(f"num_frames is {num_frames}; allowed: 1 or more")
    if clips is not None and backend not in BACKENDS:
        raise UsageError(f"decoder is {backend!r}, which gives no clips; allowed: {', '.join(BACKENDS)}")
    if max_short_side is not None and max_short_side < 1:
        raise UsageError(f"max_short_side is {max_short_side}; allowed: 1 or more pixels, or None for no cap")
    check_interval(start, end)
    decode, name = load_backend(backend), os.fspath(path)
    with open_regular(name) as fd, blame_the_disk(name, fd):
        video = decode(name, num_frames, start=start, end=end, max_short_side=max_short_side, **_given(clips))
    sides = sorted((video.width, video.height))
    if sides[1] > MAX_ASPECT * sides[0]:
        raise VideoError(
            f"{name!r} has frames of {video.width}x{video.height} pixels; allowed: sides of a ratio up to {MAX_ASPECT}",
            kind="too-large",
        )
    return video


def _given(clips: ClipSampling | None) -> dict[str, Any]:
    """The argument that backends of the user's own need not know."""
    return {} if clips is None else {"clips": clips}


def check_interval(start: float | None, end: float | None) -> None:
    """Raise ``UsageError`` unless ``start`` and ``end`` are finite seconds with start < end, or None."""
    given = [value for value in (start, end) if value is not None]
    if not all(map(math.isfinite, given)) or (len(given) == 2 and given[0] >= given[1]):
        raise UsageError(f"start is {start} and end is {end}; allowed: finite seconds with start < end, or None")
