"""Decoding: our exact frames against the usual ways, and how many of the frames each way gets right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.benchmarks import plain
from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare, cpu_seconds
from pipeline.benchmarks.clips import ClipSet
from pipeline.progress import Progress
from stages.decode import decode_video

# Mean difference in levels up to which two pictures are the same one: FFmpeg versions round differently, by far less.
SAME_PICTURE = 0.05

Decode = Callable[[Path, int], np.ndarray]


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds to decode T frames of every clip, one clip after the other."""
    decoders: dict[str, Decode] = {"ours": _ours, "PyAV, every frame": plain.decode_naive}
    if plain.have_decord():
        decoders |= {"decord get_batch": plain.decode_batch, "decord sequential": plain.decode_sequential}
    paths = (*clips.paths, *clips.singles)
    progress.note(f"decoding: counting right frames in {len(paths)} clips")
    right = count_right(decoders, paths, config.frames)
    ways: dict[str, Way] = {
        name: partial(_decode_all, decode, paths, config.frames) for name, decode in decoders.items()
    }
    baseline = "decord get_batch" if plain.have_decord() else "PyAV, every frame"
    notes = (
        f"{config.frames} frames of each of {len(paths)} clips ({clips.what}"
        + (f", {len(clips.singles)} of HMDB51)" if clips.singles else ")"),
        "a frame is right if it is frame floor(i n / T) of all n frames that decode one after the other",
        "decord's users go by its own frame count, which is one too many in some AVI files",
        "ours decodes on one thread, since many decoders run side by side; the others use their defaults",
    )
    return [
        compare(
            "decode",
            "decoding",
            ways,
            plain=baseline,
            count=len(paths),
            unit="clips",
            rounds=config.rounds,
            progress=progress,
            columns={
                name: {"right frames": n, "wanted frames": len(paths) * config.frames} for name, n in right.items()
            },
            notes=notes,
        )
    ]


def count_right(decoders: dict[str, Decode], paths: Sequence[Path], wanted: int) -> dict[str, int]:
    """How many of the wanted frames each decoder gives, over all clips."""
    right = dict.fromkeys(decoders, 0)
    for path in paths:
        every = plain.decode_every_frame(path)
        expected = [every[i] for i in plain.spread(len(every), wanted)]
        for name, decode in decoders.items():
            frames = decode(path, wanted)
            right[name] += sum(_same(frame, truth) for frame, truth in zip(frames, expected, strict=True))
    return right


def _ours(path: Path, wanted: int) -> np.ndarray:
    return decode_video(path, wanted).frames


def _same(frame: np.ndarray, truth: np.ndarray) -> bool:
    return frame.shape == truth.shape and float(np.abs(frame.astype(np.int16) - truth).mean()) < SAME_PICTURE


def _decode_all(decode: Decode, paths: Sequence[Path], wanted: int) -> dict[str, float]:
    began = cpu_seconds()
    for path in paths:
        decode(path, wanted)
    return {"CPU seconds": cpu_seconds() - began}
