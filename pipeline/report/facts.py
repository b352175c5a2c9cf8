"""What a report says, gathered from a run and its store. Nothing here knows HTML."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from pipeline.figure import draw_strips
from pipeline.head.checkpoint import load_predictions
from pipeline.head.metrics import ranking
from pipeline.head.results import Prediction, RunResult
from pipeline.inspection import changed, matching, quarantined, strips, with_verdicts
from pipeline.judging import heads_of, judge
from store.errors import StoreError
from store.groups import of_kind
from store.reader import FeatureStore


@dataclass(frozen=True)
class ClassResult:
    """Test videos of one class, over all splits: how many, and the share in [0, 1] that is right, seeds averaged."""

    name: str
    videos: int
    right: float


@dataclass(frozen=True)
class Example:
    """One test video as a JPEG strip, ``width`` pixels wide, and what was said of it."""

    video_id: str
    truth: str
    predicted: str
    score: float
    picture: bytes
    width: int
    note: str

    @property
    def right(self) -> bool:
        return self.truth == self.predicted


@dataclass(frozen=True)
class Detection:
    """Where people were found, in the videos of one class: share in [0, 1] of the frames with somebody, and mean number
    of persons in a frame."""

    name: str
    videos: int
    frames: float
    persons: float


@dataclass(frozen=True)
class Facts:
    """All that a report says.

    confusion   float [C, C]: test videos of the row's class that were taken for the column's, over all splits, seeds
                averaged
    examples    right ones first
    notes       what could not be said, and why
    """

    run: RunResult
    store: FeatureStore | None
    classes: tuple[ClassResult, ...]
    confusion: np.ndarray
    examples: tuple[Example, ...]
    detection: tuple[Detection, ...]
    quarantine: tuple[dict[str, str], ...]
    notes: tuple[str, ...]


def gather(
    run: RunResult,
    store: FeatureStore | None,
    *,
    examples: int,
    notes: Sequence[str] = (),
    code: Collection[str] = (),
) -> Facts:
    """The facts of a run, with those of its store where there is one. ``examples`` is how many right ones, and how many
    wrong ones, to show; ``code`` is as for ``inspect_videos``."""
    predictions = load_predictions(run)
    confusion = confusion_of(predictions, len(run.class_names))
    shown: list[Example] = []
    found = list(notes)
    if store is not None and examples:
        try:
            found += changed(run, store)
            shown = _examples(run, store, predictions, examples, code)
        except StoreError as error:
            found.append(f"no examples: {error}")
    return Facts(
        run=run,
        store=store,
        classes=class_results(confusion, run.class_names),
        confusion=confusion,
        examples=tuple(shown),
        detection=() if store is None else _detection(run, store),
        quarantine=() if store is None else tuple(quarantined(store)),
        notes=tuple(found),
    )


def confusion_of(predictions: Sequence[Prediction], classes: int) -> np.ndarray:
    """Float [C, C], rows true and columns predicted: splits added up, seeds averaged."""
    total = np.zeros((classes, classes))
    for split in sorted({p.split for p in predictions}):
        of_split = [p for p in predictions if p.split == split]
        for prediction in of_split:
            taken = ranking(prediction.scores, 1)[:, 0]
            np.add.at(total, (prediction.labels, taken), 1 / len(of_split))
    return total


def class_results(confusion: np.ndarray, names: Sequence[str]) -> tuple[ClassResult, ...]:
    """Classes that have test videos, the best first; equal ones with more videos first."""
    counts = confusion.sum(axis=1)
    rows = [
        ClassResult(name, round(float(counts[i])), float(confusion[i, i] / counts[i]))
        for i, name in enumerate(names)
        if counts[i] > 0
    ]
    return tuple(sorted(rows, key=lambda row: (-row.right, -row.videos)))


def confused(confusion: np.ndarray, names: Sequence[str], count: int = 10) -> list[tuple[str, str, float, int]]:
    """The most frequent mistakes: true class, class it was taken for, videos, and videos of the true class."""
    wrong = confusion * (1 - np.eye(len(confusion)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    totals = confusion.sum(axis=1)
    return [(names[i], names[j], float(wrong[i, j]), round(float(totals[i]))) for i, j in pairs if wrong[i, j] > 0]


def _examples(
    run: RunResult, store: FeatureStore, predictions: Sequence[Prediction], count: int, code: Collection[str]
) -> list[Example]:
    """Strips of the ``surest`` test videos of the first split and seed, right ones first."""
    if run.selection.clip_id is None:
        return []  # the pictures are of the frames that CLIP saw
    first = predictions[0]
    chosen = surest(first, usable=set(store.videos["slot"].to_pylist()), count=count)
    if not chosen:
        return []
    selection = matching(run, store)
    judgement = judge(store, selection, run, heads_of(run, first.split), slots=chosen)
    kept = [slot for slot in chosen if slot in judgement.slots]
    made = strips(
        store,
        kept,
        frames=selection.frames,
        clip=selection.clip,
        pose=selection.pose,
        config=run.config,
        code=code,
    )
    ids = store.plan.lookup("slot", "video_id")
    result = []
    for slot, strip in zip(kept, with_verdicts(made, kept, run, judgement, store), strict=True):
        assert strip.verdict is not None
        assert strip.verdict.truth is not None
        picture = io.BytesIO()
        draw_strips([replace(strip, title="", note="")], picture, dpi=100, format="jpeg")
        width = Image.open(picture).width
        predicted, score = strip.verdict.classes[0]
        result.append(Example(ids[slot], strip.verdict.truth, predicted, score, picture.getvalue(), width, strip.note))
    return sorted(result, key=lambda example: not example.right)


def surest(prediction: Prediction, *, usable: Collection[int], count: int) -> list[int]:
    """Slots of the ``usable`` test videos that a head is surest about, at most ``count`` right ones, then as many wrong
    ones, each of another class as far as that goes."""
    scores = np.exp(prediction.scores - prediction.scores.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    taken = ranking(prediction.scores, 1)[:, 0]
    order = [i for i in np.argsort(-scores.max(axis=1), kind="stable") if int(prediction.slots[i]) in usable]
    chosen: list[int] = []
    for right in (True, False):
        rows = [i for i in order if (taken[i] == prediction.labels[i]) == right]
        of_class: dict[int, int] = {}
        for i in rows:
            of_class.setdefault(int(prediction.labels[i]), i)
        first = list(of_class.values())
        chosen += [int(prediction.slots[i]) for i in [*first, *(i for i in rows if i not in first)][:count]]
    return chosen


def _detection(run: RunResult, store: FeatureStore) -> tuple[Detection, ...]:
    """By class, the class in which people are found least first; nothing where the run's store has no poses."""
    poses = [group.modality.id for group in of_kind(store.groups, "pose")]
    pose = run.selection.pose if run.selection.pose in poses else poses[0] if len(poses) == 1 else None
    if pose is None or "boxes" not in store.group("pose", pose).modality.arrays:
        return ()
    sums = np.zeros((len(store.class_names), 3))
    for features in store.iter_shards(arrays=("boxes",), pose=pose):
        persons = (features["boxes"][..., 4] > 0).sum(dim=-1).float()
        for label, frames, number in zip(features.labels, (persons > 0).float().mean(1), persons.mean(1), strict=True):
            sums[int(label)] += (1, float(frames), float(number))
    rows = [
        Detection(name, int(videos), frames / videos, persons / videos)
        for name, (videos, frames, persons) in zip(store.class_names, sums, strict=True)
        if videos
    ]
    return tuple(sorted(rows, key=lambda row: row.frames))


def provenance(facts: Facts) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What the figures come from, as titled lists of names and values."""
    run, store = facts.run, facts.store
    selection = run.selection
    sections: list[tuple[str, list[tuple[str, Any]]]] = [
        ("Head", list(run.config.to_dict().items())),
        ("Training", list(run.training.to_dict().items())),
        ("Features", [(name, value) for name, value in selection.to_dict().items() if value is not None]),
        ("Environment of the training", list(run.environment.items())),
        ("Files of the run (SHA-256)", list(run.files.items())),
    ]
    if store is not None:
        for kind, name in ((selection.encoder, selection.clip), ("pose", selection.pose)):
            if name is not None and name in {group.modality.id for group in store.groups.values()}:
                group = store.group(kind, name)
                title = {"clip": "CLIP features", "video": "Features of the video model", "pose": "Poses"}[kind]
                sections.append((title, [*_flat(group.modality.record), *_flat(group.environment)]))
    return sections


def _flat(record: Any, name: str = "") -> list[tuple[str, Any]]:
    """Names and values of a record of JSON values, its inner ones with a dotted name."""
    if not hasattr(record, "items"):
        return [(name, record)]
    return [pair for key, value in record.items() for pair in _flat(value, f"{name}.{key}".lstrip("."))]
