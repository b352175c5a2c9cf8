"""How well do patch tokens show where persons are, and what does attending to them do to accuracy?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.head.config import PATCH_TOKENS, HeadConfig
from pipeline.head.data import Inputs, view_size
from pipeline.head.job import Job
from pipeline.head.metrics import Resampling, percentiles, roc_area
from pipeline.studies import STUDIES
from pipeline.studies.base import Note, StudyConfig, as_dict, outcomes, settings_of, warnings_of
from pipeline.studies.placebos import box_maps
from pipeline.studies.report import Cell, Report, gain_cells, percent
from pipeline.studies.verdict import Gain, gain, top1
from store.errors import MissingError
from store.printable import command

RIDGE = 1e-2


def study_tokens(config: StudyConfig, note: Note) -> Report:
    """For every kind of stored token: the area under the ROC curve with which a linear direction, fitted on training
    videos, tells the cells inside person boxes of test videos from those outside, and the accuracy of attention
    pooling over it. The verdict compares the accuracies of the two kinds that localise best and worst.
    """
    first = config.job(HeadConfig(head="pose"))  # has poses, and a CLIP group
    arrays = first.store.group("clip", first.selection.clip).modality.arrays
    kinds = [name for name in PATCH_TOKENS if name in arrays]
    if len(kinds) < 2:
        adding = ("--modality", "clip", "--tokens", "value,penult,last")
        raise MissingError(
            f"{first.store.url} holds {', '.join(kinds) or 'no'} tokens and this study compares several; add them "
            f"with: {command('extract', '--store', first.store.url, *adding)}",
            kind="missing-modality",
        )
    found: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    areas: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    sources, splits = [], config.splits(first)
    for split in splits:
        for kind in kinds:
            head = HeadConfig(head="attn", tokens=kind)
            job = config.job(head)
            train, test = job.inputs(split, "train"), job.inputs(split, "test")
            areas[kind].append(_areas(job, first.selection.pose, kind, train, test))
            found[kind].append(outcomes(head, job.text, train, test, config.training, config.seeds, split))
            note(f"split {split}, {kind}: area {np.nanmean(areas[kind][-1]):.3f}, top-1 {found[kind][-1].mean():.1%}")
        sources.append(test.sources)
    measured, total = sum(int(np.isfinite(a).sum()) for a in areas[kinds[0]]), sum(len(a) for a in areas[kinds[0]])
    area = {kind: _area_interval(areas[kind], sources) for kind in kinds}
    best, worst = (choose(kinds, key=lambda kind: area[kind][0]) for choose in (max, min))
    difference = gain(found[best], found[worst], sources)
    gains = {kind: gain(found[kind], found[best], sources) for kind in kinds if kind != best}
    rows: list[tuple[Cell, ...]] = []
    for kind in kinds:
        cells = gain_cells(gains[kind]) if kind in gains else ("", "", "")
        mean, low, high = area[kind]
        rows.append((kind, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", percent(top1(found[kind])), *cells))
    return Report(
        study="tokens",
        question=STUDIES["tokens"],
        verdict=difference.verdict,
        sentences=(
            f"{best} tokens show best where persons are (area {area[best][0]:.3f}; {worst}: {area[worst][0]:.3f}); "
            f"attention pooling over them instead of {worst} gives {difference}.",
            f"The boxes are the pose estimator's, so areas say how well tokens agree with it; {measured} of {total} "
            "test videos have cells both inside and outside of them, and count.",
        ),
        columns=(
            "tokens",
            "area under the curve",
            "95% interval",
            "top-1 of attn",
            f"gain over {best}, points",
            "95% interval",
            "verdict",
        ),
        rows=tuple(rows),
        details={
            "area": {kind: {"mean": a, "low": low, "high": high} for kind, (a, low, high) in area.items()},
            "gains": {kind: g.to_dict() for kind, g in gains.items()},
            "top1": {kind: as_dict(result) for kind, result in found.items()},
            "best over worst": difference.to_dict(),
        },
        settings=settings_of(config, first, tokens=kinds),
        warnings=warnings_of(first, splits),
        draw=_picture(area, {kind: top1(found[kind]) for kind in kinds}, difference),
    )


def _areas(job: Job, pose: str | None, kind: str, train: Inputs, test: Inputs) -> np.ndarray:
    """Area of each test video [N]: NaN where its boxes fill all cells, or none."""
    direction = _direction(job, pose, kind, train.slots.tolist())
    found = []
    for tokens, inside in _cells(job, pose, kind, test.slots.tolist()):
        scores = tokens @ direction
        found += [roc_area(s.numpy(), i.numpy()) for s, i in zip(scores.flatten(1), inside.flatten(1), strict=True)]
    return np.array(found)


def _direction(job: Job, pose: str | None, kind: str, slots: list[int]) -> Tensor:
    """Fisher's linear discriminant between cells inside and outside boxes, float32 [W]."""
    sums: dict[bool, Tensor] = {}
    counts = {True: 0, False: 0}
    second: Tensor | None = None
    for tokens, inside in _cells(job, pose, kind, slots):
        rows = tokens.flatten(0, -2).double()
        second = rows.T @ rows if second is None else second + rows.T @ rows
        for where in (True, False):
            part = rows[inside.flatten() == where]
            sums[where] = part.sum(dim=0) + sums.get(where, torch.zeros(rows.shape[1], dtype=torch.float64))
            counts[where] += len(part)
    if second is None or 0 in counts.values():
        raise MissingError(
            f"the person boxes of {job.store.url} fill all cells or none; nothing can be told apart",
            kind="missing-modality",
        )
    total = counts[True] + counts[False]
    means = {where: sums[where] / counts[where] for where in (True, False)}
    mean = (sums[True] + sums[False]) / total
    covariance = second / total - torch.outer(mean, mean)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    return torch.linalg.solve(covariance + ridge, means[True] - means[False]).float()


def _cells(job: Job, pose: str | None, kind: str, slots: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens float32 [B, T', G, G, W] of the first view and which cells lie in a box, bool [B, T', G, G], a shard."""
    selection = job.selection
    view = selection.views[0]
    for features in job.store.iter_shards(
        arrays=(kind, "boxes"), slots=slots, frames=selection.frames, clip=selection.clip, pose=pose, view=view
    ):
        tokens = features[kind][:, 0].float()
        size, grid = view_size(job.store, selection), tokens.shape[2]
        yield tokens, box_maps(features, view=view, size=size, grid=grid) > 0


def _area_interval(areas: list[np.ndarray], sources: list[tuple[str, ...]]) -> tuple[float, float, float]:
    """Mean area of the test videos that have one, over the splits, with its 95% interval clustered by source."""
    known = [np.isfinite(of_split) for of_split in areas]
    kept = [[s for s, k in zip(names, rows, strict=True) if k] for names, rows in zip(sources, known, strict=True)]
    values = [of_split[rows][None] for of_split, rows in zip(areas, known, strict=True)]
    low, high = percentiles(Resampling(kept).means(values))
    return float(np.mean([v.mean() for v in values])), low, high


def _picture(
    area: Mapping[str, tuple[float, float, float]], accuracy: Mapping[str, float], difference: Gain
) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        figure.set_size_inches(8, 3.6)
        left, right = figure.subplots(1, 2)
        names = list(area)
        means, lows, highs = (np.array(values) for values in zip(*area.values(), strict=True))
        left.errorbar(names, means, yerr=[means - lows, highs - means], fmt="o", capsize=4)
        left.axhline(0.5, color="0.4", linewidth=0.8, linestyle="--")
        left.set_ylabel("area under the curve, cells in boxes")
        left.set_xlim(-0.5, len(names) - 0.5)
        left.set_title("where persons are (dashed: chance)", fontsize=10)
        bars = right.bar(names, [100 * accuracy[name] for name in names], color="tab:blue", width=0.5)
        right.bar_label(bars, fmt="%.1f")
        right.set_ylim(0, 110)
        right.set_xlim(-0.7, len(names) - 0.3)
        right.set_ylabel("top-1 of attention pooling, %")
        right.set_title(f"accuracy (verdict: {difference.verdict})", fontsize=10)

    return draw
