"""What compressing a shard would save and cost, on features of real frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare
from pipeline.benchmarks.clips import ClipSet
from pipeline.progress import Progress
from stages.clip.config import TOKENS, ClipConfig

RAW = "ours, bytes with CRC-32C"
SIZE, WRITE = "size, % of raw", "write, MB/s"

Encode = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes], bytes]


def compare_codecs(config: BenchmarkConfig, clips: ClipSet, progress: Progress) -> Comparison:
    """MB of features a second from stored bytes to checked values."""
    rows = _features(config, clips)
    codecs = _codecs()
    stored = {name: [encode(row) for row in rows] for name, (encode, _) in codecs.items()}
    total = sum(row.nbytes for row in rows)
    columns = {name: {SIZE: 100 * sum(map(len, parts)) / total} for name, parts in stored.items()}
    writing = compare(
        "store",
        "writing",
        {name: partial(_each, encode, rows) for name, (encode, _) in codecs.items()},
        plain=RAW,
        count=total // 1_000_000,
        unit="MB",
        rounds=config.rounds,
        progress=progress,
    )
    ways: Mapping[str, Way] = {name: partial(_each, decode, stored[name]) for name, (_, decode) in codecs.items()}
    return compare(
        "store",
        "codecs: reading rows back",
        ways,
        plain=RAW,
        count=total // 1_000_000,
        unit="MB",
        rounds=config.rounds,
        progress=progress,
        columns={name: {**own, WRITE: writing[name].rate} for name, own in columns.items()},
        notes=(
            f"cls, value and penult of {config.models[0]} (random weights) on {config.frames} frames of "
            f"{len(rows) // 3} clips ({clips.what}), {total / 1e6:.0f} MB, a chunk a video and array, one thread",
        ),
    )


def _features(config: BenchmarkConfig, clips: ClipSet) -> list[np.ndarray]:
    from stages.clip.encoder import ClipEncoder

    encoder = ClipEncoder(
        ClipConfig(model=config.models[0], pretrained="none", num_frames=config.frames, tokens=TOKENS)
    )
    encoder.setup()
    arrays = encoder(clips.decoded(config.clip_videos, config.frames))
    return [np.ascontiguousarray(row) for values in arrays.values() for row in values]


def _codecs() -> dict[str, tuple[Encode, Decode]]:
    import google_crc32c
    from numcodecs import Blosc, Zstd

    def checked(row: bytes) -> bytes:
        if google_crc32c.value(row[:-4]) != int.from_bytes(row[-4:], "little"):
            raise RuntimeError("a checksum is wrong, so the time says nothing")
        return row[:-4]

    raw: tuple[Encode, Decode] = (
        lambda row: row.tobytes() + google_crc32c.value(row.tobytes()).to_bytes(4, "little"),
        checked,
    )
    others = {
        "zstd 1": Zstd(level=1),
        "zstd 3": Zstd(level=3),
        "blosc lz4, bytes shuffled": Blosc("lz4", 5, Blosc.SHUFFLE),
        "blosc zstd 3, bytes shuffled": Blosc("zstd", 3, Blosc.SHUFFLE),
        "blosc zstd 3, bits shuffled": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    }
    return {RAW: raw, **{name: (codec.encode, codec.decode) for name, codec in others.items()}}


def _each(work: Callable[..., object], parts: list[np.ndarray] | list[bytes]) -> None:
    for part in parts:
        work(part)
