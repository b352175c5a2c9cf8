"""How many frames does each head need?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.head.config import HeadConfig
from pipeline.head.selection import stored_frames
from pipeline.studies import STUDIES
from pipeline.studies.base import Note, StudyConfig, as_dict, outcomes, settings_of, warnings_of
from pipeline.studies.measures import class_means, class_medians, measure, terciles
from pipeline.studies.report import Cell, Report, draw_intervals, gain_cells, percent
from pipeline.studies.verdict import Gain, gain, gain_on, spearman_interval, top1
from store.errors import UsageError
from store.groups import of_kind

THIRDS = ("least motion", "medium motion", "most motion")


def study_frames(config: StudyConfig, note: Note) -> Report:
    """Train each head with T' = 1, 2, 4, ... frames up to all that are stored.

    The motion of a class is the median over its training videos of how far a joint moves between stored pose frames,
    in units of the person's size. It is told where the head reads poses.
    """
    has_pose = of_kind(config.job(HeadConfig(head="mean"), frames=1).store.groups, "pose")
    asked = config.head if has_pose or not config.head.reads_pose else HeadConfig(head="vcs")
    heads = list({head.head: head for head in (HeadConfig(head="mean"), HeadConfig(head="vcs"), asked)}.values())
    job = config.job(asked, frames=1)
    stored = stored_frames(job.store.group("clip", job.selection.clip))
    if stored < 2:
        raise UsageError(f"{job.store.url} holds one frame a video, and this study compares numbers of frames")
    counts = [*(2**i for i in range(stored.bit_length()) if 2**i < stored), stored]
    splits = config.splits(job)
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    labels, sources, motions = [], [], []
    for split in splits:
        for head in heads:
            for frames in counts:
                of_count = config.job(head, frames=frames)
                train, test = of_count.inputs(split, "train"), of_count.inputs(split, "test")
                result = outcomes(head, of_count.text, train, test, config.training, config.seeds, split)
                found.setdefault((head.head, frames), []).append(result)
                note(f"split {split}, {head.head}, {frames} frames: top-1 {result.mean():.1%}")
        labels.append(test.labels.cpu().numpy())
        sources.append(test.sources)
        if asked.reads_pose:
            moving = measure(job.store, job.selection, train.slots.tolist()).motion
            motions.append(class_medians(moving, train.labels.cpu().numpy(), len(job.store.class_names)))
    gains = {head.head: gain(found[head.head, stored], found[head.head, 1], sources) for head in heads}
    main = asked.head
    rows: list[tuple[Cell, ...]] = []
    for head in heads:
        cells = [percent(top1(found[head.head, frames])) for frames in counts]
        rows.append((head.head, *cells, *gain_cells(gains[head.head])))
    sentences = [f"{main} with all {stored} frames instead of one: {gains[main]}."]
    details: dict[str, Any] = {
        "gains": {name: g.to_dict() for name, g in gains.items()},
        "top1": {f"{name}, {frames} frames": as_dict(result) for (name, frames), result in found.items()},
    }
    by_motion: dict[str, Gain] = {}
    if asked.reads_pose:
        motion, by_class, by_motion = _motion(found, main, stored, motions, labels, sources)
        trend = spearman_interval(motion, by_class)
        details |= {"spearman": asdict(trend), "by motion": {name: g.to_dict() for name, g in by_motion.items()}}
        for name, of_third in by_motion.items():
            blank = [""] * len(counts)
            rows.append((f"{main}, classes with {name}", *blank, *gain_cells(of_third)))
        sentences.append(trend.sentence("a class's motion", "class"))
    return Report(
        study="frames",
        question=STUDIES["frames"],
        verdict=gains[main].verdict,
        sentences=tuple(sentences),
        columns=(
            "head",
            *(f"T' = {frames}" for frames in counts),
            f"gain of {stored} over 1, points",
            "95% interval",
            "verdict",
        ),
        rows=tuple(rows),
        details=details,
        settings=settings_of(config, job, frames=counts),
        warnings=warnings_of(job, splits),
        draw=_curves({h.head: [top1(found[h.head, n]) for n in counts] for h in heads}, counts, by_motion, main),
    )


def _motion(
    found: Mapping[tuple[str, int], list[np.ndarray]],
    head: str,
    stored: int,
    motions: list[np.ndarray],
    labels: list[np.ndarray],
    sources: list[tuple[str, ...]],
) -> tuple[np.ndarray, np.ndarray, dict[str, Gain]]:
    """Motion and gain of the classes that have both, and the gain in each third of the classes by motion."""
    many, one = found[head, stored], found[head, 1]
    stacked = np.stack(motions)
    known_in = np.isfinite(stacked).sum(axis=0)  # splits; none of them has videos of a class that was not extracted
    motion = np.where(known_in, np.nansum(stacked, axis=0) / np.maximum(known_in, 1), np.nan)
    differences = np.concatenate([a.mean(axis=0) - b.mean(axis=0) for a, b in zip(many, one, strict=True)])
    by_class = class_means(differences, np.concatenate(labels), len(motion))
    known = np.isfinite(motion) & np.isfinite(by_class)
    third = terciles(np.where(known, motion, np.nan))
    gains = {}
    for number, name in enumerate(THIRDS):
        of_third = gain_on(many, one, sources, [third[of_split] == number for of_split in labels])
        if of_third is not None:
            gains[name] = of_third
    return motion[known], by_class[known], gains


def _curves(
    curves: Mapping[str, list[float]], counts: list[int], by_motion: Mapping[str, Gain], main: str
) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        figure.set_size_inches(10 if by_motion else 6, 4)
        left, *right = figure.subplots(1, 2 if by_motion else 1, squeeze=False)[0]
        for (name, values), marker in zip(curves.items(), "osD^v", strict=False):
            left.plot(counts, [100 * value for value in values], f"{marker}-", label=name)
        left.set_xscale("log", base=2)
        left.set_xticks(counts, [str(count) for count in counts])
        left.set_xlabel("frames a video, T'")
        left.set_ylabel("top-1, %")
        left.legend()
        left.grid(color="0.9")
        for axis in right:
            draw_intervals(axis, by_motion)
            axis.set_xlabel("thirds of the classes by keypoint velocity")
            axis.set_ylabel(f"{main}: gain of {counts[-1]} frames over 1, points")

    return draw
