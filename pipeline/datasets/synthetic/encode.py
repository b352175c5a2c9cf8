"""Frames into a video file: H.264 in mp4 or MPEG-4 Part 2 in AVI, both with B-frames, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_OPTIONS = {
    "h264": ("libx264", "mp4", {"preset": "veryfast", "crf": "23", "bf": "2", "threads": "1"}),
    "mpeg4": ("mpeg4", "avi", {"bf": "2", "g": "25", "threads": "1", "flags": "+qscale", "global_quality": "590"}),
}


def write_video(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int, codec: str) -> None:
    """Encode uint8 RGB frames [H, W, 3]; ``codec`` is "h264" or "mpeg4"."""
    encoder, container, options = _OPTIONS[codec]
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(encoder, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
