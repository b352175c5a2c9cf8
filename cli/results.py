"""What ``train-head`` and ``evaluate`` print of their results for people: a line a fact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from store.printable import command

if TYPE_CHECKING:
    from pipeline.head import FewShotResult, RunResult, ZeroShotResult
    from pipeline.head.late import LateResult
    from pipeline.head.results import SplitSummary


def run_lines(result: RunResult, *, evaluated: bool = False) -> Iterator[str]:
    """Of a run, as it was trained or, ``evaluated``, as it was tested again."""
    for summary in result.summaries:
        yield f"split {summary.split}: {_figures(summary)}"
    low, high = result.interval
    yield (
        f"mean of splits: top-1 {result.top1:.1%} (95% interval {low:.1%} to {high:.1%}); chance is {result.chance:.1%}"
    )
    for split, tuning in result.tuning.items():
        chosen = {name: value for name, value in tuning["chosen"].items() if value != getattr(result.training, name)}
        what = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "the settings that were given"
        yield f"tuned on {tuning['validation_videos']} training videos of split {split}: {what}"
    for warning in result.warnings:
        yield f"note: {warning}"
    if result.reproduced is not None:
        yield f"predictions equal those of the run to the bit: {'yes' if result.reproduced else 'no'}"
    yield f"table: {result.table_line}"
    if result.directory is not None:
        yield f"run: {result.directory}"
        if not evaluated:
            yield f"next: {command('evaluate', '--run', str(result.directory))}"


def zero_shot_lines(found: ZeroShotResult) -> Iterator[str]:
    """Of a test without training on the classes."""
    learnt = f"learnt on {found.trained_on}, {found.heads} heads" if found.trained_on else "untrained"
    yield f"zero-shot on {found.dataset}: head {found.head}, {learnt}"
    for summary in found.splits:
        yield f"test videos of split {summary.split}, {found.classes} classes: {_figures(summary)}"
    low, high = found.everything["interval"]
    yield (
        f"all {found.videos} videos, {found.classes} classes: top-1 {found.everything['top1']:.1%} "
        f"(95% interval {low:.1%} to {high:.1%})"
    )
    if half := found.to_dict()["half_mean"]:
        yield (
            f"half of the classes ({half['classes']}), {len(found.half)} draws: top-1 {half['top1']:.1%}, "
            f"standard deviation {half['std']:.1%}"
        )
    for warning in found.warnings:
        yield f"note: {warning}"


def few_shot_lines(few: FewShotResult) -> Iterator[str]:
    """Of a head trained again on few videos a class."""
    for row in few.rows:
        intervals = ", ".join("{:.1%} to {:.1%}".format(*split["interval"]) for split in row["splits"])
        yield f"{row['shots']} videos a class: top-1 {row['top1']:.1%} (95% interval by split: {intervals})"
    for warning in few.warnings:
        yield f"note: {warning}"


def late_lines(found: LateResult, out: str | None = None) -> Iterator[str]:
    """Of a late fusion, which is kept in the folder ``out``, or not at all."""
    yield f"late fusion on {found.dataset}: {found.head} with {found.other}"
    for split in found.splits:
        yield (
            f"split {split.split}: weight {split.weight:g}, chosen on {split.validation_videos} training videos of "
            f"{split.validation_sources} sources ({split.folds} {'folds' if split.folds > 1 else 'fold'}); "
            f"{split.videos} test videos"
            + (f", of which {split.lacking} have no other scores and keep the head's" if split.lacking else "")
        )
        for name in ("head", "other", "fused"):
            row = getattr(split, name)
            yield ("  {}: top-1 {:.1%} (95% interval {:.1%} to {:.1%})".format(name, row["top1"], *row["interval"]))
    for name, gain in found.gains.items():
        yield (
            "gain of both over the {} alone: {:+.1f} points (95% interval {:+.1f} to {:+.1f}): {}".format(
                name, *(100 * gain[key] for key in ("gain", "low", "high")), gain["verdict"]
            )
        )
    for warning in found.warnings:
        yield f"note: {warning}"
    if out is not None:
        yield f"next: {command('predict', 'VIDEO', '--run', out)}"


def _figures(summary: SplitSummary) -> str:
    low, high = summary.interval
    return (
        f"top-1 {summary.top1:.1%} (95% interval {low:.1%} to {high:.1%}), top-5 {summary.top5:.1%}, "
        f"mean class {summary.mean_class:.1%}"
    )
