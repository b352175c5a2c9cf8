"""Small video files made on the spot, each of which a careless decoder gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered_frames(count: int, width: int = 160, height: int = 120) -> list[np.ndarray]:
    """``count`` RGB pictures, uint8 [H, W, 3], that differ from each other everywhere: a gradient that wanders, with a
    bar that grows and a mark in the upper left corner."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for i in range(count):
        picture = np.stack(
            [(x * 2 + 11 * i) % 256, (y * 2 + 7 * i) % 256, np.full_like(x, 60 + (37 * i) % 150)], axis=-1
        ).astype(np.uint8)
        picture[-height // 6 :, : max(1, (i + 1) * width // count)] = 255
        picture[: height // 4, : width // 4] = (255, 0, 0)
        frames.append(picture)
    return frames


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    fps: int = 25,
    bf: int = 0,
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    times: Sequence[float] | None = None,
    muxer_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames`` into the container that the suffix of ``path`` names.

    ``bf`` is the number of B-frames in a row, ``rotation`` the display rotation in degrees counterclockwise, ``times``
    the presentation times in seconds (default: i / fps), ``metadata`` tags of the stream.
    """
    with av.open(str(path), "w", options=muxer_options or {}) as out:
        stream = out.add_stream(codec, rate=fps)
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.metadata.update(metadata or {})
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = gop
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = bf
        stream.options = {"preset": "ultrafast", "bf": str(bf)} if codec == "libx264" else {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def write_sound(path: Path, *, streams: int = 1, muxer_options: dict[str, str] | None = None) -> Path:
    """A file with sound and no video."""
    with av.open(str(path), "w", options=muxer_options or {}) as out:
        sounds = [out.add_stream("aac", rate=8000, layout="mono") for _ in range(streams)]
        for i in range(8):
            for stream in sounds:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 8000, 1024 * i
                out.mux(stream.encode(frame))
        for stream in sounds:
            out.mux(stream.encode(None))
    return path


def truncate(source: Path, path: Path, share: float) -> Path:
    """A copy of the first ``share`` of the bytes of ``source``."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def made_up_videos(folder: Path) -> dict[str, Path]:
    """One video of every troublesome kind, by name."""
    pictures = numbered_frames(40)
    uneven = np.cumsum([0.02 + 0.05 * (i % 4 == 0) for i in range(40)]).tolist()
    skipping = [0.04 * (i + 2 * (i // 3)) for i in range(40)]
    return {
        "avi-mpeg4-b": write_video(folder / "b.avi", pictures, codec="mpeg4", bf=2),
        "mp4-h264-b": write_video(folder / "b.mp4", pictures, bf=3),
        "mkv-h264-b": write_video(folder / "b.mkv", pictures, bf=3),
        "avi-h264-b": write_video(folder / "h264.avi", pictures, bf=3),
        "mp4-fragmented": write_video(
            folder / "frag.mp4", pictures, bf=2, muxer_options={"movflags": "frag_keyframe+empty_moov"}
        ),
        "rotated-90": write_video(folder / "r90.mp4", pictures, rotation=90),
        "rotated-180": write_video(folder / "r180.mp4", pictures, rotation=180),
        "rotated-270": write_video(folder / "r270.mp4", pictures, rotation=-90),
        "vfr-mp4": write_video(folder / "vfr.mp4", pictures, times=uneven, bf=2),
        "vfr-mkv": write_video(folder / "vfr.mkv", pictures, times=uneven),
        "vfr-avi": write_video(folder / "vfr.avi", pictures, codec="mpeg4", times=skipping),
        "odd-size": write_video(folder / "odd.mp4", numbered_frames(20, 175, 131), pix_fmt="yuv444p"),
        "odd-size-mjpeg": write_video(
            folder / "odd.avi", numbered_frames(20, 175, 131), codec="mjpeg", pix_fmt="yuvj420p"
        ),
        "ten-bit": write_video(folder / "ten.mp4", pictures, pix_fmt="yuv420p10le"),
        "one-frame": write_video(folder / "one.mp4", pictures[:1]),
        "three-frames": write_video(folder / "three.avi", pictures[:3], codec="mpeg4", bf=2),
        "ts": write_video(folder / "clip.ts", pictures, bf=2),
    }
