"""From a feature store to figures (``train_head``), and from a run directory to the same ones (``evaluate_run``)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.head.checkpoint import load_head, load_predictions, open_run, run_directory, write_run
from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.inner import tune as tune_on
from pipeline.head.job import Job, check_epochs, check_sizes, check_videos, chosen_splits, make_job, run_job, store_of
from pipeline.head.models import Head
from pipeline.head.record import absent_classes, make_result
from pipeline.head.results import Prediction, RunResult, score
from pipeline.head.selection import default_run_directory
from pipeline.head.stack import together_pays
from pipeline.head.train import LossCurves, Progress, Run, TrainConfig, fit_runs, new_head, predict, sizes_of
from store.errors import StoreError, UsageError
from store.reader import FeatureStore


def train_head(
    store: FeatureStore | str | os.PathLike[str],
    *,
    head: str | HeadConfig = "fuse",
    split: int | str = 1,
    frames: int = 8,
    seeds: int = 1,
    epochs: int = 30,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    clip: str | None = None,
    pose: str | None = None,
    text: str | None = None,
    video: str | None = None,
    training: TrainConfig | None = None,
    tune: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Train a head on stored features, test it once at the last epoch, and write a run directory.

    store      a ``FeatureStore`` or where one is
    head       a name (see ``config.HEADS``), or a ``HeadConfig`` with all settings
    split      number of the official split, or ``"all"``
    frames     T' of the stored T frames
    seeds      how many heads a split, with seeds 0, 1, ...
    epochs     0 tests the untrained head, which is zero-shot where the head reads text
    device     ``auto`` takes a GPU if there is one
    out        run directory; None takes the first free ``runs/<store>-<head>``
    clip, pose, text  id of a group, or its beginning, where the store has several
    video      the same of a video model, of which the heads ``mean`` and ``attn`` then read all clips in place of CLIP
    training   all other settings of the training
    tune       choose training settings on an inner validation of each split's training videos, grouped by source
    progress   called after each epoch

    Raises ``MissingError`` where the store lacks what the head reads, ``UsageError`` for a value that is not allowed.
    """
    training = replace(training or TrainConfig(), epochs=epochs)
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; allowed: 1 or more")
    job = make_job(store, head, frames=frames, device=device, clip=clip, pose=pose, text=text, video=video)
    check_epochs(job.config, training)
    training = training.on(job.device)
    splits = chosen_splits(job.store, split)
    check_videos(job, splits)
    directory = Path(out) if out is not None else default_run_directory(job.store, job.config.head)
    with run_directory(directory):
        result, heads, predictions = _train(job, splits, seeds, training, tune, progress)
        return write_run(directory, result, heads, predictions)


def _train(
    job: Job, splits: Sequence[int], seeds: int, training: TrainConfig, tune: bool, progress: Progress | None
) -> tuple[RunResult, dict[tuple[int, int], Head], list[Prediction]]:
    """What ``train_head`` writes: the result, the heads by split and seed, and their predictions."""
    curves = LossCurves(progress)
    heads: dict[tuple[int, int], Head] = {}
    predictions, scores, warnings, tuning = [], [], [], {}
    for train, rows in _rounds(job, splits, training, tune):
        runs, settings, sizes, started = [], training, sizes_of(train, job.text), time.perf_counter()
        for number, of_split in rows.items():
            warnings += absent_classes(train.labels[of_split.to(train.device)], job.store, number, "training")
            if tune and training.epochs:
                tuned = tune_on(job.config, train, job.text, training)
                settings, tuning[str(number)] = tuned.chosen, tuned.to_dict()
            for seed in range(seeds):
                untrained = new_head(job.config, train, job.text, seed=seed, rows=of_split)
                runs.append(Run(untrained, of_split, number, seed))
        warnings += train.notes
        losses = fit_runs(runs, train, settings, curves, note=warnings.append)
        seconds = (time.perf_counter() - started) / len(runs)
        del train
        for number in rows:
            test = job.inputs(number, "test")
            warnings += [*absent_classes(test.labels, job.store, number, "test"), *test.notes]
            for run, loss in zip(runs, losses, strict=True):
                if run.split != number:
                    continue
                heads[number, run.seed] = run.head
                predictions.append(prediction_of(run.head, test, number, run.seed))
                scores.append(
                    score(
                        predictions[-1],
                        train_videos=len(run.rows),
                        loss=loss if training.epochs else None,
                        train_seconds=seconds,
                        losses=curves.of(number, run.seed),
                    )
                )
    return make_result(job, sizes, training, scores, predictions, warnings, tuning), heads, predictions


def _rounds(
    job: Job, splits: Sequence[int], training: TrainConfig, tune: bool
) -> Iterator[tuple[Inputs, dict[int, Tensor]]]:
    """Training videos, and by split which of them (rows, int64) are its own: those of all splits at once where their
    heads are best trained together and all fit on the device, else split after split."""
    every_frame = training.random_frames or tune
    for split in splits:
        inputs = job.inputs(split, "train", every_frame=every_frame)
        if split == splits[0] and len(splits) > 1 and not tune and together_pays(inputs, training.batch_size):
            del inputs
            slots = {s: job.store.selected(s, "train") for s in splits}
            every = job.inputs(None, None, every_frame=every_frame, slots=sorted(set().union(*slots.values())))
            if not every.notes:
                yield every, {s: torch.from_numpy(np.flatnonzero(np.isin(every.slots, slots[s]))) for s in splits}
                return
            del every
            inputs = job.inputs(split, "train", every_frame=every_frame)
        yield inputs, {split: torch.arange(len(inputs))}


def evaluate_run(
    run: str | os.PathLike[str] | RunResult,
    store: FeatureStore | str | os.PathLike[str] | None = None,
    *,
    views: Sequence[str] | None = None,
    device: str = "auto",
    allow_mismatch: bool = False,
) -> RunResult:
    """Test the heads of a run again, by default on the store that they were trained from.

    ``views`` are the stored views whose logits are averaged, by default those of the run. ``reproduced`` of the result
    says whether the predictions are those of the run to the bit, which holds on the same machine with the same number
    of threads; it is None with other views.

    Raises ``StoreError`` (``store-mismatch``) where the features are not those that the heads were trained on; with
    ``allow_mismatch`` other numbers of the same shapes and classes are taken.
    """
    recorded = open_run(run)
    opened = store_of(recorded, store)
    if opened.class_names != recorded.class_names:
        raise StoreError(
            f"the run was trained on {len(recorded.class_names)} classes of {recorded.selection.dataset} and "
            f"{opened.url} has others, {len(opened.class_names)} of {opened.dataset_name}; evaluate on a store of the "
            "same classes, or give --zero-shot to take its text stream to the other classes",
            kind="store-mismatch",
        )
    job = run_job(recorded, opened, device=device, views=views, allow_mismatch=allow_mismatch)
    predictions, scores, warnings = [], [], [w for w in recorded.warnings if w.startswith("no training video")]
    for number in recorded.splits:
        test = job.inputs(number, "test")
        check_sizes(recorded, test, opened)
        warnings += [*absent_classes(test.labels, opened, number, "test"), *test.notes]
        for old in (s for s in recorded.scores if s.split == number):
            found = prediction_of(load_head(recorded, number, old.seed).to(job.device), test, number, old.seed)
            predictions.append(found)
            scores.append(
                score(
                    found,
                    train_videos=old.train_videos,
                    loss=old.loss,
                    train_seconds=old.train_seconds,
                    losses=old.losses,
                )
            )
    result = make_result(job, recorded.sizes, recorded.training, scores, predictions, warnings, recorded.tuning)
    same_views = job.selection.views == recorded.selection.views
    reproduced = _same(load_predictions(recorded), predictions) if same_views else None
    return replace(result, directory=recorded.directory, files=recorded.files, reproduced=reproduced)


def prediction_of(head: Head, test: Inputs, split: int, seed: int) -> Prediction:
    """What a head says of test videos: scores float32 [N, C], with their labels, slots, ids and sources."""
    scores = predict(head, test).numpy()
    return Prediction(split, seed, scores, test.labels.cpu().numpy(), test.slots.numpy(), test.video_ids, test.sources)


def _same(recorded: Sequence[Prediction], found: Sequence[Prediction]) -> bool:
    pairs = list(zip(recorded, found, strict=True)) if len(recorded) == len(found) else []
    return bool(pairs) and all(
        a.video_ids == b.video_ids and np.array_equal(a.scores, b.scores) and np.array_equal(a.labels, b.labels)
        for a, b in pairs
    )
