"""From predictions to a ``RunResult``: figures, coverage, and every reason to read them with care."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.head import selection as selections
from pipeline.head.config import HeadSizes
from pipeline.head.job import Job
from pipeline.head.plausible import too_good
from pipeline.head.results import Prediction, RunResult, Score, mean_interval, summarise
from pipeline.head.selection import Selection
from pipeline.head.train import TrainConfig
from store.errors import StoreError
from store.reader import FeatureStore

RANDOM_WEIGHTS = "the CLIP model has random weights: its words mean nothing, so its frame weights do not either"
RANDOM_VIDEO = "the video model has random weights: its figures show that the path works, not what it can do"


def make_result(
    job: Job,
    sizes: HeadSizes,
    training: TrainConfig,
    scores: Sequence[Score],
    predictions: Sequence[Prediction],
    warnings: Sequence[str],
    tuning: Mapping[str, Any],
) -> RunResult:
    """The result of testing heads, with its warnings.

    Raises ``StoreError`` (``store-mismatch``) where the number of test videos is not that of the usable ones.
    """
    store, selection = job.store, job.selection
    coverage = {
        str(split): selections.coverage(store, selection, split) for split in sorted({p.split for p in predictions})
    }
    for prediction in predictions:
        expected = coverage[str(prediction.split)]["test"]["used"]
        if len(prediction.labels) != expected:
            raise StoreError(
                f"split {prediction.split} was tested on {len(prediction.labels)} videos and {store.url} has "
                f"{expected} usable ones now; let the extraction finish and train again",
                kind="store-mismatch",
            )
    summaries = summarise(predictions)
    record = selections.encoder_record(store, selection)
    trained = training.epochs > 0
    complete, notes = completeness(store, selection, coverage)
    notes = [*warnings, *notes, *leaks(store, selection, [s.split for s in summaries])]
    if selections.random_weights(store, selection):
        notes.append(RANDOM_VIDEO if job.config.encoder == "video" else RANDOM_WEIGHTS)
    notes += too_good(store.dataset_name, record, summaries, chance=1 / len(store.class_names), trained=trained)
    return RunResult(
        config=job.config,
        sizes=sizes,
        training=training,
        selection=selection,
        class_names=store.class_names,
        scores=tuple(scores),
        summaries=summaries,
        interval=mean_interval(predictions),
        coverage=coverage,
        complete=complete,
        warnings=tuple(dict.fromkeys(notes)),
        environment=environment(job.device),
        tuning=tuning,
    )


def completeness(
    store: FeatureStore, selection: Selection, coverage: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> tuple[bool, list[str]]:
    """Whether every video of the splits took part, and a line that says what did not. Videos that several splits share
    count once."""
    counts = [subset for by_subset in coverage.values() for subset in by_subset.values()]
    absent = selections.not_on_disk(store)
    if absent == 0 and all(c["used"] == c["expected"] for c in counts):
        return True, []
    slots = {slot for split in coverage for slot in store.selected(int(split))}
    left = slots - set(selections.usable_slots(store, selection))
    quarantined = left & selections.quarantined_slots(store, selection)
    return False, [
        f"incomplete dataset: of {len(slots)} videos in the splits used {len(left - quarantined)} are not extracted "
        f"and {len(quarantined)} quarantined, {absent} listed ones are not on disk; do not compare with published "
        "figures"
    ]


def leaks(store: FeatureStore, selection: Selection, splits: Sequence[int]) -> list[str]:
    """A line for each way in which training videos of a split give away test videos: the same file, or a clip of the
    same source and class. (Films of HMDB51 are in both parts of its official splits, but never with the same class.)"""
    groups = selections.selected_groups(store, selection)
    usable = set(store.usable(groups))
    rows = store.videos.select(["slot", "video_id", "source", "label"]).to_pylist()
    commits = store.status(groups[0]).select(["slot", "source_sha256"]).to_pylist()
    files = {row["slot"]: row["source_sha256"] for row in commits}
    clips = {row["slot"]: (row["source"], row["label"]) for row in rows}
    names = {row["slot"]: row["video_id"] for row in rows}
    lines = []
    for split in splits:
        train, test = (usable.intersection(store.selected(split, subset)) for subset in ("train", "test"))
        for marks, what in ((files, "the file"), (clips, "source and class")):
            known = {marks[slot] for slot in train if marks.get(slot)}
            shared = sorted(slot for slot in test if marks.get(slot) in known)
            if shared:
                lines.append(
                    f"leak: {len(shared)} of {len(test)} test videos of split {split} share {what} with a training "
                    f"video, {names[shared[0]]} first; accuracy is too high by what a head remembers of those"
                )
    return lines


def absent_classes(labels: Tensor, store: FeatureStore, split: int, subset: str) -> list[str]:
    """A line about classes of which a subset of a split has no video with features, as its ``labels`` int64 [N] say:
    ``subset`` is training or test."""
    class_names = store.class_names
    counts = np.bincount(labels.cpu().numpy(), minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if not absent:
        return []
    shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return [f"no {subset} video in split {split} for {len(absent)} of {len(class_names)} classes: {shown}"]


def environment(device: str) -> Mapping[str, Any]:
    """What may change the last bits of a result without being a setting of it."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }
