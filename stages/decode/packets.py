"""What a container says about its video stream without decoding: packets, index, stated length."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stages.decode.sampling import display_times

# DivX puts two pictures into one packet and a placeholder of one byte after it.
_PLACEHOLDER_BYTES = 1


def demux(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """All packets of a stream, in the order of storage; raises ``FFmpegError`` where the container is damaged."""
    try:
        yield from container.demux(stream)
    except IndexError:
        # PyAV's, after the last packet of a file in which other streams begin later than its head, as MPEG-TS allows:
        # it asks for empty packets of streams that it does not know.
        return


def packet_times(container: InputContainer, stream: VideoStream) -> np.ndarray:
    """Presentation times (seconds, ascending) of all packets that hold a picture to be shown; reads the whole file."""
    times: list[float | None] = []
    try:
        for packet in demux(container, stream):
            if packet.size > _PLACEHOLDER_BYTES and not packet.is_discard:
                stamp = packet.dts if packet.pts is None else packet.pts
                times.append(seconds(stamp, stream))
    except av.error.FFmpegError as error:
        # What comes after the damage is not there: the frames that decode are counted on their own.
        if isinstance(error, MemoryError):
            raise
    return display_times(times, frame_rate(stream))


def frame_rate(stream: VideoStream) -> float:
    """Average frames a second; 0.0 where unknown."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def seconds(stamp: int | None, stream: VideoStream) -> float | None:
    """A timestamp of the stream in seconds; None where there is none."""
    return None if stamp is None or stream.time_base is None else float(stamp * stream.time_base)


def stated_frames(container: InputContainer, stream: VideoStream, timestamps: Sequence[float | None]) -> int | None:
    """Frames that the container says its video stream has; None where it says nothing.

    ``timestamps`` (seconds) are those of all frames that decode. MP4 has a sample table, part of which an edit list may
    hide. AVI states its length in ticks of a clock, of which some may show no new picture, and Matroska writers leave a
    tag with the duration: there the pictures that came are scaled up by the part of the length that they do not cover.
    """
    if container.format.name == "avi" and stream.frames:
        last = max((entry.timestamp for entry in stream.index_entries), default=-1)
        return _scale_up(_pictures_in_index(stream), last + 1, stream.frames)
    if container.format.name.startswith("mov") and stream.frames:
        return _pictures_in_index(stream)
    count, duration = stream.metadata.get("NUMBER_OF_FRAMES", ""), stream.metadata.get("DURATION", "")
    # Tags are free text: a number that no video can have says nothing.
    if re.fullmatch(r"[0-9]{1,10}", count):
        return int(count)
    rate = frame_rate(stream)
    if (clock := re.fullmatch(r"(\d{1,5}):(\d\d):(\d\d(?:\.\d+)?)", duration)) and rate:
        hours, minutes, rest = map(float, clock.groups())
        last_time = max((time for time in timestamps if time is not None), default=0.0)
        return _scale_up(len(timestamps), last_time + 1 / rate, 3600 * hours + 60 * minutes + rest)
    return stream.frames or None


def claimed_frames(
    stated: int | None, times: np.ndarray, first: int, stop: int, end: float | None, fps: float
) -> int | None:
    """Frames that the file claims for the clip ``times[first:stop]`` of a file that states ``stated`` frames in all.

    Of the frames that are missing at the end of the file, those count that would lie before ``end`` seconds.
    """
    if stated is None or (first == 0 and end is None):
        return stated
    missing = max(0, stated - len(times))
    if end is not None:
        missing = min(missing, max(0, math.ceil((end - times[-1]) * fps) - 1))
    return stop - first + missing


def _scale_up(count: int, covered: float, stated: float) -> int:
    return round(count * stated / covered) if 0 < covered < stated else count


def _pictures_in_index(stream: VideoStream) -> int:
    return sum(entry.size > _PLACEHOLDER_BYTES and not entry.is_discard for entry in stream.index_entries)
