"""PyAV, reading forward: every frame is decoded and counted, and only those that are wanted are converted to RGB.

Which frames are wanted depends on how many there are, which only the end of the file tells. So their number is guessed
from the packets, the guessed frames are converted on the way, and where the guess was wrong the file is read again for
the few that are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from stages.decode import packets
from stages.decode.sampling import ClipSampling, capped_size, clip_range, display_times, frame_indices
from stages.decode.source import MAX_PIXELS, fd_path, looks_like_video, open_regular
from stages.types import DecodedVideo
from store.errors import VideoError

# Containers of video. Left out are the demuxers that open other files or addresses (playlists, concat scripts), and
# those of single images and of sound.
_FORMATS = (
    "avi,mov,matroska,webm,asf,flv,mpeg,mpegts,mpegvideo,ogg,mxf,nut,ivf,rm,wtv,dv,gif,h264,hevc,m4v,mjpeg,yuv4mpegpipe"
)

_LIMIT = {"max_pixels": str(MAX_PIXELS)}

# H.264 and HEVC hold back at most 16 frames for reordering: a time that so many successors exceed is final.
_MAX_REORDER = 32


def decode(
    path: str,
    num_frames: int,
    *,
    start: float | None,
    end: float | None,
    max_short_side: int | None,
    clips: ClipSampling | None = None,
) -> DecodedVideo:
    """See ``decode_video``, whose arguments, result and errors these are."""
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
        announced = packets.packet_times(container, stream)
        fps = packets.frame_rate(stream)
    first, stop = clip_range(announced, start, end)
    reader = _Reader(path, fd, max_short_side)
    wanted = first + sample(max(1, stop - first), fps)
    scan = reader.scan(set(wanted.tolist()), end)
    times = display_times(scan.timestamps, reader.fps)
    first, stop = clip_range(times, start, end)
    check_frames(path, times, first, stop, start, end, scan.error)

    indices = sample(stop - first, reader.fps)
    chosen = (first + indices).tolist()
    if missing := set(chosen) - scan.pictures.keys():
        scan.pictures.update(reader.scan(missing, None, stop=max(missing) + 1).pictures)
    return DecodedVideo(
        frames=np.stack([scan.pictures[i] for i in chosen]),
        indices=indices,
        pts=times[chosen],
        num_decodable=stop - first,
        num_claimed=packets.claimed_frames(scan.stated, times, first, stop, end, reader.fps),
        fps=reader.fps,
        width=reader.source_size[0],
        height=reader.source_size[1],
    )


def check_frames(
    path: str, times: np.ndarray, first: int, stop: int, start: float | None, end: float | None, error: str | None
) -> None:
    """Raise ``VideoError`` unless frames first..stop-1 of those with ``times`` are at least one."""
    if stop > first:
        return
    if len(times):
        # Reading may have ended soon after the clip, so the frames on either side are all that is known.
        span = f"from {start} seconds on" if end is None else f"between {start or 0} and {end} seconds"
        nearby = ", ".join(f"{time:.3f}" for time in times[max(0, first - 1) : first + 1])
        raise VideoError(
            f"{path!r} has no frame {span}; nearest to that are frames at: {nearby}; correct start and end",
            kind="no-frames",
        )
    if error:
        raise VideoError(f"{path!r}: no frame decodes: {error}", kind="decode-failed")
    raise VideoError(f"{path!r} holds a video stream without frames", kind="no-frames")


@contextmanager
def open_stream(path: str, fd: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream, single-threaded; raises ``VideoError`` where there is none."""
    try:
        container = _open(fd)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        if looks_like_video(path, fd):
            raise VideoError(f"{path!r} begins as a video but cannot be opened: {reason(error)}") from None
        raise VideoError(f"{path!r} is not a video: {reason(error)}", kind="not-a-video") from None
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise VideoError(f"{path!r} has no video stream", kind="not-a-video")
        codec = stream.codec_context
        if codec is None:
            raise VideoError(f"{path!r}: no decoder for its video codec; convert the file to H.264")
        if not codec.width and (size := _excessive_size(fd)):
            raise VideoError(
                f"{path!r} claims frames of {size} pixels; allowed: up to {MAX_PIXELS} pixels", kind="too-large"
            )
        codec.options = _LIMIT
        stream.thread_type = "NONE"
        yield container, stream


def _open(fd: int) -> InputContainer:
    return av.open(
        fd_path(fd),
        options=_LIMIT,
        container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
        metadata_errors="replace",
    )


def _excessive_size(fd: int) -> str | None:
    """``WxH`` where the codec refuses frames for so many pixels, which it does before it allocates; only its log says
    so."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log, _open(fd):
            pass
    finally:
        av.logging.set_level(level)
    refused = re.findall(r"Picture size (\d+)x(\d+)", "".join(message for _, _, message in log))
    return next((f"{width}x{height}" for width, height in refused if int(width) * int(height) > MAX_PIXELS), None)


def reason(error: Exception) -> str:
    """The library's own words for an error, without the name of the descriptor."""
    return str(getattr(error, "strerror", None) or error)


@dataclass
class _Scan:
    """What one forward reading gave: a timestamp a frame, the wanted pictures by position, the last decoding error,
    and, where it came to the end, how many frames the file states."""

    timestamps: list[float | None] = field(default_factory=list)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    error: str | None = None
    stated: int | None = None


class _Reader:
    """Reads one file forward, as often as asked."""

    def __init__(self, path: str, fd: int, max_short_side: int | None) -> None:
        self._path, self._fd, self._max_short_side = path, fd, max_short_side
        self._rgb = VideoReformatter()
        self.fps = 0.0
        self.source_size = (0, 0)

    def scan(self, wanted: Collection[int], end: float | None, *, stop: int | None = None) -> _Scan:
        """Decode until the file ends, the frames are past ``end`` seconds, or ``stop`` frames have come."""
        scan = _Scan()
        late = 0
        with open_stream(self._path, self._fd) as (container, stream):
            self.fps = packets.frame_rate(stream)
            for frame in _frames(container, stream, scan):
                if not scan.timestamps:
                    self.source_size = _upright_size(frame)
                if len(scan.timestamps) in wanted:
                    scan.pictures[len(scan.timestamps)] = self._picture(frame)
                time = packets.seconds(frame.pts, stream)
                scan.timestamps.append(time)
                late = late + 1 if end is not None and time is not None and time >= end else 0
                if late == _MAX_REORDER or len(scan.timestamps) == stop:
                    break
            else:
                # The index of a fragmented or unfinished file is complete only now.
                scan.stated = packets.stated_frames(container, stream, scan.timestamps)
        return scan

    def _picture(self, frame: VideoFrame) -> np.ndarray:
        picture = self._rgb.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        if turns := _quarter_turns(frame):
            picture = np.rot90(picture, turns)
        size = capped_size(*self.source_size, self._max_short_side)
        return resized(picture, size)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture`` [H, W, 3] in ``size`` (width, height) by area averaging, contiguous."""
    if picture.shape[1::-1] == size:
        return np.ascontiguousarray(picture)
    import cv2

    try:
        return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from None
        raise


def _frames(container: InputContainer, stream: VideoStream, scan: _Scan) -> Iterator[VideoFrame]:
    """Every frame that decodes, in display order; a packet that does not decode is passed over."""
    try:
        for packet in packets.demux(container, stream):
            if packet.size:  # an empty chunk repeats the last picture; to the decoder it would be the end of the stream
                yield from _decode_packet(stream, packet, scan)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        scan.error = reason(error)
    yield from _decode_packet(stream, None, scan)


def _decode_packet(stream: VideoStream, packet: Packet | None, scan: _Scan) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        scan.error = reason(error)
        return []


def _quarter_turns(frame: VideoFrame) -> int:
    """Counterclockwise quarter turns that make the frame upright."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    return (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
