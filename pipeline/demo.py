"""The embedded default: the whole path on rendered videos, with no weights from anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import default_config
from pipeline.datasets import load_dataset
from pipeline.extraction import extract
from pipeline.head import EpochReport, RunResult, train_head
from pipeline.inspection import inspect_videos
from pipeline.progress import Progress
from store.reader import FeatureStore

HEADS = ("mean", "vcs", "pvcs", "fuse")
RANDOM_WEIGHTS = (
    "CLIP has random weights here: its words mean nothing, so its weights on frames mean nothing either. These figures "
    "show that the path works and that heads learn from stored features; they say nothing about the method."
)


@dataclass(frozen=True)
class Demo:
    """What the demo made: seconds a step, the result of every head, and a picture."""

    seconds: dict[str, float]
    results: dict[str, RunResult]
    picture: Path
    store: str
    note: str = RANDOM_WEIGHTS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = {
            head: {"top1": result.top1, "interval": list(result.summaries[0].interval), "chance": result.chance}
            for head, result in self.results.items()
        }
        return {
            "heads": rows,
            "seconds": self.seconds,
            "picture": str(self.picture),
            "store": self.store,
            "note": self.note,
        }


def run_demo(
    folder: Path, *, engine: str = "ray", progress: Progress, epochs: Callable[[EpochReport], None] | None = None
) -> Demo:
    """Render the synthetic set under ``folder``, extract it, train every head of ``HEADS`` on split 1 and test it on
    subjects that it has not seen; draw one test video."""
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def lap(step: str) -> None:
        nonlocal began
        seconds[step] = round(time.monotonic() - began, 1)
        began = time.monotonic()

    config = replace(
        default_config("synthetic"), root=str(folder / "videos"), store=str(folder / "store"), engine=engine
    )
    progress.note(f"rendering the synthetic videos in {folder / 'videos'}")
    load_dataset("synthetic", folder / "videos")
    lap("render")
    extract(config, progress=progress)
    lap("extract")
    store = FeatureStore.open(folder / "store")
    results = {}
    for head in HEADS:
        results[head] = train_head(store, head=head, split=1, out=_fresh(folder / "runs", head), progress=epochs)
        lap(f"train {head}")
    picture = folder / "demo.png"
    inspect_videos(store, [_example(store)], picture, run=results["fuse"].directory)
    lap("picture")
    return Demo(seconds, results, picture, store.url)


def _example(store: FeatureStore) -> str:
    """A test video to draw: the first in which somebody is seen in every frame."""
    test = store.load(split=1, subset="test", arrays=("keypoints",))
    seen = (test["keypoints"][..., 2].amax((-1, -2)) > 0).float().mean(1)
    return test.video_ids[int(seen.argmax())]


def _fresh(folder: Path, head: str) -> Path:
    """A run directory that is not there yet, since a run never overwrites another."""
    number = 1
    while (folder / f"{head}-{number}").exists():
        number += 1
    return folder / f"{head}-{number}"
