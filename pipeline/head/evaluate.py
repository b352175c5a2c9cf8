"""From a feature store to figures (``train_head``), and from a run directory to the same ones (``evaluate_run``)."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.head import data
from pipeline.head.checkpoint import load_head, load_predictions, prepare_directory, read_run, write_run
from pipeline.head.data import Inputs, Selection
from pipeline.head.models import Head, HeadConfig, HeadSizes
from pipeline.head.results import Prediction, RunResult, Score, score, summarise
from pipeline.head.text import text_side
from pipeline.head.train import LossCurves, Progress, TrainConfig, fit, new_head, predict, sizes_of
from store.errors import MissingError, StoreError, UsageError, one_of
from store.reader import FeatureStore


def train_head(
    store: FeatureStore | str | os.PathLike[str],
    *,
    head: str = "fuse",
    split: int | str = 1,
    frames: int = 8,
    seeds: int = 1,
    epochs: int = 30,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    word_mode: str = "name+eot",
    tau: float = 0.01,
    sigma: float = 0.7,
    clip: str | None = None,
    pose: str | None = None,
    training: TrainConfig | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train a head on stored features, test it once at the last epoch, and write a run directory.

    store      a ``FeatureStore`` or where one is
    head       ``mean``, ``vcs``, ``vilp``, ``pvcs``, ``attn`` or ``fuse``
    split      number of the official split, or ``"all"``
    frames     T' of the stored T frames
    seeds      how many heads a split, with seeds 0, 1, ...
    epochs     0 tests the untrained head, which is zero-shot where the head reads text
    device     ``auto`` takes a GPU if there is one
    out        run directory; None takes the first free ``runs/<store>-<head>``
    clip, pose id of a group, or its beginning, where the store has several
    training   all other settings of the training
    progress   called after each epoch

    Raises ``MissingError`` where the store lacks what the head reads, ``UsageError`` for a value that is not allowed.
    """
    opened = data.open_store(store)
    config = HeadConfig(head=head, word_mode=word_mode, tau=tau, sigma=sigma)
    training = replace(training or TrainConfig(), epochs=epochs)
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; allowed: 1 or more")
    splits = _splits(opened, split)
    where = resolve_device(device)
    if len(opened.class_names) < 2:
        raise UsageError(
            f"{opened.url} has one class, {opened.class_names[0]!r}; a head needs two or more to tell apart"
        )
    selection = data.select(opened, config, frames=frames, clip=clip, pose=pose)
    text = text_side(data.load_text(opened, selection), word_mode)
    directory = Path(out) if out is not None else data.default_run_directory(opened, head)
    prepare_directory(directory)

    curves = LossCurves(progress)
    heads: dict[tuple[int, int], Head] = {}
    seconds: dict[tuple[int, int], tuple[float | None, float, int]] = {}
    predictions: list[Prediction] = []
    warnings: list[str] = []
    sizes: HeadSizes | None = None
    for number in splits:
        train = data.load_inputs(opened, selection, config, split=number, subset="train", device=where)
        warnings += _untrained_classes(train, opened.class_names, number)
        for seed in range(seeds):
            started = time.perf_counter()
            module = new_head(config, train, text, seed=seed)
            loss = fit(module, train, training, split=number, seed=seed, progress=curves)
            heads[number, seed] = module
            elapsed = time.perf_counter() - started
            seconds[number, seed] = (loss if training.epochs else None, elapsed, len(train))
        sizes = sizes_of(train, text)
        del train
        test = data.load_inputs(opened, selection, config, split=number, subset="test", device=where)
        predictions += [_prediction(heads[number, seed], test, number, seed) for seed in range(seeds)]
    assert sizes is not None
    scores = [
        score(p, train_videos=count, loss=loss, train_seconds=elapsed, losses=curves.of(p.split, p.seed))
        for p in predictions
        for loss, elapsed, count in [seconds[p.split, p.seed]]
    ]
    result = _result(opened, config, sizes, training, selection, scores, predictions, warnings, where)
    return write_run(directory, result, heads, predictions)


def evaluate_run(
    run: str | os.PathLike[str] | RunResult,
    store: FeatureStore | str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    allow_mismatch: bool = False,
) -> RunResult:
    """Test the heads of a run again, by default on the store that they were trained from.

    ``reproduced`` of the result says whether the predictions are those of the run to the bit, which holds on the same
    machine with the same number of threads.

    Raises ``StoreError`` (``store-mismatch``) where the features are not those that the heads were trained on; with
    ``allow_mismatch`` other numbers of the same shapes and classes are taken.
    """
    recorded = run if isinstance(run, RunResult) else read_run(run)
    opened = data.open_store(store if store is not None else recorded.selection.store)
    selection = _matching_selection(recorded, opened, allow_mismatch)
    where = resolve_device(device)
    predictions, scores = [], []
    for number in sorted({s.split for s in recorded.scores}):
        test = data.load_inputs(opened, selection, recorded.config, split=number, subset="test", device=where)
        _check_sizes(recorded, test, opened)
        for old in (s for s in recorded.scores if s.split == number):
            head = load_head(recorded, number, old.seed).to(where)
            prediction = _prediction(head, test, number, old.seed)
            predictions.append(prediction)
            scores.append(
                score(
                    prediction,
                    train_videos=old.train_videos,
                    loss=old.loss,
                    train_seconds=old.train_seconds,
                    losses=old.losses,
                )
            )
    warnings = [w for w in recorded.warnings if w.startswith("no training video")]
    result = _result(
        opened,
        recorded.config,
        recorded.sizes,
        recorded.training,
        selection,
        scores,
        predictions,
        warnings,
        where,
    )
    reproduced = _same(load_predictions(recorded), predictions)
    return replace(result, directory=recorded.directory, files=recorded.files, reproduced=reproduced)


def resolve_device(device: str) -> str:
    """``auto`` is ``cuda`` where there is a GPU, else ``cpu``. Raises ``UsageError`` for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UsageError(f"device is {device!r}; allowed: auto, cpu, cuda, cuda:0, ...") from None
    one_of("device", kind, ("cpu", "cuda"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {device!r} and PyTorch sees no GPU here; use --device cpu")
    return device


def _splits(store: FeatureStore, split: int | str) -> list[int]:
    if store.num_splits == 0:
        raise MissingError(f"{store.url} has no splits; extract with --splits or a manifest with a split column")
    if split == "all":
        return list(range(1, store.num_splits + 1))
    allowed: tuple[object, ...] = (*range(1, store.num_splits + 1), "all")
    number = int(split) if isinstance(split, str) and split.isdecimal() else split
    one_of("split", number, allowed)
    return [int(number)]


def _prediction(head: Head, test: Inputs, split: int, seed: int) -> Prediction:
    scores = predict(head, test).numpy()
    return Prediction(split, seed, scores, test.labels.cpu().numpy(), test.slots.numpy(), test.video_ids, test.sources)


def _untrained_classes(train: Inputs, class_names: Sequence[str], split: int) -> list[str]:
    counts = np.bincount(train.labels.cpu().numpy(), minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if not absent:
        return []
    shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return [f"no training video in split {split} for {len(absent)} of {len(class_names)} classes: {shown}"]


def _result(
    store: FeatureStore,
    config: HeadConfig,
    sizes: HeadSizes,
    training: TrainConfig,
    selection: Selection,
    scores: Sequence[Score],
    predictions: Sequence[Prediction],
    warnings: Sequence[str],
    device: str,
) -> RunResult:
    coverage = {str(split): data.coverage(store, selection, split) for split in sorted({p.split for p in predictions})}
    for prediction in predictions:
        expected = coverage[str(prediction.split)]["test"]["used"]
        if len(prediction.labels) != expected:
            raise StoreError(
                f"split {prediction.split} was tested on {len(prediction.labels)} videos and {store.url} has "
                f"{expected} usable ones now; let the extraction finish and train again",
                kind="store-mismatch",
            )
    counts = [subset for by_subset in coverage.values() for subset in by_subset.values()]
    complete = data.not_on_disk(store) == 0 and all(c["used"] == c["expected"] for c in counts)
    notes = list(warnings)
    if not complete:
        absent = sum(c["missing"] for c in counts)
        quarantined = sum(c["quarantined"] for c in counts)
        notes.append(
            f"incomplete dataset: {absent} videos missing and {quarantined} quarantined in the splits used, "
            f"{data.not_on_disk(store)} listed videos not on disk; do not compare with published figures"
        )
    if data.random_weights(store, selection):
        notes.append("the CLIP model has random weights: its words mean nothing, so its frame weights do not either")
    return RunResult(
        config=config,
        sizes=sizes,
        training=training,
        selection=selection,
        class_names=store.class_names,
        scores=tuple(scores),
        summaries=summarise(predictions),
        coverage=coverage,
        complete=complete,
        warnings=tuple(notes),
        environment=environment(device),
    )


def environment(device: str) -> Mapping[str, Any]:
    """What may change the last bits of a result without being a setting of it."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


def _matching_selection(run: RunResult, store: FeatureStore, allow_mismatch: bool) -> Selection:
    """What the run's heads read, in ``store``: the same groups, or with ``allow_mismatch`` whatever it has."""
    wanted = run.selection
    if store.class_names != run.class_names:
        raise StoreError(
            f"the run was trained on {len(run.class_names)} classes of {wanted.dataset} and {store.url} has others, "
            f"{len(store.class_names)} of {store.dataset_name}; evaluate on a store of the same classes",
            kind="store-mismatch",
        )
    clips = [group.modality.id for group in store.groups.values() if group.modality.kind == "clip"]
    if wanted.clip not in clips and not allow_mismatch:
        raise StoreError(
            f"the run was trained on features of {wanted.clip} and {store.url} has {', '.join(clips) or 'none'}; "
            "evaluate on the store it was trained from, or train again",
            kind="store-mismatch",
        )
    poses = [group.modality.id for group in store.groups.values() if group.modality.kind == "pose"]
    selection = data.select(
        store,
        run.config,
        frames=wanted.frames,
        clip=wanted.clip if wanted.clip in clips else None,
        pose=wanted.pose if wanted.pose in poses else None,
    )
    if selection.fingerprint != wanted.fingerprint and not allow_mismatch:
        raise StoreError(
            f"the features in {store.url} have fingerprint {selection.fingerprint[:12]} and the run was trained on "
            f"{wanted.fingerprint[:12]}; train again, or allow the mismatch",
            kind="store-mismatch",
        )
    return selection


def _check_sizes(run: RunResult, test: Inputs, store: FeatureStore) -> None:
    """Raise ``UsageError`` where the head cannot read the inputs; possible only where a mismatch is allowed."""
    expected = {"frames": run.sizes.dim, "tokens": run.sizes.width}
    for name, size in expected.items():
        found = test.tensors[name].shape[-1] if name in test.tensors else size
        if found != size:
            raise UsageError(
                f"the run's head reads {name} {size} wide and {store.url} has them {found} wide; evaluate on features "
                f"of {run.selection.clip}"
            )


def _same(recorded: Sequence[Prediction], found: Sequence[Prediction]) -> bool:
    pairs = list(zip(recorded, found, strict=True)) if len(recorded) == len(found) else []
    return bool(pairs) and all(
        a.video_ids == b.video_ids and np.array_equal(a.scores, b.scores) and np.array_equal(a.labels, b.labels)
        for a, b in pairs
    )
