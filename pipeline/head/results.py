"""What a training run found: figures by split and seed, on which videos, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.head.config import HeadConfig, HeadSizes
from pipeline.head.metrics import Resampling, clustered_interval, hits, mean_class_accuracy, percentiles
from pipeline.head.selection import Selection
from pipeline.head.train import TrainConfig

TABLE_HEAD = (
    "| dataset | head | CLIP | pose | frames | top-1 by split | mean | 95% interval | top-5 | mean class | seeds |"
)


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

    interval    (95%) of the mean over the splits, by a bootstrap clustered by source; seeds are drawn as well
    coverage    by split and subset: videos expected, used, quarantined, missing
    complete    whether every official (or listed) video of every split took part
    chance      accuracy of guessing
    warnings    what a reader of the figures has to know
    reproduced  after an evaluation: whether it gave the recorded predictions to the bit
    tuning      by split: what was tried on the inner validation, and the training settings that it chose
    """

    config: HeadConfig
    sizes: HeadSizes
    training: TrainConfig
    selection: Selection
    class_names: tuple[str, ...]
    scores: tuple[Score, ...]
    summaries: tuple[SplitSummary, ...]
    interval: tuple[float, float]
    coverage: Mapping[str, Mapping[str, Mapping[str, int]]]
    complete: bool
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    reproduced: bool | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[int, ...]:
        """Numbers of the splits that heads were trained on, ascending."""
        return tuple(sorted({score.split for score in self.scores}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that heads were trained with, ascending."""
        return tuple(sorted({score.seed for score in self.scores}))

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

    @property
    def table_line(self) -> str:
        """The run as a row of a Markdown table: see ``TABLE_HEAD``."""
        low, high = self.interval
        cells = [
            self.selection.dataset + ("" if self.complete else " (incomplete)"),
            self.config.head + ("" if self.config.modalities == "V+P+T" else f" {self.config.modalities}"),
            self.selection.clip or "",
            self.selection.pose or "",
            str(self.selection.frames),
            ", ".join(f"{s.top1:.1%}" for s in self.summaries),
            f"{self.top1:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{self.top5:.1%}",
            f"{self.mean_class:.1%}",
            str(len(self.seeds)),
        ]
        return f"| {' | '.join(cells)} |"

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
            "interval": list(self.interval),
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
            "tuning": dict(self.tuning),
            "table": [TABLE_HEAD, self.table_line],
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
            interval=tuple(data["interval"]),
            coverage=data["coverage"],
            complete=data["complete"],
            warnings=tuple(data["warnings"]),
            environment=data["environment"],
            files=data["files"],
            directory=None if data["directory"] is None else Path(data["directory"]),
            reproduced=data["reproduced"],
            tuning=data["tuning"],
        )


def score(
    prediction: Prediction,
    *,
    train_videos: int,
    loss: float | None,
    train_seconds: float,
    losses: Sequence[float] = (),
) -> Score:
    """How a head did on the test videos of its split, and what its training was."""
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


def mean_interval(predictions: Sequence[Prediction]) -> tuple[float, float]:
    """Interval (95%) of the mean over the splits of top-1, sources and seeds drawn."""
    splits = sorted({p.split for p in predictions})
    by_split = [[p for p in predictions if p.split == split] for split in splits]
    correct = [np.stack([hits(p.scores, p.labels) for p in of_split]) for of_split in by_split]
    return percentiles(Resampling([of_split[0].sources for of_split in by_split]).means(correct))
