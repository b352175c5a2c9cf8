"""Do frame weights find the action? Weights of heads against the frames that hold the action, which the synthetic set
knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.datasets.synthetic import ANNOTATIONS
from pipeline.head.checkpoint import load_head
from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs, load_inputs
from pipeline.head.job import make_job
from pipeline.head.metrics import clustered_interval, roc_area
from pipeline.head.models import Head, TokenPoseHead
from pipeline.head.results import RunResult
from pipeline.head.train import new_head
from pipeline.inspection import frames_group, video_root
from pipeline.judging import frame_weights
from store.errors import UsageError
from store.reader import FeatureStore


@dataclass(frozen=True)
class Truth:
    """What the synthetic set knows of N videos: which of the T' frames that a head reads hold the action, bool [N, T'],
    and whether somebody else stands about, bool [N]."""

    inside: np.ndarray
    distracted: np.ndarray

    @property
    def telling(self) -> np.ndarray:
        """Videos with frames of both kinds, bool [N]: of the others there is nothing to find."""
        share = self.inside.mean(1)
        return (share > 0) & (share < 1)


@dataclass(frozen=True)
class Weighed:
    """Weight of each frame for the video's true class, float [N, T'], of videos in ``video_ids`` and their sources."""

    weights: np.ndarray
    video_ids: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Focus:
    """Where frame weights lie, the mean over the videos that have frames inside and outside of the action.

    share     of the weight that lies inside; that of equal weights is the share of the frames that do
    area      under the ROC curve: the chance that a frame inside weighs more than one outside; of equal weights 0.5
    interval  (95%) of the area, by a bootstrap clustered by source
    """

    share: float
    area: float
    interval: tuple[float, float]
    videos: int

    def to_dict(self) -> dict[str, Any]:
        return {"share": self.share, "area": self.area, "interval": list(self.interval), "videos": self.videos}


@dataclass(frozen=True)
class Gain:
    """A difference of two areas under the ROC curve, the mean over the same videos, with its interval (95%, by a
    bootstrap clustered by source)."""

    area: float
    interval: tuple[float, float]
    videos: int

    def to_dict(self) -> dict[str, Any]:
        return {"area": self.area, "interval": list(self.interval), "videos": self.videos}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.area:+.3f} ({low:+.3f} to {high:+.3f})"


def read_truth(store: FeatureStore, video_ids: Sequence[str], num_frames: int) -> Truth:
    """The truth about videos of a store of the synthetic set, at ``num_frames`` of the stored frames.

    Raises ``UsageError`` for a store of another dataset.
    """
    if store.dataset_name != "synthetic":
        raise UsageError(
            f"dataset is {store.dataset_name}, of which nobody knows the true interval; allowed: synthetic"
        )
    rows = {row["video_id"]: row for row in pq.read_table(video_root(store) / ANNOTATIONS).to_pylist()}
    record = store.group("clip").modality.record["frames"]
    slots = store.plan.lookup("video_id", "slot")
    index = store.rows(frames_group(store, record), "index", [slots[video_id] for video_id in video_ids])
    index = index[:, np.arange(num_frames) * index.shape[1] // num_frames]
    start, end, persons = (
        np.array([rows[video_id][name] for video_id in video_ids])
        for name in ("start_frame", "end_frame", "num_persons")
    )
    return Truth((index >= start[:, None]) & (index < end[:, None]), persons > 1)


def weights_of_run(run: RunResult, store: FeatureStore) -> Weighed:
    """Of the test videos of all splits of a run, the mean over its seeds."""
    parts = []
    for split in run.splits:
        test = load_inputs(store, run.selection, run.config, split=split, subset="test", device="cpu")
        heads = [load_head(run, split, score.seed) for score in run.scores if score.split == split]
        parts.append(weights_of(heads, test))
    return Weighed(
        np.concatenate([part.weights for part in parts]),
        tuple(video_id for part in parts for video_id in part.video_ids),
        tuple(source for part in parts for source in part.sources),
    )


def untrained(store: FeatureStore, head: str | HeadConfig, *, alpha: float = 0.0) -> tuple[Head, Inputs]:
    """A zero-shot head and what it reads of all videos; heads on tokens under persons take the share ``alpha`` of
    these."""
    job = make_job(store, head, device="cpu")
    inputs = job.inputs(None, None)
    made = new_head(job.config, inputs, job.text)
    if alpha:
        if not isinstance(made, TokenPoseHead):
            raise UsageError(f"alpha is {alpha}, which head {head!r} does not have; allowed: pvcs")
        with torch.no_grad():
            made.alpha.fill_(alpha)
    return made, inputs


def weights_of(heads: Sequence[Head], inputs: Inputs) -> Weighed:
    """The mean over ``heads``. Raises ``UsageError`` for heads that weigh no frames by words."""
    found = [frame_weights(head, inputs, inputs.labels.cpu()) for head in heads]
    known = [weights for weights in found if weights is not None]
    if not known:
        raise UsageError("this head weighs no frames by words; allowed: vcs, pvcs, pvcs-joint, vilp, fuse")
    return Weighed(torch.stack(known).mean(0).numpy(), inputs.video_ids, inputs.sources)


def weights_for_others(head: Head, inputs: Inputs) -> list[Weighed]:
    """The weights for each class but the true one: a control, since some frames may attract the words of any class."""
    labels, count = inputs.labels.cpu(), int(inputs.labels.max()) + 1
    return [weights_of([head], replace(inputs, labels=(labels + step) % count)) for step in range(1, count)]


def equal_weights(like: Weighed) -> Weighed:
    """The weights of a plain mean of frames."""
    return replace(like, weights=np.full_like(like.weights, 1 / like.weights.shape[1]))


def focus(weighed: Sequence[Weighed], truth: Truth, chosen: np.ndarray | None = None) -> Focus:
    """Where the weights lie in the videos of ``chosen`` (bool [N], else all) that have something to find. Of several
    weights for the same videos, the mean of what each finds."""
    rows = _rows(truth, chosen)
    shares = np.mean([(found.weights * truth.inside).sum(1)[rows] for found in weighed])
    areas = np.mean([_areas(found, truth, rows) for found in weighed], axis=0)
    interval = clustered_interval(areas, [weighed[0].sources[row] for row in rows])
    return Focus(float(shares), float(areas.mean()), interval, len(rows))


def gain(weighed: Weighed, other: Weighed, truth: Truth, chosen: np.ndarray | None = None) -> Gain:
    """By how much ``weighed`` finds the action better than ``other`` does in the same videos, see ``focus``."""
    rows = _rows(truth, chosen)
    more = _areas(weighed, truth, rows) - _areas(other, truth, rows)
    return Gain(float(more.mean()), clustered_interval(more, [weighed.sources[row] for row in rows]), len(rows))


def _rows(truth: Truth, chosen: np.ndarray | None) -> np.ndarray:
    return np.flatnonzero(truth.telling if chosen is None else truth.telling & chosen)


def _areas(weighed: Weighed, truth: Truth, rows: np.ndarray) -> np.ndarray:
    return np.array([roc_area(weighed.weights[row], truth.inside[row]) for row in rows])
