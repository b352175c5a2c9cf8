"""decord, in the only mode that is exact: one frame after the other.

``get_batch`` and seeking return wrong pictures where B-frames meet AVI, the header's frame count can be one too many,
and frames that do not decode are replaced by copies of their neighbours without a word. So frames are read in sequence
up to the first copy, and a file is refused unless their number is that of the packets that hold a picture. Kinds of
file on which the conformance tests saw other pictures than those of an independent decoder are refused as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import decord
import numpy as np

from stages.decode import packets
from stages.decode.pyav_backend import check_frames, open_stream, resized
from stages.decode.sampling import ClipSampling, capped_size, clip_range, frame_indices
from stages.decode.source import fd_path, open_regular
from stages.types import DecodedVideo
from store.errors import VideoError

_CONTAINERS = ("avi", "mov", "matroska")
_PIXEL_FORMATS = ("yuv420p", "yuvj420p")

# Zero switches the check off; the smallest share of one frame makes the first copy an error.
_NO_COPIES = 1e-9


def decode(
    path: str,
    num_frames: int,
    *,
    start: float | None,
    end: float | None,
    max_short_side: int | None,
    clips: ClipSampling | None = None,
) -> DecodedVideo:
    """See ``decode_video``. Raises ``VideoError`` (decode-failed) for a file that decord does not decode exactly."""
    decord.logging.set_level(decord.logging.FATAL)
    with open_regular(path) as fd:
        return _decode(path, fd, partial(frame_indices, num_frames=num_frames, clips=clips), start, end, max_short_side)


def _decode(
    path: str,
    fd: int,
    sample: Callable[[int, float], np.ndarray],
    start: float | None,
    end: float | None,
    max_short_side: int | None,
) -> DecodedVideo:
    """``sample(n, fps)`` says which of n frames are taken."""
    with open_stream(path, fd) as (container, stream):
        codec = stream.codec_context
        if container.format.name.partition(",")[0] not in _CONTAINERS:
            raise _refusal(path, f"a file in {container.format.name} format")
        if codec.pix_fmt not in _PIXEL_FORMATS or codec.width % 2 or codec.height % 2:
            raise _refusal(path, f"a video of {codec.width}x{codec.height} pixels in {codec.pix_fmt}")
        times = packets.packet_times(container, stream)
        fps = packets.frame_rate(stream)
        stated = packets.stated_frames(container, stream, times.tolist())
    first, stop = clip_range(times, start, end)
    check_frames(path, times, first, stop, start, end, None)
    indices = sample(stop - first, fps)
    chosen = (first + indices).tolist()
    pictures, count, (width, height) = _read(path, fd, frozenset(chosen), max_short_side)
    if count != len(times):
        raise _refusal(path, f"a file of {len(times)} pictures, of which it decodes {count}")
    return DecodedVideo(
        frames=np.stack([pictures[i] for i in chosen]),
        indices=indices,
        pts=times[chosen],
        num_decodable=stop - first,
        num_claimed=packets.claimed_frames(stated, times, first, stop, end, fps),
        fps=fps,
        width=width,
        height=height,
    )


def _read(
    path: str, fd: int, wanted: frozenset[int], max_short_side: int | None
) -> tuple[dict[int, np.ndarray], int, tuple[int, int]]:
    """The wanted pictures by position, the number of frames that decode, and their width and height."""
    pictures: dict[int, np.ndarray] = {}
    count, size = 0, (0, 0)
    try:
        reader = decord.VideoReader(fd_path(fd), num_threads=1, fault_tol=_NO_COPIES)
        while True:
            try:
                frame = reader.next()
            except (StopIteration, decord.DECORDLimitReachedError):
                return pictures, count, size
            size = (frame.shape[1], frame.shape[0])
            if frame.shape[2] != 3:  # it takes the padding of rows that are narrow and turned for a channel
                raise _refusal(path, f"a turned video of {size[0]}x{size[1]} pixels")
            if count in wanted:
                pictures[count] = resized(frame.asnumpy(), capped_size(*size, max_short_side))
            count += 1
    except (decord.DECORDError, RuntimeError, AssertionError):
        # Its messages hold the time of day: with them a second run would not give the same report.
        raise VideoError(f"{path!r}: decord cannot decode it; choose the decoder pyav") from None


def _refusal(path: str, what: str) -> VideoError:
    return VideoError(f"{path!r}: decord is not offered for {what}; choose the decoder pyav")
