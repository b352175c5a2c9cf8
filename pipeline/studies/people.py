"""Where pose helps less: classes in which few persons are found (``pose-poor``), videos that hide joints
(``occlusion``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.head.data import Inputs
from pipeline.head.job import Job
from pipeline.studies import STUDIES
from pipeline.studies.base import CAVEAT, Note, StudyConfig, outcomes, settings_of, warnings_of, without_pose
from pipeline.studies.measures import Measures, class_means, measure, terciles
from pipeline.studies.report import Report, draw_intervals, gain_cells
from pipeline.studies.verdict import Gain, Trend, gain_on, spearman_interval, top1

THIRDS = ("lowest third", "middle third", "highest third")


@dataclass(frozen=True)
class Trained:
    """A head with and without pose on the test videos of every split, and the measures of those videos."""

    job: Job
    splits: list[int]
    tests: list[Inputs]
    measures: list[Measures]
    real: list[np.ndarray]
    off: list[np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([test.labels.cpu().numpy() for test in self.tests])

    @property
    def sources(self) -> list[str]:
        return [source for test in self.tests for source in test.sources]

    def differences(self) -> np.ndarray:
        """Gain of every test video, all splits in one list: float64 [N], seeds averaged."""
        pairs = zip(self.real, self.off, strict=True)
        return np.concatenate([real.mean(axis=0) - off.mean(axis=0) for real, off in pairs])

    def measured(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(m, name) for m in self.measures])

    def gain_of(self, keep: Sequence[np.ndarray]) -> Gain | None:
        """Gain on some of the test videos, bool [N] a split; None where that leaves none."""
        return gain_on(self.real, self.off, [test.sources for test in self.tests], keep)


def train_both(config: StudyConfig, note: Note) -> Trained:
    """Train the head with and without pose, on every split."""
    off_head = without_pose(config.head)
    job = config.job(config.head)
    found = Trained(job, config.splits(job), [], [], [], [])
    for split in found.splits:
        train, test = job.inputs(split, "train"), job.inputs(split, "test")
        for head, results in ((config.head, found.real), (off_head, found.off)):
            results.append(outcomes(head, job.text, train, test, config.training, config.seeds, split))
            note(f"split {split}, {'with' if results is found.real else 'without'} pose: {results[-1].mean():.1%}")
        found.tests.append(test)
        found.measures.append(measure(job.store, job.selection, test.slots.tolist()))
    return found


def study_pose_poor(config: StudyConfig, note: Note) -> Report:
    """Gain of pose by class against how often persons are found there, and how much their poses vary."""
    found = train_both(config, note)
    classes = len(found.job.store.class_names)
    labels, differences = found.labels, found.differences()
    by_class = class_means(differences, labels, classes)
    there = np.isfinite(by_class)
    measured = {
        "persons found": class_means(found.measured("detected"), labels, classes),
        "variation of poses": class_means(found.measured("variation"), labels, classes),
    }
    rows, trends = [], {}
    poorest: Gain | None = None
    for name, values in measured.items():
        trends[name] = spearman_interval(values[there], by_class[there])
        third = terciles(values)
        for number, title in enumerate(THIRDS):
            of_third = found.gain_of([third[test.labels.cpu().numpy()] == number for test in found.tests])
            if of_third is None:
                continue
            poorest = of_third if poorest is None else poorest
            inside = f"{values[third == number].min():.2f} to {values[third == number].max():.2f}"
            rows.append((f"{name}: {title} of the classes", inside, *gain_cells(of_third)))
    assert poorest is not None
    sentences = [f"In the third of the classes in which persons are found least, pose gives {poorest}."]
    sentences += [*(trend.sentence(name, "class") for name, trend in trends.items()), CAVEAT]
    points = {name: (values[there], 100 * by_class[there]) for name, values in measured.items()}
    names = found.job.store.class_names
    return Report(
        study="pose-poor",
        question=STUDIES["pose-poor"],
        verdict=poorest.verdict,
        sentences=tuple(sentences),
        columns=("classes", "measure", "gain of pose, points", "95% interval", "verdict"),
        rows=tuple(rows),
        details={
            "spearman": {name: asdict(trend) for name, trend in trends.items()},
            "classes": {
                names[c]: {"gain": by_class[c], **{name: float(values[c]) for name, values in measured.items()}}
                for c in np.flatnonzero(there)
            },
        },
        settings=settings_of(config, found.job),
        warnings=warnings_of(found.job, found.splits),
        draw=_scatter(points, trends),
    )


def study_occlusion(config: StudyConfig, note: Note) -> Report:
    """Gain of pose by the share of joints that are visible in a video."""
    found = train_both(config, note)
    visible, differences = found.measured("visible"), found.differences()
    edges = np.unique(np.quantile(visible, [0.25, 0.5, 0.75]))
    quarters = [np.searchsorted(edges, m.visible, side="right") for m in found.measures]
    rows, gains = [], {}
    for number in range(len(edges) + 1):
        of_quarter = found.gain_of([quarter == number for quarter in quarters])
        if of_quarter is None:
            continue
        inside = np.concatenate(quarters) == number
        title = f"{visible[inside].min():.0%} to {visible[inside].max():.0%}"
        gains[title] = of_quarter
        rows.append((title, int(inside.sum()), *gain_cells(of_quarter)))
    trend = spearman_interval(visible, differences, found.sources)
    worst = next(iter(gains.values()))
    sentences = (
        f"In the videos of which fewest joints are visible, pose gives {worst}.",
        trend.sentence("the share of visible joints", "video"),
        CAVEAT,
    )
    return Report(
        study="occlusion",
        question=STUDIES["occlusion"],
        verdict=worst.verdict,
        sentences=sentences,
        columns=("visible joints", "test videos", "gain of pose, points", "95% interval", "verdict"),
        rows=tuple(rows),
        details={
            "spearman": asdict(trend),
            "gains": {name: g.to_dict() for name, g in gains.items()},
            "top1": {"with pose": top1(found.real), "without pose": top1(found.off)},
        },
        settings=settings_of(config, found.job),
        warnings=warnings_of(found.job, found.splits),
        draw=_steps(gains),
    )


def _scatter(panels: dict[str, tuple[np.ndarray, np.ndarray]], trends: dict[str, Trend]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        figure.set_size_inches(4.5 * len(panels), 4)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (name, (x, y)) in zip(axes, panels.items(), strict=True):
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.scatter(x, y, s=18, alpha=0.7)
            axis.set_title(f"Spearman {trends[name]}", fontsize=9)
            axis.set_xlabel(f"{name}, mean of a class")
            axis.locator_params(axis="x", nbins=5)
        axes[0].set_ylabel("gain of pose in a class, points")

    return draw


def _steps(gains: dict[str, Gain]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        figure.set_size_inches(6.5, 4)
        axis = figure.add_subplot()
        draw_intervals(axis, gains)
        axis.set_xlabel("visible joints of the person seen best (quarters of the test videos)")
        axis.set_ylabel("gain of pose in top-1, points")
        axis.set_title("gain of pose where joints are hidden (95% intervals)", fontsize=10)

    return draw
