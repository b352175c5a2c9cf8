"""The embedded default: the whole path on rendered videos, with an embedded CLIP, and what the method does on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import default_config
from pipeline.datasets.synthetic import SyntheticConfig, render_dataset
from pipeline.extraction import extract
from pipeline.files import check_directory
from pipeline.focus import (
    Focus,
    Gain,
    Truth,
    Weighed,
    equal_weights,
    focus,
    gain,
    read_truth,
    untrained,
    weights_for_others,
    weights_of,
    weights_of_run,
)
from pipeline.focus_figure import draw_focus
from pipeline.head import EpochReport, HeadConfig, RunResult, train_head
from pipeline.head.data import Inputs
from pipeline.head.metrics import clustered_interval, hits
from pipeline.head.models import Head
from pipeline.head.train import predict
from pipeline.inspection import inspect_videos, strips
from pipeline.progress import Progress
from pipeline.studies import StudyConfig, run_study
from pipeline.studies.report import Report
from store.reader import FeatureStore

# Some clips show an idle second person, who would count as much as the actor does.
HEADS = {
    "mean": HeadConfig(head="mean"),
    "vcs": HeadConfig(head="vcs"),
    "pvcs": HeadConfig(head="pvcs", persons="moving"),
    "fuse": HeadConfig(head="fuse", persons="moving"),
}
# Untrained heads, and alpha: the share of the tokens under persons in their frames, which training would choose.
PVCS = "pvcs, alpha 0.5"
ZERO_SHOT = {
    "mean": (HEADS["mean"], 0.0),
    "vcs": (HEADS["vcs"], 0.0),
    PVCS: (HEADS["pvcs"], 0.5),
    "pvcs, alpha 1": (HEADS["pvcs"], 1.0),
    "pvcs, all alike": (HeadConfig(head="pvcs"), 0.5),
}

EMBEDDED = (
    "CLIP is the embedded one here, trained on other rendered people and nothing else (stages/clip/stick/README.md): "
    "these figures tell what the heads do with words that mean something, and nothing about real video."
)


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    seconds    a step
    zero_shot  top-1 of untrained heads with its interval (95%); CLIP has seen none of the subjects
    results    trained heads; each subject is tested by heads that have not seen it
    focus      by head, then of which videos (all, distracted, alone): where the weights of frames lie
    gains      of P-VCS over VCS, zero-shot and trained, of the same videos: how much better the weights lie
    study      ``study pose`` of the head pvcs
    pictures   a test video with all that is known of it; frame weights over the true interval
    """

    seconds: dict[str, float]
    zero_shot: dict[str, tuple[float, tuple[float, float]]]
    results: dict[str, RunResult]
    focus: dict[str, dict[str, Focus]]
    gains: dict[str, dict[str, Gain]]
    study: Report
    pictures: tuple[Path, Path]
    store: str
    note: str = EMBEDDED

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "zero_shot": {head: {"top1": top1, "interval": list(i)} for head, (top1, i) in self.zero_shot.items()},
            "heads": {
                head: {"top1": result.top1, "interval": list(result.interval), "chance": result.chance}
                for head, result in self.results.items()
            },
            "focus": {name: {of: found.to_dict() for of, found in row.items()} for name, row in self.focus.items()},
            "gains": {name: {of: found.to_dict() for of, found in row.items()} for name, row in self.gains.items()},
            "study": self.study.to_dict(),
            "seconds": self.seconds,
            "pictures": [str(picture) for picture in self.pictures],
            "store": self.store,
            "note": self.note,
        }


def run_demo(
    folder: Path,
    *,
    rendered: SyntheticConfig | None = None,
    engine: str = "ray",
    progress: Progress,
    epochs: Callable[[EpochReport], None] | None = None,
) -> Demo:
    """Render the synthetic set under ``folder`` (``rendered`` says what of it), extract it, test ``HEADS`` on people
    whom they have not seen, compare frame weights with the frames that hold the action, and ask whether pose helps.

    Raises ``UsageError`` where ``folder`` holds other videos than those, or is a file.
    """
    check_directory("out", folder)
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
    render_dataset(folder / "videos", config=rendered)
    lap("render")
    extract(config, progress=progress)
    lap("extract")
    store = FeatureStore.open(folder / "store")
    runs = _fresh(folder, "runs")
    fresh = {name: untrained(store, head, alpha=alpha) for name, (head, alpha) in ZERO_SHOT.items()}
    zero_shot = {name: zero_shot_top1(head, inputs) for name, (head, inputs) in fresh.items()}
    lap("zero-shot")
    results = {}
    for name, head in HEADS.items():
        results[name] = train_head(store, head=head, split="all", out=runs / name, progress=epochs)
        lap(f"train {name}")
    weighed = {name: weights_of_run(results[name], store) for name in ("vcs", "pvcs")}
    spotted = {name: weights_of([head], inputs) for name, (head, inputs) in fresh.items() if name != "mean"}
    told = {
        "mean": [equal_weights(weighed["vcs"])],
        "vcs, words of other classes": weights_for_others(*fresh["vcs"]),
        **{f"{name}, zero-shot": [weights] for name, weights in spotted.items()},
        **{name: [weights] for name, weights in weighed.items()},
    }
    found = {name: _focus(weights, store) for name, weights in told.items()}
    gains = {
        "zero-shot": _gains(spotted[PVCS], spotted["vcs"], store),
        "trained": _gains(weighed["pvcs"], weighed["vcs"], store),
    }
    lap("frame weights")
    progress.note("study pose: real pose against none and against placebos")
    study = run_study(
        "pose",
        StudyConfig(store=store.url, head=HEADS["pvcs"], split="all", seeds=1),
        out=runs / "study-pose",
    )
    lap("study pose")
    pictures = folder / "demo.png", folder / "focus.png"
    inspect_videos(store, [_example(store)], pictures[0], run=results["fuse"].directory)
    _draw(weighed, store, pictures[1])
    lap("pictures")
    return Demo(seconds, zero_shot, results, found, gains, study, pictures, store.url)


def zero_shot_top1(head: Head, inputs: Inputs) -> tuple[float, tuple[float, float]]:
    """Top-1 of a head with its interval (95%, by subjects)."""
    right = hits(predict(head, inputs).numpy(), inputs.labels.cpu().numpy())
    return float(right.mean()), clustered_interval(right, inputs.sources)


def _truth(weighed: Weighed, store: FeatureStore) -> Truth:
    return read_truth(store, weighed.video_ids, weighed.weights.shape[1])


def _focus(weighed: list[Weighed], store: FeatureStore) -> dict[str, Focus]:
    truth = _truth(weighed[0], store)
    return {of: focus(weighed, truth, chosen) for of, chosen in _videos(truth).items()}


def _gains(weighed: Weighed, other: Weighed, store: FeatureStore) -> dict[str, Gain]:
    truth = _truth(weighed, store)
    return {of: gain(weighed, other, truth, chosen) for of, chosen in _videos(truth).items()}


def _videos(truth: Truth) -> dict[str, np.ndarray]:
    everything = np.ones(len(truth.distracted), bool)
    return {"all": everything, "distracted": truth.distracted, "alone": ~truth.distracted}


def _draw(weighed: dict[str, Weighed], store: FeatureStore, path: Path) -> None:
    """Four classes of those in which there is something to find and somebody to distract, the first video of each."""
    like = next(iter(weighed.values()))
    truth = _truth(like, store)
    chosen: dict[str, int] = {}
    rows = {row["video_id"]: row for row in store.videos.to_pylist()}
    for place in np.argsort(like.video_ids):
        if truth.telling[place] and truth.distracted[place]:
            chosen.setdefault(rows[like.video_ids[place]]["class_name"], int(place))
    places = list(chosen.values())[:: max(1, len(chosen) // 4)][:4]
    shown = strips(store, [rows[like.video_ids[place]]["slot"] for place in places], frames=like.weights.shape[1])
    draw_focus(shown, {name: found.weights[places] for name, found in weighed.items()}, truth.inside[places], path)


def _example(store: FeatureStore) -> str:
    """A test video to draw: the first in which somebody is seen in every frame."""
    test = store.load(split=1, subset="test", arrays=("keypoints",))
    seen = (test["keypoints"][..., 2].amax((-1, -2)) > 0).float().mean(1)
    return test.video_ids[int(seen.argmax())]


def _fresh(folder: Path, name: str) -> Path:
    """A folder that is not there yet, since a run never overwrites another."""
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"
