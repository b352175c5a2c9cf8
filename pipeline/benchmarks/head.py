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

PLAIN, OURS = "plain loop, vcs", "ours, vcs"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from features on the disk to the accuracy of a trained head."""
    progress.note("head: making up features")
    split = make_split(config.train, config.test, config.head_frames)
    write_store(split, folder / "store")
    write_files(split, folder / "files")
    words, mask = trimmed_words(split)
    numbers = itertools.count()

    def ours() -> dict[str, float]:
        result = train_head(
            folder / "store",
            head="vcs",
            frames=config.head_frames,
            epochs=config.epochs,
            out=folder / f"run{next(numbers)}",
        )
        return {"top-1": result.top1}

    def theirs() -> dict[str, float]:
        head = PlainVcs(torch.from_numpy(words), torch.from_numpy(mask), torch.from_numpy(split.classes), SCALE)
        return {"top-1": train(head, folder / "files", epochs=config.epochs, device=resolve_device("auto"))}

    title = f"training a head, {config.epochs} epochs"
    notes = (
        f"made-up features of {config.train:,} training and {config.test:,} test videos, T = {config.head_frames}, "
        f"D = {split.classes.shape[1]}, {len(split.classes)} classes; a split of HMDB51 has 3,570 and 1,530",
        "top-1 on these means nothing, except that both ways should reach about the same",
        "ours: train_head from a store, with averaged weights and frame drop-out, to a run directory",
        "plain: a DataLoader over one .npy a video, VCS written out with einsum on the same words (padded to the "
        "longest name, not to 77 positions), the same learnt parameters and optimiser, no averaging, no drop-out",
    )
    return [
        compare(
            "head",
            title,
            {PLAIN: theirs, OURS: ours},
            plain=PLAIN,
            count=config.train * config.epochs,
            unit="videos",
            rounds=config.rounds,
            progress=progress,
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
