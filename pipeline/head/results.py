"""What a training run found: figures by split and seed, on which videos, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.head.data import Selection
from pipeline.head.metrics import clustered_interval, hits, mean_class_accuracy
from pipeline.head.models import HeadConfig, HeadSizes
from pipeline.head.train import TrainConfig


@dataclass(frozen=True)
class Prediction:
    """Logits of the test videos of one split from one seed: scores float32 [N, C], labels and slots int64 [N]."""

    split: int
    seed: int
    scores: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    video_ids: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Accuracies in [0, 1] of one split and seed, at the last epoch; ``losses`` are those of all epochs."""

    split: int
    seed: int
    top1: float
    top5: float
    mean_class: float
    videos: int
    train_videos: int
    loss: float | None
    train_seconds: float
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class SplitSummary:
    """Accuracies in [0, 1] of one split, seeds averaged within each video; ``interval`` (95%) is that of ``top1``."""

    split: int
    top1: float
    top5: float
    mean_class: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class RunResult:
    """A training run, or the evaluation of one.

    coverage    by split and subset: videos expected, used, quarantined, missing
    complete    whether every official (or listed) video of every split took part
    chance      accuracy of guessing
    warnings    what a reader of the figures has to know
    reproduced  after an evaluation: whether it gave the recorded predictions to the bit
    """

    config: HeadConfig
    sizes: HeadSizes
    training: TrainConfig
    selection: Selection
    class_names: tuple[str, ...]
    scores: tuple[Score, ...]
    summaries: tuple[SplitSummary, ...]
    coverage: Mapping[str, Mapping[str, Mapping[str, int]]]
    complete: bool
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    reproduced: bool | None = None

    @property
    def chance(self) -> float:
        return 1 / len(self.class_names)

    @property
    def top1(self) -> float:
        """Mean over the splits."""
        return float(np.mean([s.top1 for s in self.summaries]))

    @property
    def top5(self) -> float:
        return float(np.mean([s.top5 for s in self.summaries]))

    @property
    def mean_class(self) -> float:
        return float(np.mean([s.mean_class for s in self.summaries]))

    def at(self, directory: Path) -> RunResult:
        return replace(self, directory=directory)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the mean over the splits included."""
        return {
            "format": "vilp-run",
            "version": 1,
            "head": self.config.head,
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "chance": self.chance,
            "complete": self.complete,
            "warnings": list(self.warnings),
            "splits": [{**asdict(s), "interval": list(s.interval)} for s in self.summaries],
            "scores": [{**asdict(s), "losses": list(s.losses)} for s in self.scores],
            "coverage": {split: {k: dict(v) for k, v in by.items()} for split, by in self.coverage.items()},
            "config": self.config.to_dict(),
            "sizes": self.sizes.to_dict(),
            "training": self.training.to_dict(),
            "features": self.selection.to_dict(),
            "class_names": list(self.class_names),
            "environment": dict(self.environment),
            "files": dict(self.files),
            "directory": None if self.directory is None else str(self.directory),
            "reproduced": self.reproduced,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunResult:
        return cls(
            config=HeadConfig.from_dict(data["config"]),
            sizes=HeadSizes.from_dict(data["sizes"]),
            training=TrainConfig.from_dict(data["training"]),
            selection=Selection.from_dict(data["features"]),
            class_names=tuple(data["class_names"]),
            scores=tuple(Score(**{**score, "losses": tuple(score.get("losses", ()))}) for score in data["scores"]),
            summaries=tuple(SplitSummary(**{**s, "interval": tuple(s["interval"])}) for s in data["splits"]),
            coverage=data["coverage"],
            complete=data["complete"],
            warnings=tuple(data["warnings"]),
            environment=data["environment"],
            files=data["files"],
            directory=None if data["directory"] is None else Path(data["directory"]),
            reproduced=data["reproduced"],
        )


def score(
    prediction: Prediction,
    *,
    train_videos: int,
    loss: float | None,
    train_seconds: float,
    losses: Sequence[float] = (),
) -> Score:
    correct = hits(prediction.scores, prediction.labels)
    return Score(
        split=prediction.split,
        seed=prediction.seed,
        top1=float(correct.mean()),
        top5=float(hits(prediction.scores, prediction.labels, 5).mean()),
        mean_class=mean_class_accuracy(correct, prediction.labels),
        videos=len(prediction.labels),
        train_videos=train_videos,
        loss=loss,
        train_seconds=train_seconds,
        losses=tuple(losses),
    )


def summarise(predictions: Sequence[Prediction]) -> tuple[SplitSummary, ...]:
    """One summary a split, in order of the splits."""
    summaries = []
    for split in sorted({p.split for p in predictions}):
        of_split = [p for p in predictions if p.split == split]
        labels, sources = of_split[0].labels, of_split[0].sources
        correct = np.mean([hits(p.scores, labels) for p in of_split], axis=0)
        top5 = np.mean([hits(p.scores, labels, 5) for p in of_split], axis=0)
        summaries.append(
            SplitSummary(
                split=split,
                top1=float(correct.mean()),
                top5=float(top5.mean()),
                mean_class=mean_class_accuracy(correct, labels),
                interval=clustered_interval(correct, sources),
            )
        )
    return tuple(summaries)
