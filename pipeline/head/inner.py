"""Inner validation: part of the training videos, whole sources at a time, on which settings are chosen.

Nothing of the test set is seen. With several splits every split chooses for itself, since the training videos of one
are test videos of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.text import TextSide
from pipeline.head.train import TrainConfig, fit, new_head, predict
from store.errors import UsageError

SHARE = 0.25
FOLDS = 4


@dataclass(frozen=True)
class Trial:
    """Top-1 on the inner validation of one training setting."""

    training: TrainConfig
    top1: float


@dataclass(frozen=True)
class Tuning:
    """All trials, in the order in which they were made, and the setting that won."""

    trials: tuple[Trial, ...]
    chosen: TrainConfig
    videos: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "trials": [{"training": t.training.to_dict(), "top1": t.top1} for t in self.trials],
            "chosen": self.chosen.to_dict(),
            "train_videos": self.videos[0],
            "validation_videos": self.videos[1],
        }


def inner_split(labels: np.ndarray, sources: Sequence[str], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation, ascending: no source is in both, and about a quarter of every class is in
    the second.

    A source goes to the validation if no class of its videos then has more than its share there, so a class keeps
    training videos; a class of one source is in the training part alone. Raises ``UsageError`` where that leaves
    nothing to validate on.
    """
    group, counts = _by_source(labels, sources)
    # One whole source may exceed the share, but never all of a class.
    totals = counts.sum(axis=0)
    quota = np.minimum(np.maximum(SHARE * totals, 1), totals - 1)
    held = np.zeros(counts.shape[1])
    chosen = []
    for source in np.random.default_rng(seed).permutation(len(counts)):
        mine = counts[source] > 0
        room = np.where(held > 0, quota, np.maximum(quota, totals / 2))
        if ((held + counts[source])[mine] <= room[mine]).all():
            held += counts[source]
            chosen.append(source)
    validation = np.isin(group, chosen)
    if not validation.any():
        raise UsageError(
            f"the {len(labels)} training videos come from {len(counts)} sources, too few to hold some out of every "
            "class; train without --tune"
        )
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def inner_folds(labels: np.ndarray, sources: Sequence[str], *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows for training and for validation of each of ``FOLDS`` folds, ascending: no source is in both, and each is
    held out by one fold.

    Sources go, in an order that ``seed`` draws, to the fold that holds least of their classes, so a class is spread
    over the folds. A class keeps training videos: a source that is all of it that other folds leave is held out by
    none. Folds that hold nothing are left out. Raises ``UsageError`` where no fold is left.
    """
    group, counts = _by_source(labels, sources)
    totals = counts.sum(axis=0)
    share = counts / np.maximum(totals, 1)
    held, fold = np.zeros((FOLDS, counts.shape[1])), np.zeros(len(counts), np.int64)
    for source in np.random.default_rng(seed).permutation(len(counts)):
        fold[source] = np.lexsort((held.sum(axis=1), held @ share[source]))[0]
        held[fold[source]] += share[source]
    found = []
    for number in range(FOLDS):
        inside = fold == number
        emptied = counts[inside].sum(axis=0) == totals
        inside &= ~(counts[:, emptied] > 0).any(axis=1)
        if inside.any():
            found.append((np.flatnonzero(~inside[group]), np.flatnonzero(inside[group])))
    if not found:
        raise UsageError(
            f"the {len(labels)} training videos come from {len(counts)} sources, too few to hold some out and keep "
            "others of their classes; give classes videos of two sources or more"
        )
    return found


def _by_source(labels: np.ndarray, sources: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Number of the source of every video, int64 [N], and videos by source and class, int64 [S, C]."""
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (group, labels), 1)
    return group, counts


def tune(config: HeadConfig, train: Inputs, text: TextSide, training: TrainConfig) -> Tuning:
    """Choose training settings for ``config`` on an inner validation of ``train``.

    One setting after the other, each at the best of those before: learning rate, epochs, random frames, interpolation
    with the untrained head. A setting has to be better than what stands to replace it.
    """
    fitting, validation = map(torch.from_numpy, inner_split(train.labels.cpu().numpy(), train.sources))
    part, held = train.rows(fitting), train.rows(validation)
    trials: list[Trial] = []

    def attempt(candidate: TrainConfig) -> Trial:
        head = new_head(config, part, text)
        fit(head, part, candidate)
        top1 = float((predict(head, held).argmax(dim=1) == held.labels.cpu()).float().mean())
        trials.append(Trial(candidate, top1))
        return trials[-1]

    best = attempt(training)
    for candidates in _settings(config, train):
        tried = [attempt(candidate) for candidate in candidates(best.training)]
        best = max([best, *tried], key=lambda trial: trial.top1)  # the first of equals
    return Tuning(tuple(trials), best.training, (len(part), len(held)))


def _settings(config: HeadConfig, train: Inputs) -> Iterable[Callable[[TrainConfig], list[TrainConfig]]]:
    yield lambda now: [replace(now, learning_rate=factor * now.learning_rate) for factor in (1 / 3, 3)]
    yield lambda now: [replace(now, epochs=epochs) for epochs in (max(1, now.epochs // 2), 2 * now.epochs)]
    if train.num_frames < train.stored_frames and config.inputs != ("skeleton",):
        yield lambda now: [replace(now, random_frames=not now.random_frames)]
    if config.zero_shot:
        yield lambda now: [replace(now, interpolation=0.5)]
