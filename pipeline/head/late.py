"""Late fusion with a weight: class scores of two things that were trained apart, added.

``log p(c) + w log q(c)``: p are the scores of a run's head, q those of another run (of ``poseconv``, say) or of files
that mmaction2 dumped. The weight of a split is chosen on an inner validation of its training videos, grouped by source,
on which the heads of both runs are trained again without those videos. The test set is looked at once, at the end.

(A head with ``+pose`` is another thing: there both streams learn together, and their logits are added as they are.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.head.checkpoint import load_predictions, read_run
from pipeline.head.data import Inputs
from pipeline.head.evaluate import Job, matching_selection, resolve_device
from pipeline.head.inner import inner_split
from pipeline.head.metrics import hits
from pipeline.head.models import Head
from pipeline.head.record import environment
from pipeline.head.results import Prediction, RunResult, summarise
from pipeline.head.selection import load_side, open_store
from pipeline.head.train import Progress, fit, new_head, predict
from stages.pose.imports.scores import ClassScores, read_scores
from store.errors import MissingError, UsageError

# From the head alone to, by and large, the other alone.
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 64.0)
_SMALLEST = 1e-8


@dataclass(frozen=True)
class SplitFusion:
    """One split: the chosen weight, top-1 of every weight on the inner validation (of so many videos), and summaries of
    the test videos for the head, the other and both. Of ``lacking`` test videos there are no other scores: they keep
    the head's."""

    split: int
    weight: float
    validation: Mapping[str, float]
    validation_videos: int
    videos: int
    lacking: int
    head: Mapping[str, Any]
    other: Mapping[str, Any]
    fused: Mapping[str, Any]


@dataclass(frozen=True)
class LateResult:
    """Accuracies in [0, 1] of a head, of other scores and of both together."""

    run: str
    dataset: str
    head: str
    other: str
    splits: tuple[SplitFusion, ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "format": "vilp-late-fusion", "version": 1}


class OtherScores(Protocol):
    """Class scores from elsewhere, as log-probabilities by video id."""

    name: str
    warnings: tuple[str, ...]

    def held_out(self, split: int, fitting: Sequence[str], validation: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Of the inner validation's videos; what learns, learns on ``fitting`` alone."""

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]: ...


def fuse(scores: np.ndarray, others: np.ndarray, weight: float) -> np.ndarray:
    """Log-probabilities [N, C] of both, added with a weight on the second. Rows of ``others`` that are NaN count 0."""
    return scores + weight * np.nan_to_num(others) if weight else scores


def choose_weight(
    scores: np.ndarray, others: np.ndarray, labels: np.ndarray, sources: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """The weight with the best top-1, and the top-1 of each. The first of equals; and 0 unless the best gains over 0 by
    more than two standard errors of that gain, source by source: noise that helps a video by luck is no gain."""
    right = {weight: hits(fuse(scores, others, weight), labels).astype(float) for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: right[weight].mean())
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    gains = np.bincount(group, weights=right[best] - right[0.0])
    chosen = best if gains.sum() > 2 * np.sqrt(np.square(gains).sum()) else 0.0
    return chosen, {f"{weight:g}": float(values.mean()) for weight, values in right.items()}


def late_fusion(
    run: str | os.PathLike[str] | RunResult,
    other: Sequence[str | os.PathLike[str]],
    *,
    annotations: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> LateResult:
    """Fuse the head of a run with what ``other`` names: the directory of another run on videos of the same names, or
    score files of mmaction2 (see ``stages.pose.imports.scores``), which together hold training and test videos;
    ``annotations`` name the videos of files that do not.

    Raises ``UsageError`` for scores of other classes, ``MissingError`` where there are none of the videos that the
    weight is chosen on, ``StoreError`` where the features are no longer those of a run.
    """
    recorded = run if isinstance(run, RunResult) else read_run(run)
    if recorded.training.epochs == 0:
        raise UsageError(f"the run in {recorded.directory} is zero-shot; late fusion needs one with --epochs 1 or more")
    mine = RunScores(recorded, device, progress)
    theirs = _others(other, annotations, mine, device, progress)
    predictions = load_predictions(recorded)
    splits = []
    for split in sorted({score.split for score in recorded.scores}):
        train = mine.train(split)
        labels = train.labels.cpu().numpy()
        fitting, held = (rows.tolist() for rows in inner_split(labels, train.sources))
        names = [[train.video_ids[row] for row in rows] for rows in (fitting, held)]
        validation = theirs.held_out(split, *names)
        known = [row for row in held if train.video_ids[row] in validation]
        if not known:
            raise MissingError(
                f"{theirs.name} has no scores of the {len(held)} training videos of split {split} on which the weight "
                "is chosen; give --late scores of the training videos as well",
                kind="missing-data",
            )
        own = mine.held_out(split, *names)
        heads, others = (np.stack([scores[train.video_ids[row]] for row in known]) for scores in (own, validation))
        weight, tried = choose_weight(heads, others, labels[known], [train.sources[row] for row in known])
        splits.append(_tested([p for p in predictions if p.split == split], theirs, weight, tried, len(known)))
    return LateResult(
        run=str(recorded.directory),
        dataset=recorded.selection.dataset,
        head=recorded.config.head,
        other=theirs.name,
        splits=tuple(splits),
        warnings=(*recorded.warnings, *theirs.warnings),
        environment=environment(mine.job.device),
    )


def _tested(
    of_split: Sequence[Prediction],
    theirs: OtherScores,
    weight: float,
    tried: dict[str, float],
    videos: int,
) -> SplitFusion:
    parts: dict[str, list[Prediction]] = {"head": [], "other": [], "fused": []}
    lacking = 0
    for found in of_split:
        scores = log_probabilities(found.scores)
        test = theirs.test(found.split, found.seed, found.video_ids)
        nothing = np.full(scores.shape[1], np.nan)
        others = np.stack([test.get(name, nothing) for name in found.video_ids])
        lacking = int(np.isnan(others).any(axis=1).sum())
        each = {"head": scores, "other": np.nan_to_num(others, nan=0.0), "fused": fuse(scores, others, weight)}
        for name, values in each.items():
            facts = (found.labels, found.slots, found.video_ids, found.sources)
            parts[name].append(Prediction(found.split, found.seed, values, *facts))
    summaries = {name: asdict(summarise(predictions)[0]) for name, predictions in parts.items()}
    first = of_split[0]
    return SplitFusion(first.split, weight, tried, videos, len(first.labels), lacking, **summaries)


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [N, C] of logits."""
    return torch.from_numpy(np.asarray(scores, np.float64)).log_softmax(dim=-1).numpy()


def first_seed(run: RunResult) -> int:
    return min(score.seed for score in run.scores)


class RunScores:
    """A run: its recorded predictions, and its head trained again on part of the training videos."""

    def __init__(self, run: RunResult, device: str, progress: Progress | None = None) -> None:
        store = open_store(run.selection.store)
        selection = matching_selection(run, store, run.config, False)
        self.run, self.name, self.progress = run, f"run {run.directory} ({run.config.head})", progress
        self.job = Job(store, run.config, selection, load_side(store, selection, run.config), resolve_device(device))
        self.warnings = tuple(run.warnings)
        self._predictions: list[Prediction] = load_predictions(run)
        self._train: tuple[int, Inputs] | None = None

    def train(self, split: int) -> Inputs:
        """The training videos of a split, as the head was trained on them; those of one split at a time are kept."""
        if self._train is None or self._train[0] != split:
            self._train = None
            self._train = split, self.job.inputs(split, "train", every_frame=self.run.training.random_frames)
        return self._train[1]

    def held_out(self, split: int, fitting: Sequence[str], validation: Sequence[str]) -> Mapping[str, np.ndarray]:
        head, held = self.trained_on(split, fitting), _named(self.train(split), validation)
        return dict(zip(held.video_ids, log_probabilities(predict(head, held).numpy()), strict=True))

    def trained_on(self, split: int, names: Sequence[str]) -> Head:
        """The head of the run's first seed, trained again on some of the training videos alone."""
        part, seed = _named(self.train(split), names), first_seed(self.run)
        head = new_head(self.run.config, part, self.job.text, seed=seed)
        fit(head, part, self.run.training, split=split, seed=seed, progress=self.progress)
        return head

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        of_split = [p for p in self._predictions if p.split == split]
        if not of_split:
            raise UsageError(f"{self.name} has no split {split}; train it on the same splits")
        found = next((p for p in of_split if p.seed == seed), of_split[0])
        return dict(zip(found.video_ids, log_probabilities(found.scores), strict=True))


def _named(inputs: Inputs, names: Sequence[str]) -> Inputs:
    """The videos with these names that there are."""
    wanted = frozenset(names)
    rows = [row for row, name in enumerate(inputs.video_ids) if name in wanted]
    return inputs.rows(torch.tensor(rows, dtype=torch.int64))


class _FileScores:
    """Scores of a network that nothing here trained."""

    warnings: tuple[str, ...] = (
        "the scores that were read are of a network that may have been trained on the videos on which the weight is "
        "chosen: it is surer of those, and its weight then too large",
    )

    def __init__(self, name: str, scores: Mapping[str, ClassScores]) -> None:
        self.name, self._scores = name, scores

    def held_out(self, split: int, fitting: Sequence[str], validation: Sequence[str]) -> Mapping[str, np.ndarray]:
        return self._of(validation)

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        return self._of(video_ids)

    def _of(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        found = {name: self._scores[last_part(name)].values for name in names if last_part(name) in self._scores}
        return {name: as_logarithms(values) for name, values in found.items()}


def check_scores(name: str, scores: Mapping[str, ClassScores], labels: Mapping[str, int], classes: int) -> None:
    """Raise ``UsageError`` unless the scores in the files ``name`` are of these classes, in this order, as far as the
    files say; ``labels`` by video id."""
    for video, entry in ((video, scores[last_part(video)]) for video in labels if last_part(video) in scores):
        if len(entry.values) != classes:
            raise UsageError(f"{name} holds scores of {len(entry.values)} classes, and the dataset has {classes}")
        if entry.label not in (None, labels[video]):
            raise UsageError(
                f"{name} has {video!r} in class {entry.label} and the dataset in class {labels[video]}, from 0 on: its "
                "classes are others, or in another order; write the scores in the order of the dataset's classes"
            )


def as_logarithms(values: np.ndarray) -> np.ndarray:
    """Log-probabilities of scores, which are probabilities already where they look like it."""
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-3:
        return np.log(values.clip(min=_SMALLEST))
    return log_probabilities(values)


def last_part(video_id: str) -> str:
    """The name by which files of scores know a video."""
    return video_id.rpartition("/")[2]


def _others(
    other: Sequence[str | os.PathLike[str]],
    annotations: str | os.PathLike[str] | None,
    mine: RunScores,
    device: str,
    progress: Progress | None,
) -> OtherScores:
    paths = [Path(path) for path in other]
    if len(paths) == 1 and paths[0].is_dir():
        theirs = RunScores(read_run(paths[0]), device, progress)
        if theirs.run.class_names != mine.run.class_names:
            raise UsageError(f"{theirs.name} has other classes than {mine.name}; give a run of the same dataset")
        return theirs
    merged: dict[str, ClassScores] = {}
    for path in paths:
        merged |= read_scores(path, None if annotations is None else Path(annotations))
    name, videos = ", ".join(path.name for path in paths), mine.job.store.videos
    labels = dict(zip(videos["video_id"].to_pylist(), videos["label"].to_pylist(), strict=True))
    check_scores(name, merged, labels, len(mine.run.class_names))
    return _FileScores(name, merged)
