"""The store: reading a whole dataset and random batches, against files that one would write otherwise, and what
compression would change."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.codecs import compare_codecs
from pipeline.benchmarks.formats import Format, MadeUp, NpyFiles, Tensors, formats, mark
from pipeline.engines.sizing import available_memory
from pipeline.progress import Progress

BATCH = 256
FRAMES, GRID, WIDTH = 16, 7, 512
ARRAYS: dict[str, dict[str, tuple[int, ...]]] = {
    "frame embeddings": {"cls": (FRAMES, WIDTH)},
    "frame embeddings and 7x7 tokens": {"cls": (FRAMES, WIDTH), "value": (FRAMES, GRID, GRID, WIDTH)},
}
SIZE = "GB on disk"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from files, which the page cache holds since they were read once, to tensors."""
    comparisons = []
    for what, arrays in ARRAYS.items():
        made_up = _fitting(MadeUp(config.store_videos, arrays), folder)
        comparisons += _reading(what, made_up, config, folder / what.replace(" ", "-"), progress)
    return [*comparisons, compare_codecs(config, clips, progress)]


def _fitting(made_up: MadeUp, folder: Path) -> MadeUp:
    """As many of the videos as a format takes that lies in the page cache and in memory, with some room left."""
    room = min(available_memory() / 2.5, shutil.disk_usage(folder).free / 2)
    return dataclasses.replace(
        made_up, count=min(made_up.count, max(BATCH, int(room * made_up.count / made_up.nbytes)))
    )


def _reading(what: str, made_up: MadeUp, config: BenchmarkConfig, folder: Path, progress: Progress) -> list[Comparison]:
    ways = formats(folder, made_up)
    in_turns = made_up.nbytes * (len(ways) + 1.5) < min(available_memory(), shutil.disk_usage(folder).free)
    notes = (
        f"made-up float16 features of {made_up.count:,} videos (all of HMDB51: 6,766), {made_up.nbytes / 1e9:.2f} GB,"
        " in the page cache",
        "ours checks every row against its checksum; no other way checks anything, but for .npz (CRC-32)",
        "timed in turns" if in_turns else "too large to lie in memory five times: timed one way after the other",
        *(() if any("HDF5" in way.name for way in ways) else ("h5py is not installed, so HDF5 is left out",)),
    )
    whole, batches = [], []
    for group in [ways] if in_turns else [(way,) for way in ways]:
        for way in group:
            progress.note(f"store: writing {way.name} ({made_up.nbytes / 1e9:.2f} GB)")
            way.write()
        os.sync()  # the first round would wait for what is still on its way to the disk
        for way in group:
            way.load()  # and find other memory than the next ones
        whole.append(_timed(f"loading {what}", group, _whole_ways(group), made_up.count, config, progress))
        random = tuple(way for way in group if way.random)
        if random:
            drawn = _draw(made_up.count, config.batches)
            title = f"random batches of {BATCH}: {what}"
            batches.append(
                _timed(title, random, _batch_ways(random, drawn), len(drawn) * len(drawn[0]), config, progress)
            )
        for way in group:
            shutil.rmtree(way.folder)
    return [_joined(parts, notes) for parts in (whole, batches)]


def _timed(
    title: str, group: Sequence[Format], ways: dict[str, Way], count: int, config: BenchmarkConfig, progress: Progress
) -> Comparison:
    sizes = {way.name: {SIZE: _bytes_in(way.folder) / 1e9} for way in group}
    plain, rounds = group[0].name, config.rounds
    return compare(
        "store", title, ways, plain=plain, count=count, unit="videos", rounds=rounds, progress=progress, columns=sizes
    )


def _joined(parts: Sequence[Comparison], notes: Sequence[str]) -> Comparison:
    """Comparisons that were made one after the other as one, all compared with the plain way."""
    plain = parts[0][NpyFiles.name]
    rows = tuple(row.against(plain) for part in parts for row in part.rows)
    return dataclasses.replace(parts[0], rows=rows, notes=tuple(notes))


def _whole_ways(group: Sequence[Format]) -> dict[str, Way]:
    def load(way: Format) -> None:
        _check(way, way.load(), np.arange(way.made_up.count))

    return {way.name: partial(load, way) for way in group}


def _batch_ways(group: Sequence[Format], drawn: Sequence[np.ndarray]) -> dict[str, Way]:
    def draw(way: Format, opened: object) -> None:
        for rows in drawn:
            _check(way, way.batch(opened, rows), rows)

    return {way.name: partial(draw, way, way.opened()) for way in group}


def _draw(count: int, batches: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.permutation(count)[:BATCH] for _ in range(batches)]


def _check(way: Format, found: Tensors, rows: np.ndarray) -> None:
    """Raise ``RuntimeError`` where what was read is not what was written."""
    for name, shape in way.made_up.arrays.items():
        values = found[name].flatten(1)
        if values.shape != (len(rows), np.prod(shape)) or not np.array_equal(values[:, 0].numpy(), mark(rows)):
            raise RuntimeError(f"{way.name} gave other rows of {name} than were asked for, so its time says nothing")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
