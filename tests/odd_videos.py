"""Odd files: places that are no files, files that are no videos, headers that lie, and good videos of rare kinds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from videos import numbered_frames, write_sound, write_video

COUNT, WIDTH, HEIGHT = 12, 64, 48
OK = frozenset({"ok"})
SOME = frozenset({"ok", "partial"})
NO_VIDEO = frozenset({"not-a-video"})
UNUSABLE = frozenset({"decode-failed", "not-a-video", "no-frames"})
EMPTY = frozenset({"no-frames"})
TOO_LARGE = frozenset({"too-large"})
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Odd:
    """One file: its family and name, how to make it at a path, and the verdicts and numbers of frames that fit
    (0: any number)."""

    family: str
    name: str
    make: Callable[[Path], object]
    fits: frozenset[str]
    frames: int = 0


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "inside.txt").write_text("nothing")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name must be short
        server.bind(path.name)
        os.chdir(here)


def _link(target: str, path: Path) -> None:
    path.symlink_to(target or path.name)


def _link_to_video(path: Path) -> None:
    hidden = path.with_name(f".{path.name}")
    _video(hidden)
    path.symlink_to(hidden.name)


def _forbidden(path: Path) -> None:
    _video(path)
    path.chmod(0)


def _places() -> Iterator[Odd]:
    yield Odd("directory", "directory.avi", _directory, NO_VIDEO)
    yield Odd("fifo", "fifo.avi", os.mkfifo, NO_VIDEO)
    yield Odd("socket", "socket.avi", _socket, NO_VIDEO)
    yield Odd("device", "device.avi", partial(_link, "/dev/zero"), NO_VIDEO)
    yield Odd("dangling link", "dangling.avi", partial(_link, "nowhere.avi"), frozenset({"file-missing"}))
    yield Odd("looping link", "loop.avi", partial(_link, ""), frozenset({"file-missing"}))
    yield Odd("link to a video", "link.avi", _link_to_video, OK, COUNT)
    yield Odd("no permission", "forbidden.avi", _forbidden, frozenset({"io-error"}))


def _video(path: Path, count: int = COUNT, size: tuple[int, int] = (WIDTH, HEIGHT), **how: Any) -> None:
    codec = how.pop("codec", "mpeg4" if path.suffix == ".avi" else "libx264")
    write_video(path, numbered_frames(count, *size), codec=codec, **how)


def _without_frames(codec: str, path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        out.start_encoding()


def _cover(path: Path) -> None:
    """A picture that is attached, as to music, and nothing else."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        stream.disposition = Disposition.attached_pic
        out.mux(stream.encode(_frame()))


def _photograph(codec: str, pix_fmt: str, path: Path) -> None:
    coder = av.CodecContext.create(codec, "w")
    coder.width, coder.height, coder.pix_fmt, coder.framerate = WIDTH, HEIGHT, pix_fmt, 25
    packets = [*coder.encode(_frame().reformat(format=pix_fmt)), *coder.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


def _frame() -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(numbered_frames(1, WIDTH, HEIGHT)[0], format="rgb24")


def _contents() -> Iterator[Odd]:
    words = {
        "empty.mp4": b"",
        "byte.avi": b"R",
        "zeros.mkv": bytes(100_000),
        "text.avi": b"not a video\n" * 99,
        "playlist.avi": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "script.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "page.mp4": "<html><body>403 verboten \u2603</body></html>".encode(),
        "random.avi": np.random.default_rng(0).bytes(50_000),
    }
    for name, data in words.items():
        yield Odd("text and the like", name, partial(Path.write_bytes, data=data), NO_VIDEO)
    for codec, pix_fmt in (("png", "rgb24"), ("mjpeg", "yuvj420p"), ("bmp", "bgr24"), ("tiff", "rgb24")):
        yield Odd("photograph", f"{codec}.avi", partial(_photograph, codec, pix_fmt), NO_VIDEO)
    for name in ("sound.mp4", "sound.mkv", "sound.avi", "sound.mov"):
        yield Odd("audio only", name, write_sound, NO_VIDEO)
    yield Odd("audio only", "cover.mp4", _cover, NO_VIDEO)
    for name, codec in (("none.avi", "mpeg4"), ("none.flv", "libx264"), ("none.mp4", "libx264"), ("none.mkv", "ffv1")):
        yield Odd("zero frames", name, partial(_without_frames, codec), UNUSABLE)
    for name in ("one.avi", "one.mp4", "one.mkv", "one.mov"):
        yield Odd("one frame", name, partial(_video, count=1), OK, 1)
    yield Odd("one frame", "one.gif", partial(_video, count=1, codec="gif", pix_fmt="rgb8"), OK, 1)


@cache
def _original(suffix: str, codec: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        _video(path, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
        return path.read_bytes()


def _patched(codec: str, patches: list[tuple[bytes, int, bytes]], path: Path) -> None:
    """A video in which other bytes stand ``offset`` bytes after the first place of a tag."""
    data = bytearray(_original(path.suffix, codec))
    for tag, offset, value in patches:
        begin = data.index(tag) + offset
        data[begin : begin + len(value)] = value
    path.write_bytes(data)


def _little(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def _big(*values: int, size: int = 4) -> bytes:
    return b"".join(value.to_bytes(size, "big") for value in values)


def _sizes() -> Iterator[Odd]:
    # Raw video has no size but the header's; the other codecs carry their own, and are not misled.
    raw = {
        (65535, 65535): TOO_LARGE,
        (16000, 16000): TOO_LARGE,
        (LARGEST, LARGEST): TOO_LARGE,
        (2**31 - 1, 1): TOO_LARGE,
        (8192, 8192): UNUSABLE,
        (65535, 1): UNUSABLE,
        (0, HEIGHT): UNUSABLE,
        (WIDTH, 0): UNUSABLE,
        (0, 0): UNUSABLE,
    }
    for (width, height), fits in raw.items():
        patches = [(b"strf", 12, _little(width, height)), (b"avih", 40, _little(width, height))]
        yield Odd("size", f"raw {width}x{height}.avi", partial(_patched, "rawvideo", patches), fits)
        yield Odd("size", f"mpeg4 {width}x{height}.avi", partial(_patched, "mpeg4", patches), OK, COUNT)
    for codec, entry in (("libx264", b"avc1"), ("libvpx-vp9", b"vp09")):
        for width, height in ((65535, 65535), (65535, 1), (0, 0)):
            patch = [(entry, 28, _big(width, height, size=2))]
            yield Odd("size", f"{codec} {width}x{height}.mp4", partial(_patched, codec, patch), OK, COUNT)
    truly = {(1, 1): OK, (3, 5): OK, (16, 1): OK, (2, 33): TOO_LARGE, (20000, 1): TOO_LARGE}
    for (width, height), fits in truly.items():
        make = partial(_video, size=(width, height), codec="ffv1", pix_fmt="yuv444p")
        yield Odd("size", f"truly {width}x{height}.mkv", make, fits, COUNT)


def _rates() -> Iterator[Odd]:
    for value in (0, 1, 12345, 2**31 - 1, LARGEST):
        for name, (tag, offset) in {"scale": (b"strh", 28), "rate": (b"strh", 32), "interval": (b"avih", 8)}.items():
            make = partial(_patched, "mpeg4", [(tag, offset, _little(value))])
            yield Odd("rate", f"{name} {value}.avi", make, OK, COUNT)
        # Durations are told in these units, the edit list's too, so nothing may be left to be shown.
        for tag in (b"mvhd", b"mdhd"):
            make = partial(_patched, "libx264", [(tag, 16, _big(value))])
            yield Odd("rate", f"{tag.decode()} {value}.mp4", make, SOME | UNUSABLE)
        make = partial(_patched, "libx264", [(b"stts", 16, _big(value))])
        yield Odd("rate", f"stts {value}.mp4", make, SOME)


def _durations() -> Iterator[Odd]:
    for value in (0, 1, 12345, 2**31 - 1, LARGEST):
        claims = frozenset({"partial"}) if value > COUNT else OK
        patch = [(b"strh", 40, _little(value))]
        yield Odd("duration", f"length {value}.avi", partial(_patched, "mpeg4", patch), claims, COUNT)
        for tag, offset in ((b"avih", 24), (b"strh", 36)):
            make = partial(_patched, "mpeg4", [(tag, offset, _little(value))])
            yield Odd("duration", f"{tag.decode()} {value}.avi", make, OK, COUNT)
        for tag in (b"mvhd", b"mdhd"):
            make = partial(_patched, "libx264", [(tag, 20, _big(value))])
            yield Odd("duration", f"{tag.decode()} {value}.mp4", make, OK, COUNT)
        # Tables of samples: how many there are, and how large each is.
        for name, offset in (("count", 12), ("size", 8)):
            make = partial(_patched, "libx264", [(b"stsz", offset, _big(value))])
            yield Odd("duration", f"samples {name} {value}.mp4", make, SOME | UNUSABLE)
        memory = frozenset({"decoder-memory"}) if value >= 2**31 - 1 else frozenset()
        make = partial(_patched, "libx264", [(b"stts", 8, _big(value))])
        yield Odd("duration", f"stts entries {value}.mp4", make, SOME | UNUSABLE | memory)
    for count in ("0", "-1", "1e9", "9" * 9, "9" * 30, "9" * 5000, "\u0661\u0662"):
        claims = frozenset({"partial"}) if count == "9" * 9 else OK  # more than any video has: the tag says nothing
        make = partial(_video, metadata={"NUMBER_OF_FRAMES": count})
        yield Odd("duration", f"tag {count[:12]}, {len(count)} long.mkv", make, claims, COUNT)
    for clock in ("99:99:99.999999999", "00:00:00.000000000", "-1:00:00.000000000", "xx:xx:xx.xxxxxxxxx"):
        claims = frozenset({"partial"}) if clock.startswith("99") else OK
        make = partial(_patched, "libx264", [(b"00:00:00.", 0, clock.encode())])
        yield Odd("duration", f"tag {clock}.mkv", make, claims, COUNT)


def _kinds() -> Iterator[Odd]:
    formats = {
        "libx264 .mp4": "yuv444p yuv422p10le gray nv12",
        "ffv1 .mkv": "gray16le gbrp14le bgra yuv410p yuva420p16le",
        "rawvideo .avi": "yuv420p rgb24 gray",
        "rawvideo .nut": "rgb48le yuv440p",
        "huffyuv .avi": "rgb24",
        "png .mov": "monob rgba64be",
        "qtrle .mov": "rgb555be argb",
        "libvpx-vp9 .webm": "yuva420p gbrp",
        "prores_ks .mov": "yuva444p10le",
        "msvideo1 .avi": "rgb555le",
        "mpeg1video .mpg": "yuv420p",
        "wmv2 .wmv": "yuv420p",
        "gif .gif": "rgb8",
    }
    for kind, names in formats.items():
        codec, suffix = kind.split()
        for pix_fmt in names.split():
            make = partial(_video, codec=codec, pix_fmt=pix_fmt)
            yield Odd("pixel format", f"{codec} {pix_fmt}{suffix}", make, OK, COUNT)
    for degrees in (90, 180, 270, -90, 1, 44, 46, 359):
        yield Odd("rotation", f"turned {degrees}.mp4", partial(_video, rotation=degrees), OK, COUNT)
    uneven = np.cumsum([0.02 + 0.05 * (i % 4 == 0) for i in range(COUNT)]).tolist()
    pauses = [60.0 * i for i in range(COUNT)]
    for name, times in {"uneven": uneven, "pauses": pauses}.items():
        for suffix in (".mp4", ".mkv", ".mov"):
            yield Odd("variable rate", f"{name}{suffix}", partial(_video, times=times), OK, COUNT)
    skipping = [0.04 * (i + 2 * (i // 3)) for i in range(COUNT)]
    yield Odd("variable rate", "skipping.avi", partial(_video, times=skipping), OK, COUNT)


ODD = tuple(odd for group in (_places, _contents, _sizes, _rates, _durations, _kinds) for odd in group())
