"""Class scores that late fusion adds to those of a head: of another run, of ``posefeat`` groups of the store, or of
files that mmaction2 dumped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pipeline.head.checkpoint import load_predictions, read_run, weights_digest
from pipeline.head.data import Inputs
from pipeline.head.job import run_job
from pipeline.head.models import Head
from pipeline.head.results import Prediction, RunResult
from pipeline.head.train import EpochReport, Progress, Run, fit_runs, new_head, predict
from stages.pose.imports.scores import ClassScores, read_scores
from store.errors import MissingError, UsageError
from store.groups import Group, of_kind
from store.printable import command
from store.reader import FeatureStore

_SMALLEST = 1e-8

# What ``seen`` of a ``posefeat`` group says of a training video of its network (0: it is none): whose its scores are.
TRAINED_ON, HELD_OUT = 1, 2

# Video ids to train on, and those that are held out, of each fold of the training videos.
Folds = Sequence[tuple[Sequence[str], Sequence[str]]]


class OtherScores(Protocol):
    """Class scores from elsewhere, as log-probabilities by video id.

    cross_fitted  whether what gives the scores of ``held_out`` was not trained on those videos
    """

    name: str
    cross_fitted: bool
    warnings: tuple[str, ...]
    directory: str | None

    def head(self, split: int, seed: int) -> str | None:
        """SHA-256 of the file of the head that ``test`` tells of; None where there is none."""

    def held_out(self, split: int, folds: Folds) -> Mapping[str, np.ndarray]:
        """Of the videos that a fold holds out; what learns here learns on the rest of that fold alone."""

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]: ...


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [N, C] of logits."""
    return torch.from_numpy(np.asarray(scores, np.float64)).log_softmax(dim=-1).numpy()


class RunScores:
    """A run: its recorded predictions, and its head trained again on part of the training videos."""

    cross_fitted = True

    def __init__(self, run: RunResult, device: str, progress: Progress | None = None) -> None:
        self.run, self.name, self.progress = run, f"run {run.directory} ({run.config.head})", progress
        self.job = run_job(run, device=device)
        self.warnings = tuple(run.warnings)
        self.directory: str | None = str(Path(run.directory).absolute()) if run.directory is not None else None
        self._predictions: list[Prediction] = load_predictions(run)
        self._train: tuple[int, Inputs] | None = None

    def train(self, split: int) -> Inputs:
        """The training videos of a split, as the head was trained on them; those of one split at a time are kept."""
        if self._train is None or self._train[0] != split:
            self._train = None
            self._train = split, self.job.inputs(split, "train", every_frame=self.run.training.random_frames)
        return self._train[1]

    def held_out(self, split: int, folds: Folds) -> Mapping[str, np.ndarray]:
        train = self.train(split)
        found: dict[str, np.ndarray] = {}
        for head, (_, names) in zip(self.trained_on(split, [part for part, _ in folds]), folds, strict=True):
            held = train.rows(_rows(train, names))
            if len(held):
                found |= zip(held.video_ids, log_probabilities(predict(head, held).numpy()), strict=True)
        return found

    def trained_on(self, split: int, parts: Sequence[Sequence[str]]) -> list[Head]:
        """The head of the run's first seed, trained again on each of some parts of the training videos."""
        train, seed = self.train(split), self.run.seeds[0]
        runs = []
        for rows in (_rows(train, names) for names in parts):
            head = new_head(self.run.config, train, self.job.text, seed=seed, rows=rows)
            runs.append(Run(head, rows, split, seed))
        fit_runs(runs, train, self.run.training, None if self.progress is None else _one_of_many(self.progress))
        return [run.head for run in runs]

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        found = self._prediction(split, seed)
        return dict(zip(found.video_ids, log_probabilities(found.scores), strict=True))

    def head(self, split: int, seed: int) -> str | None:
        return weights_digest(self.run, split, self._prediction(split, seed).seed)

    def _prediction(self, split: int, seed: int) -> Prediction:
        """Of the same seed where there is one, else of the first."""
        of_split = [p for p in self._predictions if p.split == split]
        if not of_split:
            raise UsageError(f"{self.name} has no split {split}; train it on the same splits")
        return next((p for p in of_split if p.seed == seed), of_split[0])


def _rows(inputs: Inputs, names: Sequence[str]) -> torch.Tensor:
    """Rows int64 [M] of the videos with these names that there are."""
    wanted = frozenset(names)
    return torch.tensor([row for row, name in enumerate(inputs.video_ids) if name in wanted], dtype=torch.int64)


def _one_of_many(progress: Progress) -> Progress:
    """Tells of one of the heads that are trained together, which are all of one split and seed."""
    last = 0

    def tell(report: EpochReport) -> None:
        nonlocal last
        if report.runs == 1 or report.epoch != last:
            progress(report)
        last = report.epoch

    return tell


class _StoredScores:
    """Scores of ``posefeat`` groups of a store, one a split: of the network that learnt from its training videos."""

    def __init__(self, store: FeatureStore, named: str, splits: Sequence[int]) -> None:
        self._store = store
        self._groups = {split: _group_of(store, named, split) for split in splits}
        self.name = ", ".join(group.path for group in self._groups.values())
        imported = any(map(_imported, self._groups.values()))
        self.cross_fitted = not imported
        self.warnings: tuple[str, ...] = (SEEN,) if imported else ()
        sources = {group.recipe["posefeat"][0] for group in self._groups.values()}
        self.directory: str | None = sources.pop() if len(sources) == 1 and not imported else None
        self._slots = store.plan.lookup("video_id", "slot")

    def held_out(self, split: int, folds: Folds) -> Mapping[str, np.ndarray]:
        scores, seen = self._of(split, [name for _, held in folds for name in held])
        keep = _imported(self._groups[split])
        return {name: values for name, values in scores.items() if keep or seen.get(name) != TRAINED_ON}

    def test(self, split: int, seed: int, video_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        scores, seen = self._of(split, video_ids)
        if seen:
            raise UsageError(
                f"the network of {self._groups[split].path} was trained on {len(seen)} test videos of split {split}, "
                f"the first {min(seen)!r}: its scores of them are worth nothing; train one on the split as it is now"
            )
        return scores

    def head(self, split: int, seed: int) -> str | None:
        weights = self._groups[split].modality.record.get("weights")
        return None if weights is None else str(weights["sha256"])

    def _of(self, split: int, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Scores of the videos that have some, and ``seen`` of the training videos of the network among these."""
        group = self._groups[split]
        usable = set(self._store.usable([group]))
        known = {name: self._slots[name] for name in names if self._slots.get(name) in usable}
        scores, seen = (self._store.rows(group, array, list(known.values())) for array in ("scores", "seen"))
        return (
            dict(zip(known, scores.astype(np.float64), strict=True)),
            {name: int(flag) for name, flag in zip(known, seen, strict=True) if flag},
        )


def _imported(group: Group) -> bool:
    """Whether no scores of training videos are of a network that was trained without them."""
    return group.modality.record["trained_on"]["held_out"] == 0


def _group_of(store: FeatureStore, named: str, split: int) -> Group:
    """The one ``posefeat`` group that ``named`` picks and whose network was trained on a split."""
    groups = of_kind(store.groups, "posefeat")
    fitting = [group for group in groups if group.path.startswith(named)]
    own = [group for group in fitting if group.modality.record["trained_on"]["split"] == split]
    if not fitting:
        listed = f"this store has: {', '.join(group.path for group in groups)}" if groups else "this store has none"
        add = command("extract", "--store", store.url, "--modality", "posefeat", "--posefeat", "RUN")
        raise MissingError(f"late is {named!r}; {listed}; add one with: {add}", kind="missing-modality")
    if not own:
        splits = sorted({group.modality.record["trained_on"]["split"] for group in fitting})
        raise UsageError(
            f"the network of {fitting[0].path} was trained on split {', '.join(map(str, splits))}, and has seen test "
            f"videos of split {split}; extract posefeat from a run on split {split}, or evaluate a run on the other"
        )
    if len(own) > 1:
        listed = ", ".join(group.path for group in own)
        raise UsageError(f"late is {named!r}, which does not name one group of split {split}; choose one of: {listed}")
    return own[0]


SEEN = (
    "the scores that were read are of a network that may have been trained on the videos on which the weight is "
    "chosen: it is surer of those, and its weight then too large"
)


class _FileScores:
    """Scores of a network that nothing here trained."""

    cross_fitted = False
    warnings: tuple[str, ...] = (SEEN,)
    directory: str | None = None

    def __init__(self, name: str, scores: Mapping[str, ClassScores]) -> None:
        self.name, self._scores = name, scores

    def head(self, split: int, seed: int) -> str | None:
        return None

    def held_out(self, split: int, folds: Folds) -> Mapping[str, np.ndarray]:
        return self._of([name for _, held in folds for name in held])

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


def other_scores(
    other: Sequence[str | os.PathLike[str]],
    annotations: str | os.PathLike[str] | None,
    mine: RunScores,
    device: str,
    progress: Progress | None,
) -> OtherScores:
    """What is fused with the scores of a run: those of another run, of a store's skeleton network, or of score files.

    Raises ``UsageError`` where it is none of them or has other classes, ``MissingError`` where it is gone.
    """
    paths = [Path(path) for path in other]
    named = str(other[0])
    if len(paths) == 1 and not paths[0].exists() and named.split("/")[0] == "posefeat":
        return _StoredScores(mine.job.store, named, mine.run.splits)
    if len(paths) == 1 and paths[0].is_dir():
        theirs = RunScores(read_run(paths[0]), device, progress)
        if theirs.run.class_names != mine.run.class_names:
            raise UsageError(f"{theirs.name} has other classes than {mine.name}; give a run of the same dataset")
        return theirs
    merged: dict[str, ClassScores] = {}
    for path in paths:
        if not path.exists():
            raise MissingError(
                f"late is {str(path)!r}, and there is no such run or file; allowed: the folder of a run, posefeat, "
                "posefeat/ID, or files of class scores that mmaction2 dumped",
                kind="missing-data",
            )
        merged |= read_scores(path, None if annotations is None else Path(annotations))
    name = ", ".join(path.name for path in paths)
    check_scores(name, merged, mine.job.store.plan.lookup("video_id", "label"), len(mine.run.class_names))
    return _FileScores(name, merged)
