"""Heads: ``train_head`` on a store against a plain loop over files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, compare
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.made_up import SCALE, MadeUpSplit, make_split, write_files, write_store
from pipeline.benchmarks.plain_head import PlainVcs, train
from pipeline.head.evaluate import resolve_device, train_head
from pipeline.progress import Progress
from store.features import END, NAME

OURS = "ours, vcs"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from features on the disk to a trained head."""
    progress.note("head: making up features")
    split = make_split(config.train, config.test, config.head_frames)
    write_store(split, folder / "store")
    write_files(split, folder / "files")
    words, mask = trimmed_words(split)
    numbers = itertools.count()

    def ours() -> None:
        out = folder / f"run{next(numbers)}"
        train_head(folder / "store", head="vcs", frames=config.head_frames, epochs=config.epochs, out=out)

    def theirs() -> None:
        head = PlainVcs(torch.from_numpy(words), torch.from_numpy(mask), torch.from_numpy(split.classes), SCALE)
        train(head, folder / "files", epochs=config.plain_epochs, device=resolve_device("auto"))

    plain = f"plain loop, vcs, {config.plain_epochs} of {config.epochs} epochs"

    title = f"training a head, {config.epochs} epochs"
    notes = (
        f"made-up features of {config.train:,} training and {config.test:,} test videos, T = {config.head_frames}, "
        f"D = {split.classes.shape[1]}, {len(split.classes)} classes; a split of HMDB51 has 3,570 and 1,530",
        "ours: train_head, from a store to a tested head in a run directory; averaged weights, frame drop-out",
        "plain: a DataLoader over one .npy a video, VCS written out with einsum on the same words (padded to the "
        "longest name, not to 77 positions), the same learnt parameters and optimiser; no averaging, drop-out or test",
        f"plain trains for {config.plain_epochs} of {config.epochs} epochs, and its seconds are scaled up",
    )
    return [
        compare(
            "head",
            title,
            {plain: theirs, OURS: ours},
            plain=plain,
            count=config.train * config.epochs,
            unit="videos",
            rounds=config.rounds,
            progress=progress,
            scale={plain: config.epochs / config.plain_epochs},
            notes=notes,
        )
    ]


def trimmed_words(split: MadeUpSplit) -> tuple[np.ndarray, np.ndarray]:
    """The words of names and their end tokens, moved to the front and padded to the longest: [C, L, D] and their mask
    bool [C, L]."""
    used = (split.kinds == NAME) | (split.kinds == END)
    longest = int(used.sum(axis=1).max())
    words = np.zeros((len(used), longest, split.words.shape[-1]), np.float32)
    mask = np.arange(longest) < used.sum(axis=1, keepdims=True)
    for row, (values, keep) in enumerate(zip(split.words, used, strict=True)):
        words[row, : keep.sum()] = values[keep]
    return words, mask
