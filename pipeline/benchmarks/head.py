"""Heads: ``train_head`` on a store against a plain loop over files, every head, and many runs at a time."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, compare, make_row
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.made_up import SCALE, MadeUpSplits, make_splits, whole_store_nbytes, write_files, write_store
from pipeline.benchmarks.plain_head import PlainVcs, train
from pipeline.head.data import Inputs
from pipeline.head.evaluate import train_head
from pipeline.head.job import Job, make_job
from pipeline.head.stack import together_pays
from pipeline.head.train import EpochReport, Run, TrainConfig, fit_together, new_head
from pipeline.progress import Progress
from stages.cache import cache_in
from stages.device import resolve_device
from store.errors import UsageError
from store.features import END, NAME

OURS = "ours, vcs"
MEASURE = "vcs"
SPLITS = 3
TIMED, EPOCH, OUTSIDE = "epochs timed", "an epoch, s", "loading and testing, s"
ALONE, TOGETHER = "one by one", "in one program"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from features on the disk to a trained head."""
    progress.note("head: making up features")
    made_up = make_splits(config.train, config.test, config.head_frames, splits=SPLITS)
    need, free = whole_store_nbytes(made_up) + made_up.frames.nbytes, shutil.disk_usage(folder).free
    if need > free:
        raise UsageError(
            f"the head part writes {need / 1e9:.1f} GB into {folder}, where {free / 1e9:.1f} GB are free; "
            "give --quick, or set TMPDIR to a folder with more room"
        )
    write_store(made_up, folder / "store", whole=True)
    write_files(made_up, folder / "files")
    with cache_in(folder / "cache"):
        return [
            _against_plain(config, made_up, folder, progress),
            _each(config, folder, progress),
            *(_many(head, config, folder / "store", progress) for head in config.together),
        ]


def _against_plain(config: BenchmarkConfig, made_up: MadeUpSplits, folder: Path, progress: Progress) -> Comparison:
    words, mask = trimmed_words(made_up)
    numbers = itertools.count()

    def ours() -> None:
        out = folder / f"run{next(numbers)}"
        train_head(folder / "store", head="vcs", frames=config.head_frames, epochs=config.epochs, out=out)

    def theirs() -> None:
        head = PlainVcs(torch.from_numpy(words), torch.from_numpy(mask), torch.from_numpy(made_up.classes), SCALE)
        train(head, folder / "files", epochs=config.plain_epochs, device=str(resolve_device("auto")))

    plain = f"plain loop, vcs, {config.plain_epochs} of {config.epochs} epochs"
    notes = (
        *_what(config),
        "ours: train_head, from a store to a tested head in a run directory; averaged weights, frame drop-out",
        "plain: a DataLoader over one .npy a video, VCS written out with einsum on the same words (padded to the "
        "longest name, not to 77 positions), the same learnt parameters and optimiser; no averaging, drop-out or test",
        f"plain trains for {config.plain_epochs} of {config.epochs} epochs, and its seconds are scaled up",
    )
    return compare(
        "head",
        f"training a head, {config.epochs} epochs",
        {plain: theirs, OURS: ours},
        plain=plain,
        count=config.train * config.epochs,
        unit="videos",
        rounds=config.rounds,
        progress=progress,
        scale={plain: config.epochs / config.plain_epochs},
        notes=notes,
    )


def _what(config: BenchmarkConfig) -> tuple[str, ...]:
    return (
        f"made-up features of {config.train:,} training and {config.test:,} test videos, T = {config.head_frames}; a "
        "split of HMDB51 has 3,570 and 1,530",
    )


def _each(config: BenchmarkConfig, folder: Path, progress: Progress) -> Comparison:
    """Every head, once."""
    progress.begin(f"every head, {config.epochs} epochs", len(config.heads))
    found = {}
    for head in config.heads:
        found[head] = time_head(head, folder / "store", config, folder / f"{head}-run")
        progress.advance(1)
    progress.end()
    measure = found.get(MEASURE, found[config.heads[0]])
    count = config.train * config.epochs
    rows = [
        make_row(head, [each.seconds], [measure.seconds], count, "videos", each.columns(config))
        for head, each in found.items()
    ]
    notes = (
        *_what(config),
        "from a store to a tested head in a run directory, the tokens under persons pooled for the first time",
        f"{TIMED}: where fewer than {config.epochs}, the seconds are those of the second one times {config.epochs}",
        "times faster: than vcs, which reads embeddings of frames alone",
    )
    measured = next(head for head, each in found.items() if each is measure)
    return Comparison("head", f"every head, {config.epochs} epochs", measured, tuple(rows), notes)


@dataclass(frozen=True)
class HeadTimes:
    """Seconds of the ``epochs`` of training, of the ``timed`` ones among them or as forecast from the second of those,
    and of all that is not training (loading, pooling, testing, writing)."""

    training: float
    outside: float
    timed: int

    @property
    def seconds(self) -> float:
        return self.outside + self.training

    def columns(self, config: BenchmarkConfig) -> dict[str, float]:
        return {TIMED: self.timed, EPOCH: self.training / config.epochs, OUTSIDE: self.outside}


def time_head(head: str, store: Path, config: BenchmarkConfig, out: Path) -> HeadTimes:
    """Train a head for two epochs, and for all of them where that takes at most ``config.head_seconds``."""

    def trained(epochs: int, out: Path) -> tuple[float, list[float]]:
        """Seconds of the whole, and of the training up to the end of each epoch."""
        ends: list[float] = []

        def note(epoch: EpochReport) -> None:
            ends.append(epoch.seconds)

        began = time.perf_counter()
        train_head(store, head=head, frames=config.head_frames, epochs=epochs, out=out, progress=note)
        return time.perf_counter() - began, ends

    whole, (first, second) = trained(2, out)
    forecast, outside = config.epochs * (second - first), whole - second
    if forecast > config.head_seconds:
        return HeadTimes(forecast, outside, 2)
    return HeadTimes(trained(config.epochs, out.with_name(f"{out.name}-whole"))[1][-1], outside, config.epochs)


def _many(head: str, config: BenchmarkConfig, store: Path, progress: Progress) -> Comparison:
    """Splits and seeds in one program and one by one, whatever ``train_head`` would do here."""
    job = make_job(store, head, frames=config.head_frames)
    inputs = job.inputs(None, None)
    training = TrainConfig(epochs=1)

    def fit(size: int) -> None:
        runs = _runs(job, inputs, config.seeds)
        for first in range(0, len(runs), size):
            fit_together(runs[first : first + size], inputs, training)

    count = SPLITS * config.seeds
    chosen = TOGETHER if together_pays(inputs, training.batch_size) else ALONE
    return compare(
        "head",
        f"{head}: {SPLITS} splits x {config.seeds} seeds, {config.epochs} epochs",
        {ALONE: partial(fit, 1), TOGETHER: partial(fit, count)},
        plain=ALONE,
        count=count,
        unit="heads",
        rounds=1,
        progress=progress,
        scale=dict.fromkeys((ALONE, TOGETHER), float(config.epochs)),
        notes=(
            *_what(config),
            f"training alone, with features in memory; one epoch is timed, and its seconds are times {config.epochs}",
            f"train_head goes {chosen} here, by the device and the size of a batch",
        ),
    )


def _runs(job: Job, inputs: Inputs, seeds: int) -> Sequence[Run]:
    rows = {
        split: torch.from_numpy(np.flatnonzero(np.isin(inputs.slots, job.store.selected(split, "train"))))
        for split in range(1, SPLITS + 1)
    }
    return [
        Run(new_head(job.config, inputs, job.text, seed=seed, rows=of_split), of_split, split, seed)
        for split, of_split in rows.items()
        for seed in range(seeds)
    ]


def trimmed_words(made_up: MadeUpSplits) -> tuple[np.ndarray, np.ndarray]:
    """The words of names and their end tokens, moved to the front and padded to the longest: [C, L, D] and their mask
    bool [C, L]."""
    used = (made_up.kinds == NAME) | (made_up.kinds == END)
    longest = int(used.sum(axis=1).max())
    words = np.zeros((len(used), longest, made_up.words.shape[-1]), np.float32)
    mask = np.arange(longest) < used.sum(axis=1, keepdims=True)
    for row, (values, keep) in enumerate(zip(made_up.words, used, strict=True)):
        words[row, : keep.sum()] = values[keep]
    return words, mask
