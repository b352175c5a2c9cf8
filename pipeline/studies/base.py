"""What all studies share: their settings, training variants on the same videos, and what to warn of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from pipeline.head.config import SKELETON_HEADS, HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.job import Job, check_videos, chosen_splits, make_job
from pipeline.head.metrics import hits
from pipeline.head.record import RANDOM_VIDEO, RANDOM_WEIGHTS, completeness, environment, leaks
from pipeline.head.selection import coverage, random_weights
from pipeline.head.text import TextSide
from pipeline.head.train import Run, TrainConfig, fit_runs, new_head, predict
from pipeline.studies.verdict import Outcomes
from store.errors import UsageError

Note = Callable[[str], None]
# Behind every gain over a head without pose that no placebo has been compared with.
CAVEAT = "This is the gain over the head without pose; whether it is the pose that gives it, `study pose` tells."


@dataclass(frozen=True)
class StudyConfig:
    """Settings of a study.

    store     folder of the store
    head      the head that reads pose; what it is without pose is what it is compared with
    split     number of the official split, or ``"all"``
    frames    T'
    seeds     how often every variant is trained
    text      id of a text set, where a CLIP group has several
    to        store of another dataset (``transfer``)
    training  settings of every training
    """

    store: str
    head: HeadConfig = field(default_factory=lambda: HeadConfig(head="pvcs"))
    split: int | str = 1
    frames: int = 8
    seeds: int = 3
    device: str = "auto"
    clip: str | None = None
    pose: str | None = None
    text: str | None = None
    to: str | None = None
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"seeds is {self.seeds}; allowed: 1 or more")
        if self.training.epochs < 1:
            raise UsageError("epochs is 0; a study trains: give --epochs 1 or more")

    def job(self, config: HeadConfig, **options: Any) -> Job:
        """``config`` on the study's store; ``options`` name other groups than the study does."""
        named = {"clip": self.clip, "pose": self.pose, "text": self.text, "frames": self.frames}
        if "video" in options:
            del named["clip"]
        if options.keys() & {"clip", "video"}:
            del named["text"]  # another encoder, with text sets of its own or none
        return make_job(self.store, config, device=self.device, **{**named, **options})

    def splits(self, job: Job) -> list[int]:
        splits = chosen_splits(job.store, self.split)
        check_videos(job, splits)
        return splits


def without_pose(config: HeadConfig) -> HeadConfig:
    """What a head is without pose, all else equal: the gate of ``vilp`` at kappa = 0, whose temperature matches."""
    if not config.reads_pose or config.base in SKELETON_HEADS or "V" not in config.modalities:
        raise UsageError(
            f"head is {config.head!r}, which is nothing without pose, or reads none; give --head pvcs, fuse or vcs+pose"
        )
    off = replace(config, head=config.base)
    if off.base == "fuse":
        left = "V+T" if "T" in off.modalities else "V"
        return replace(off, modalities=left, pose_in="both")
    if off.base == "vilp":
        return replace(off, kappa=0.0, pose_in="both")
    return replace(off, head="vcs", pose_in="both", persons="all") if off.base in ("pvcs", "pvcs-joint") else off


def outcomes(
    config: HeadConfig, text: TextSide, train: Inputs, test: Inputs, training: TrainConfig, seeds: int, split: int
) -> np.ndarray:
    """Whether each test video is right, bool [S, N], of a head trained ``seeds`` times."""
    train, test = train.only(config.inputs), test.only(config.inputs)
    labels, rows = test.labels.cpu().numpy(), torch.arange(len(train))
    runs = [Run(new_head(config, train, text, seed=seed), rows, split, seed) for seed in range(seeds)]
    fit_runs(runs, train, training)
    return np.stack([hits(predict(run.head, test).numpy(), labels) for run in runs])


def warnings_of(job: Job, splits: Sequence[int]) -> tuple[str, ...]:
    """What a reader of a study has to know of its store."""
    counted = {str(split): coverage(job.store, job.selection, split) for split in splits}
    notes = completeness(job.store, job.selection, counted)[1]
    notes += leaks(job.store, job.selection, splits)
    if random_weights(job.store, job.selection):
        notes.append(RANDOM_VIDEO if job.config.encoder == "video" else RANDOM_WEIGHTS)
    return tuple(notes)


def settings_of(config: StudyConfig, job: Job, **more: Any) -> Mapping[str, Any]:
    """All that is needed to repeat a study."""
    return {
        "dataset": job.store.dataset_name,
        "head": config.head.to_dict(),
        "split": config.split,
        "seeds": config.seeds,
        "to": config.to,
        "training": config.training.on(job.device).to_dict(),
        "features": job.selection.to_dict(),
        "environment": dict(environment(job.device)),
        **more,
    }


def as_dict(result: Outcomes) -> list[list[float]]:
    """Top-1 by split and seed."""
    return [[float(row.mean()) for row in of_split] for of_split in result]
