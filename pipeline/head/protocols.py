"""Tests with little or no training: zero-shot, also across datasets, and few-shot."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.head.checkpoint import load_head, open_run, read_run
from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.evaluate import prediction_of
from pipeline.head.job import Job, check_epochs, check_sizes, make_job, run_job, store_of
from pipeline.head.metrics import clustered_interval, hits, mean_class_accuracy
from pipeline.head.models import Head, TextHead, text_parts
from pipeline.head.plausible import too_good
from pipeline.head.record import RANDOM_WEIGHTS, absent_classes, completeness, environment, leaks
from pipeline.head.results import Prediction, RunResult, SplitSummary, summarise
from pipeline.head.selection import coverage, encoder_record, open_store, random_weights
from pipeline.head.text import TextSide
from pipeline.head.train import Progress, Run, TrainConfig, fit_runs, new_head
from store.errors import UsageError
from store.reader import FeatureStore

HALF_SPLITS = 10


@dataclass(frozen=True)
class ZeroShotResult:
    """Accuracies in [0, 1] of heads that have seen no video of these classes.

    trained_on  dataset of the run whose text stream was taken over; None where nothing was trained
    heads       how many trained heads the figures are the mean of
    splits      on the test videos of each official split, all classes
    everything  on all videos, all classes
    half        top-1 on all videos of a random half of the classes, for ten draws of it; none of a single class
    """

    store: str
    dataset: str
    head: str
    trained_on: str | None
    heads: int
    classes: int
    videos: int
    splits: tuple[SplitSummary, ...]
    everything: Mapping[str, Any]
    half: tuple[float, ...]
    features: Mapping[str, Any]
    complete: bool
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        half = None
        if self.half:
            half = {"classes": self.classes // 2, "top1": float(np.mean(self.half)), "std": float(np.std(self.half))}
        return {**asdict(self), "format": "vilp-zero-shot", "version": 1, "half_mean": half}


def zero_shot(
    store: FeatureStore | str | os.PathLike[str] | None = None,
    *,
    head: str | HeadConfig = "vcs",
    run: str | os.PathLike[str] | RunResult | None = None,
    frames: int = 8,
    views: Sequence[str] | None = None,
    device: str = "auto",
    clip: str | None = None,
    pose: str | None = None,
    text: str | None = None,
    allow_mismatch: bool = False,
) -> ZeroShotResult:
    """Test without training on the store's classes: an untrained head, or what a run learnt on another dataset.

    Of a run on other classes the text stream is taken over: its adapters, scale and pose weights stay, the words and
    classes become those of ``store``, the offsets of its own classes go. Of a run on the same classes only the settings
    count, and the head is untrained.

    Raises ``UsageError`` for a head in which no words meet frames; otherwise as ``train_head`` and ``evaluate_run``.
    """
    if run is None:
        if store is None:
            raise UsageError("store is not given; name it with --store, or a run with --run")
        job = make_job(store, head, frames=frames, device=device, clip=clip, pose=pose, text=text)
        check_epochs(job.config, TrainConfig(epochs=0))
        job = replace(job, selection=replace(job.selection, views=tuple(views or job.selection.views)))
        return _zero_shot(job, None, None)
    recorded = open_run(run)
    check_epochs(recorded.config, TrainConfig(epochs=0))
    opened = store_of(recorded, store)
    other = opened.class_names != recorded.class_names
    config = recorded.config.text_stream if other else recorded.config
    job = run_job(
        recorded,
        opened,
        device=device,
        config=config,
        views=views,
        allow_mismatch=allow_mismatch,
        other_videos=other,
    )
    return _zero_shot(job, recorded if other else None, recorded)


def crosses_datasets(run: str | os.PathLike[str], store: str | os.PathLike[str]) -> bool:
    """Whether a store has other classes than those that a run was trained on."""
    return open_store(store).class_names != read_run(run).class_names


def retarget(head: nn.Module, text: TextSide) -> TextHead:
    """The text stream of a trained head, with the words and classes of another dataset in place of its own."""
    stream = next(part for part in text_parts(head) if isinstance(part, TextHead))
    stream.words, stream.membership, stream.classes = text.bank.units, text.bank.membership, text.classes
    stream.offsets = nn.Parameter(torch.zeros_like(text.classes))
    return stream


def _zero_shot(job: Job, trained: RunResult | None, run: RunResult | None) -> ZeroShotResult:
    store = job.store
    inputs = job.inputs(None, None)
    heads: list[Head]
    if trained is None:
        heads = [new_head(job.config, inputs, job.text)]
    else:
        check_sizes(trained, inputs, store)
        first = trained.scores[0].split
        seeds = [score.seed for score in trained.scores if score.split == first]
        heads = [retarget(load_head(trained, first, seed), job.text).to(job.device) for seed in seeds]
    found = [prediction_of(one, inputs, 0, number) for number, one in enumerate(heads)]
    splits = summarise([part for p in found for part in _by_split(p, store)]) if store.num_splits else ()
    counted = {str(split.split): coverage(store, job.selection, split.split) for split in splits}
    complete, notes = completeness(store, job.selection, counted)
    if random_weights(store, job.selection):
        notes.append(RANDOM_WEIGHTS)
    record = encoder_record(store, job.selection)
    if splits:
        chance = 1 / len(store.class_names)
        notes += too_good(store.dataset_name, record, splits, chance=chance, trained=False)
    labels, sources = found[0].labels, found[0].sources
    correct = np.mean([hits(p.scores, labels) for p in found], axis=0)
    everything = {
        "top1": float(correct.mean()),
        "top5": float(np.mean([hits(p.scores, labels, 5).mean() for p in found])),
        "mean_class": mean_class_accuracy(correct, labels),
        "interval": clustered_interval(correct, sources),
    }
    return ZeroShotResult(
        store=store.url,
        dataset=store.dataset_name,
        head=(run.config if run else job.config).head,
        trained_on=trained.selection.dataset if trained else None,
        heads=len(heads),
        classes=len(store.class_names),
        videos=len(labels),
        splits=splits,
        everything=everything,
        half=half_class_top1([p.scores for p in found], labels),
        features=job.selection.to_dict(),
        complete=complete,
        warnings=(*notes, *inputs.notes),
        environment=environment(job.device),
    )


def half_class_top1(scores: Sequence[np.ndarray], labels: np.ndarray) -> tuple[float, ...]:
    """Top-1 among a random half of the classes, on their videos, for several draws of it: the mean over ``scores``,
    each [N, C]. Draws without any video are left out, and all where one class remains, which is always right."""
    classes = scores[0].shape[1]
    found = []
    for seed in range(HALF_SPLITS if classes >= 4 else 0):
        kept = np.sort(np.random.default_rng(seed).permutation(classes)[: classes // 2])
        rows = np.isin(labels, kept)
        if rows.any():
            right = [(kept[s[rows][:, kept].argmax(axis=1)] == labels[rows]).mean() for s in scores]
            found.append(float(np.mean(right)))
    return tuple(found)


def _by_split(found: Prediction, store: FeatureStore) -> list[Prediction]:
    """The test videos of every split, of a prediction for all videos."""
    parts = []
    slots = store.videos["slot"].to_numpy()
    for split in range(1, store.num_splits + 1):
        test = slots[np.array(store.videos[f"split{split}"].to_pylist()) == "test"]
        rows = np.flatnonzero(np.isin(found.slots, test))
        if len(rows):
            ids, sources = (tuple(np.array(names)[rows].tolist()) for names in (found.video_ids, found.sources))
            part = (found.scores[rows], found.labels[rows], found.slots[rows], ids, sources)
            parts.append(Prediction(split, found.seed, *part))
    return parts


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies in [0, 1] on the whole test sets, by number of training videos a class; ``rows`` has one a number:
    ``shots``, ``top1`` (the mean over the splits), ``train_videos`` and ``splits``, as in a ``RunResult``."""

    run: str
    dataset: str
    head: str
    seeds: int
    rows: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "format": "vilp-few-shot", "version": 1}


def few_shot(
    run: str | os.PathLike[str] | RunResult,
    shots: Sequence[int] = (2, 4, 8, 16),
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> FewShotResult:
    """Train the head of a run again on a few videos a class, and test it on the same test sets.

    run       directory of a training run, or its record
    shots     training videos a class, each 1 or more; a class that has fewer gives all
    device    ``auto`` takes a GPU if there is one
    progress  called after each epoch

    Everything else is the run's: settings, splits and seeds, which also draw the videos. Epochs are raised so that the
    number of steps stays what it was.

    Raises ``UsageError`` for other numbers and for a zero-shot run, ``MissingError`` where run or store are gone,
    ``StoreError`` (``store-mismatch``) where the store holds other features than those of the run.
    """
    if not shots or min(shots) < 1:
        raise UsageError(
            f"few-shot is {', '.join(map(str, shots)) or 'empty'}; allowed: numbers from 1 on, as 2,4,8,16"
        )
    recorded = open_run(run)
    if recorded.training.epochs == 0:
        raise UsageError(f"the run in {recorded.directory} is zero-shot; few-shot needs one with --epochs 1 or more")
    job = run_job(recorded, device=device)
    store = job.store
    predictions: dict[int, list[Prediction]] = {count: [] for count in shots}
    sizes: dict[int, list[int]] = {count: [] for count in shots}
    warnings = [w for w in recorded.warnings if not w.startswith(("too good", "leak"))]
    warnings += leaks(store, job.selection, recorded.splits)  # of the store as it is now, whatever the run could tell
    for split in recorded.splits:
        train = job.inputs(split, "train", every_frame=recorded.training.random_frames)
        counts = np.bincount(train.labels.cpu().numpy(), minlength=len(store.class_names))
        if counts.min() < max(shots):
            small = int((counts < max(shots)).sum())
            warnings.append(
                f"split {split}: {small} classes have fewer than {max(shots)} training videos; all are used"
            )
        trained = {count: _train_few(job, recorded, train, split, count, progress) for count in shots}
        del train
        test = job.inputs(split, "test")
        warnings += absent_classes(test.labels, store, split, "test")
        for count, runs in trained.items():
            sizes[count] += [len(one.rows) for one in runs]
            predictions[count] += [prediction_of(one.head, test, split, one.seed) for one in runs]
    rows = []
    for count in shots:
        splits = summarise(predictions[count])
        top1 = float(np.mean([summary.top1 for summary in splits]))
        of_splits = [asdict(summary) for summary in splits]
        rows.append({"shots": count, "top1": top1, "train_videos": max(sizes[count]), "splits": of_splits})
    return FewShotResult(
        run=str(recorded.directory),
        dataset=store.dataset_name,
        head=recorded.config.head,
        seeds=len(recorded.seeds),
        rows=tuple(rows),
        warnings=tuple(dict.fromkeys(warnings)),
        environment=environment(job.device),
    )


def _train_few(job: Job, run: RunResult, train: Inputs, split: int, count: int, progress: Progress | None) -> list[Run]:
    """The head of a run trained again on ``count`` videos a class, once a seed, in as many steps as the run took."""
    runs = []
    for seed in run.seeds:
        picked = few_rows(train, count, seed)
        runs.append(Run(new_head(job.config, train, job.text, seed=seed, rows=picked), picked, split, seed))
    steps = [math.ceil(n / run.training.batch_size) for n in (len(train), len(runs[0].rows))]
    settings = replace(run.training, epochs=math.ceil(run.training.epochs * steps[0] / steps[1]))
    fit_runs(runs, train, settings, progress)
    return runs


def few_rows(train: Inputs, count: int, seed: int) -> torch.Tensor:
    """``count`` random videos of every class (all that there are of a smaller one): int64, ascending."""
    order = np.random.default_rng(seed).permutation(len(train))
    labels = train.labels.cpu().numpy()[order]
    picked = [order[np.flatnonzero(labels == label)[:count]] for label in np.unique(labels)]
    return torch.from_numpy(np.sort(np.concatenate(picked)))
