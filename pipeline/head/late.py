"""Late fusion with a weight: class scores of two things that were trained apart, added.

``log p(c) + w log q(c)``: p are the scores of a run's head, q those of another run (of ``poseconv``, say), of
``posefeat`` groups of the store (see ``pipeline.posefeat``), or of files that mmaction2 dumped. The weight of a split
is chosen on all its training videos by cross-fitting: they are split into folds, whole sources at a time, and those of
a fold are scored by heads of both runs that were trained again without it. The heads that saw all training videos are
then fused with that weight, and the test set is looked at once, at the end. (Of scores in files their network has seen
all training videos, so folds would prove nothing: they keep to one inner validation, and a warning.)

(A head with ``+pose`` is another thing: there both streams learn together, and their logits are added as they are.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.head.checkpoint import load_predictions, open_run
from pipeline.head.inner import inner_folds, inner_split
from pipeline.head.metrics import hits
from pipeline.head.other_scores import OtherScores, RunScores, log_probabilities, other_scores
from pipeline.head.record import environment
from pipeline.head.results import Prediction, RunResult, summarise
from pipeline.head.train import Progress
from pipeline.studies.verdict import gain
from store.errors import MissingError, UsageError

# From the head alone to, by and large, the other alone.
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 64.0)
FORMAT = "vilp-late-fusion"
# Of fewer sources even a gain in every one is not more than two standard errors: see ``choose_weight``.
FEWEST_SOURCES = 5


@dataclass(frozen=True)
class SplitFusion:
    """The fusion of one split.

    weight              that was chosen
    validation          top-1 of every weight on the training videos that were held out: ``validation_videos`` of
                        ``validation_sources`` sources, in ``folds`` folds
    videos              test videos; ``lacking`` of them have no other scores and keep the head's
    head, other, fused  summaries (``SplitSummary``) of the test videos
    pairs               SHA-256 of the files of both heads, a pair a seed; none where the other is no head
    """

    split: int
    weight: float
    validation: Mapping[str, float]
    validation_videos: int
    validation_sources: int
    folds: int
    videos: int
    lacking: int
    head: Mapping[str, Any]
    other: Mapping[str, Any]
    fused: Mapping[str, Any]
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LateResult:
    """Accuracies in [0, 1] of a head, of other scores and of both together.

    other_run    directory of the run whose heads give the other scores, if any
    gains        of both together over the ``head`` and over the ``other`` (see ``pipeline.studies.verdict.Gain``)
    predictions  of both together, as logits
    """

    run: str
    dataset: str
    head: str
    other: str
    other_run: str | None
    class_names: tuple[str, ...]
    splits: tuple[SplitFusion, ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]
    gains: Mapping[str, Any]
    predictions: tuple[Prediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the predictions."""
        values = asdict(replace(self, predictions=()))
        del values["predictions"]
        return {**values, "format": FORMAT, "version": 1}


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
    """Fuse the head of a run with what ``other`` names: the directory of another run on videos of the same names,
    ``posefeat`` or ``posefeat/<id>`` (or the beginning of an id) for groups of the run's store, or score files of
    mmaction2 (see ``stages.pose.imports.scores``), which together hold training and test videos; ``annotations`` name
    the videos of files that do not.

    Raises ``UsageError`` for scores of other classes and for a network that was trained on test videos,
    ``MissingError`` where there are no scores of the videos that the weight is chosen on, ``StoreError`` where the
    features are no longer those of a run.
    """
    recorded = open_run(run)
    if recorded.training.epochs == 0:
        raise UsageError(f"the run in {recorded.directory} is zero-shot; late fusion needs one with --epochs 1 or more")
    mine = RunScores(recorded, device, progress)
    theirs = other_scores(other, annotations, mine, device, progress)
    predictions = load_predictions(recorded)
    splits: list[SplitFusion] = []
    few: list[str] = []
    parts: dict[str, list[Prediction]] = {"head": [], "other": [], "fused": []}
    for split in recorded.splits:
        validated = _validated(split, mine, theirs)
        if validated["validation_sources"] < FEWEST_SOURCES:
            few.append(
                f"the weight of split {split} is chosen on {validated['validation_sources']} sources; of fewer than "
                f"{FEWEST_SOURCES} no gain can be told from luck, so it is 0 whatever the other scores are"
            )
        tested, of_split = _tested([p for p in predictions if p.split == split], mine, theirs, validated["weight"])
        splits.append(SplitFusion(split=split, **validated, **tested))
        for name, found in of_split.items():
            parts[name] += found
    return LateResult(
        run=mine.directory or "",
        dataset=recorded.selection.dataset,
        head=recorded.config.head,
        other=theirs.name,
        other_run=theirs.directory,
        class_names=recorded.class_names,
        splits=tuple(splits),
        warnings=tuple(dict.fromkeys((*recorded.warnings, *theirs.warnings, *few))),
        environment=environment(mine.job.device),
        gains={name: _gain(parts["fused"], parts[name]) for name in ("head", "other")},
        predictions=tuple(parts["fused"]),
    )


def _validated(split: int, mine: RunScores, theirs: OtherScores) -> dict[str, Any]:
    """What a ``SplitFusion`` says of the weight and of the training videos that it is chosen on. Raises
    ``MissingError`` where there are no other scores of these."""
    train = mine.train(split)
    labels = train.labels.cpu().numpy()
    folds = inner_folds(labels, train.sources) if theirs.cross_fitted else [inner_split(labels, train.sources)]
    names = [([train.video_ids[row] for row in part], [train.video_ids[row] for row in out]) for part, out in folds]
    held = np.sort(np.concatenate([out for _, out in folds])).tolist()
    validation = theirs.held_out(split, names)
    known = [row for row in held if train.video_ids[row] in validation]
    if not known:
        raise MissingError(
            f"{theirs.name} has no scores of the {len(held)} training videos of split {split} on which the weight "
            "is chosen; give --late scores of the training videos as well",
            kind="missing-data",
        )
    own = mine.held_out(split, names)
    heads, others = (np.stack([scores[train.video_ids[row]] for row in known]) for scores in (own, validation))
    sources = [train.sources[row] for row in known]
    weight, tried = choose_weight(heads, others, labels[known], sources)
    return {
        "weight": weight,
        "validation": tried,
        "validation_videos": len(known),
        "validation_sources": len(set(sources)),
        "folds": len(folds),
    }


def _gain(first: Sequence[Prediction], second: Sequence[Prediction]) -> dict[str, Any]:
    """What the first gain over the second in top-1, the mean over the splits."""
    splits = sorted({p.split for p in first})
    sources = [next(p.sources for p in first if p.split == split) for split in splits]
    one, other = (
        [np.stack([hits(p.scores, p.labels) for p in those if p.split == split]) for split in splits]
        for those in (first, second)
    )
    return gain(one, other, sources).to_dict()


def _tested(
    of_split: Sequence[Prediction], mine: RunScores, theirs: OtherScores, weight: float
) -> tuple[dict[str, Any], dict[str, list[Prediction]]]:
    """What a ``SplitFusion`` says of the test videos, and the predictions of the head, the other and both."""
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
    heads = [(mine.head(p.split, p.seed), theirs.head(p.split, p.seed)) for p in of_split]
    pairs = tuple((one, other) for one, other in heads if one is not None and other is not None)
    return {**summaries, "videos": len(of_split[0].labels), "lacking": lacking, "pairs": pairs}, parts
