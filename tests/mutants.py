"""Bad video files by the thousand, made from good ones; the same seed gives the same files.

Every mutant says which verdicts fit: ``ok``, ``partial``, or kinds of ``store.errors``. Where the damage tells how many
frames are left, the verdict follows from that number. Where it does not (a flipped bit in a header may be harmless, or
make the file unreadable) all that a fair judge may say of a video is allowed, and nothing else: no fault of the
environment, no crash, no hang.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from odd_videos import ODD, Odd
from videos import numbered_frames, write_video

OK, PARTIAL = "ok", "partial"
UNUSABLE = frozenset({"decode-failed", "not-a-video", "no-frames"})
SOME = frozenset({OK, PARTIAL})
ANY = SOME | UNUSABLE | {"too-large"}
# A number in a header or an index may ask for more memory than there is.
MISLED = ANY | {"decoder-memory"}

# Real clips, whose first packets go into containers with the index behind, in front, in pieces or nowhere.
REAL = {
    "ucf.avi": ("v_JavelinThrow_g22_c01.avi", ""),
    "hmdb.avi": ("cartwheel.avi", ""),
    "back.mp4": ("making_cake.mp4", ""),
    "front.mp4": ("making_cake.mp4", "faststart"),
    "fragments.mp4": ("hitting_baseball.mp4", "frag_keyframe+empty_moov"),
    "gesture.mkv": ("eat.mkv", ""),
    "stream.ts": ("abseiling_k400.mp4", ""),
    "flash.flv": ("mmaction2_demo.mp4", ""),
}
PACKETS = 40
# The others say nowhere how many frames they have, or not once they are cut.
STATING = ("ucf.avi", "hmdb.avi", "front.mp4", "gesture.mkv")
EXTENSIONS = (".avi", ".mp4", ".mkv", ".mov", ".mpg", ".webm", ".wmv", ".AVI")


@dataclass(frozen=True)
class Mutant:
    """A bad file: the family of its damage, what was done to what, the verdicts that fit, and the numbers of frames
    that may decode where it is not quarantined (None: any)."""

    family: str
    path: Path
    what: str
    fits: frozenset[str]
    frames: range | None


@dataclass(frozen=True)
class Source:
    """A good video and where its packets lie in the file: (position, size) in bytes, ascending."""

    name: str
    data: bytes
    packets: tuple[tuple[int, int], ...]

    @property
    def begin(self) -> int:
        """Bytes before the first packet: the header."""
        return self.packets[0][0]

    @property
    def end(self) -> int:
        """Where the last packet ends; an index may follow."""
        return sum(self.packets[-1])


def sources(folder: Path, data: Path | None) -> list[Source]:
    """Short cuts of the real clips below ``data``, bit by bit what is in those; made-up ones where there are none."""
    folder.mkdir()
    found = []
    for name, (clip, flags) in REAL.items():
        options = {"fflags": "+bitexact", **({"movflags": flags} if flags else {})}
        if data is not None:
            path = _cut(next(data.rglob(clip)), folder / name, options)
        else:
            codec = "mpeg4" if name.endswith(".avi") else "libx264"
            pictures = numbered_frames(PACKETS, 96, 80)
            path = write_video(folder / name, pictures, codec=codec, bf=2, muxer_options=options)
        with av.open(str(path)) as container:
            packets = sorted((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 1)
        found.append(Source(name, path.read_bytes(), tuple(packets)))
    return found


def _cut(source: Path, path: Path, options: dict[str, str]) -> Path:
    with av.open(str(source)) as whole, av.open(str(path), "w", options=options) as out:
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet, _ in zip(whole.demux(video=0), range(PACKETS), strict=False):
            packet.stream = stream
            out.mux(packet)
    return path


@dataclass(frozen=True)
class Damaged:
    """New bytes for a source, words for what was done, the verdicts that fit, the numbers of frames that may decode."""

    data: bytes
    what: str
    fits: frozenset[str]
    frames: range | None = None
    suffix: str = ""


def cut_header(rng: random.Random, source: Source) -> Damaged:
    return _cut_at(source, rng.randrange(1, source.begin))


def cut_in_a_packet(rng: random.Random, source: Source) -> Damaged:
    position, size = rng.choice([packet for packet in source.packets if packet[1] > 2])
    return _cut_at(source, position + rng.randrange(1, size))


def cut_between_packets(rng: random.Random, source: Source) -> Damaged:
    return _cut_at(source, sum(rng.choice(source.packets[:-1])))


def cut_in_the_index(rng: random.Random, source: Source) -> Damaged:
    return _cut_at(source, rng.randrange(min(source.end, len(source.data) - 1), len(source.data)))


def cut_at_the_end(rng: random.Random, source: Source) -> Damaged:
    return _cut_at(source, len(source.data) - rng.randrange(1, 17))


def _cut_at(source: Source, length: int) -> Damaged:
    whole = sum(position + size <= length for position, size in source.packets)
    total = len(source.packets)
    least = min(0.9 * total, total - 2)
    frames = range(max(1, whole - 2), whole + 2)  # a decoder may conceal what is cut, or miss what it refers to
    if source.name == "back.mp4":  # nothing decodes without the index at its end, the last bytes of which are a tag
        fits = UNUSABLE if length < len(source.data) - 128 else ANY
    elif length <= source.begin:
        fits = UNUSABLE
    elif source.name not in STATING or frames[0] >= least:
        fits = frozenset({OK})
    else:
        fits = frozenset({PARTIAL}) if frames[-1] < least else SOME
    if whole <= 1:
        fits |= UNUSABLE
    return Damaged(source.data[:length], f"{source.name} cut at {length} of {len(source.data)}", fits, frames)


def flip_header(rng: random.Random, source: Source) -> Damaged:
    return _flipped(rng, source, 0, source.begin, MISLED)


def flip_index(rng: random.Random, source: Source) -> Damaged:
    behind = source.end < len(source.data) - 64
    return _flipped(rng, source, *((source.end, len(source.data)) if behind else (0, source.begin)), MISLED)


def flip_payload(rng: random.Random, source: Source) -> Damaged:
    position, size = rng.choice(source.packets)
    # Elsewhere some of the flipped bits are in the heads of blocks, on which all that follows depends.
    frames = range(PACKETS // 2, PACKETS + 2) if source.name.endswith((".avi", ".mp4")) else None
    return _flipped(rng, source, position, position + size, SOME, frames)


def _flipped(
    rng: random.Random, source: Source, begin: int, stop: int, fits: frozenset[str], frames: range | None = None
) -> Damaged:
    data = bytearray(source.data)
    bits = sorted(rng.randrange(8 * begin, 8 * stop) for _ in range(rng.choice([1, 1, 2, 8, 64])))
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    what = f"{source.name} with {len(bits)} bits flipped from {bits[0] // 8} to {bits[-1] // 8}"
    return Damaged(bytes(data), what, fits, frames)


def hole(rng: random.Random, source: Source) -> Damaged:
    """Zeros, as a download that lost a block leaves them."""
    begin = rng.randrange(sum(source.packets[0]), source.end)
    stop = min(begin + 4096, source.end)
    data = source.data[:begin] + bytes(stop - begin) + source.data[stop:]
    # A piece of the index may lie among the packets.
    fits = ANY if source.name == "fragments.mp4" else SOME
    return Damaged(data, f"{source.name} with zeros from {begin} to {stop}", fits)


def other_extension(rng: random.Random, source: Source) -> Damaged:
    suffix = rng.choice(EXTENSIONS)
    frames = range(len(source.packets), len(source.packets) + 1)
    return Damaged(source.data, f"{source.name} as {suffix}", frozenset({OK}), frames, suffix)


HEADS = {
    "text": b"hello\n",
    "html": b"<html><body>404 not found</body></html>",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
    "pdf": b"%PDF-1.4\n",
    "wav": b"RIFF\x24\x08\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00",
    "avi": b"RIFF\x00\x10\x00\x00AVI LIST\x00\x01\x00\x00hdrlavih8\x00\x00\x00",
    "mp4": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2",
    "mkv": b"\x1aE\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f",
    "flv": b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00",
}


def head_alone(rng: random.Random, source: Source) -> Damaged:
    kind = rng.choice(list(HEADS))
    filling = rng.choice([bytes(3000), rng.randbytes(3000), b"just words\n" * 300])
    fits = UNUSABLE if kind in ("avi", "mp4", "mkv", "flv") else frozenset({"not-a-video"})
    return Damaged(HEADS[kind] + filling, f"the head of {kind}, then {filling[:4]!r}", fits)


# How many of a thousand; the rest are the odd ones, of which each is there once.
SHARES: dict[Callable[[random.Random, Source], Damaged], int] = {
    cut_header: 90,
    cut_in_a_packet: 120,
    cut_between_packets: 80,
    cut_in_the_index: 40,
    cut_at_the_end: 30,
    flip_header: 140,
    flip_index: 70,
    flip_payload: 140,
    hole: 45,
    other_extension: 30,
    head_alone: 30,
}


def make_mutants(folder: Path, sources: Sequence[Source], *, count: int = 1000, seed: int = 0) -> list[Mutant]:
    """``count`` mutants in ``folder`` (or a few more), in which every family has its share, and at least one.

    The n-th of a thousand is the same whether or not the others are made.
    """
    folder.mkdir()
    planned: list[tuple[str, Callable[[random.Random, Source], Damaged] | Odd]] = [(odd.family, odd) for odd in ODD]
    damages = [damage for damage, share in SHARES.items() for _ in range(share)]
    planned += [(damage.__name__.replace("_", " "), damage) for damage in damages]
    assert len(planned) == 1000
    mutants = []
    for number in _sample([family for family, _ in planned], count, random.Random(seed)):
        family, maker = planned[number]
        rng = random.Random(f"{seed}/{number}")
        if isinstance(maker, Odd):
            path = folder / f"{number:03d}-{maker.name}"
            maker.make(path)
            frames = range(maker.frames, maker.frames + 1) if maker.frames else None
            mutants.append(Mutant(family, path, maker.name, maker.fits, frames))
            continue
        source = rng.choice(sources)
        damaged = maker(rng, source)
        path = folder / f"{number:03d}-{Path(source.name).stem}{damaged.suffix or Path(source.name).suffix}"
        path.write_bytes(damaged.data)
        mutants.append(Mutant(family, path, damaged.what, damaged.fits, damaged.frames))
    return mutants


def _sample(families: Sequence[str], count: int, rng: random.Random) -> list[int]:
    """Positions of ``count`` or a few more of ``families``: of each its share, but at least one."""
    chosen: list[int] = []
    for family in dict.fromkeys(families):
        positions = [i for i, name in enumerate(families) if name == family]
        chosen += rng.sample(positions, max(1, len(positions) * count // len(families)))
    return sorted(chosen)
