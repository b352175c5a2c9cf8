"""Charts as SVG: they scale, print and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.head.results import Score, SplitSummary
from pipeline.report.markup import Markup, el

LINES = ("#2f5fc4", "#c2571a", "#2b8a4b", "#8a3fa8", "#b0314f", "#4a6572")
# From this many classes on, names beside the matrix would be too small to read; hovering tells them.
MOST_NAMED = 40
# So many epochs have a mark each.
FEW_EPOCHS = 12


def intervals(summaries: Sequence[SplitSummary], chance: float) -> Markup:
    """Top-1 by split as a dot on its 95% interval; the dotted line is chance. From 0 to 100%."""
    width, row, left, right = 640, 34, 80, 86
    height = row * len(summaries) + 34

    def x(value: float) -> float:
        return left + value * (width - left - right)

    parts: list[Markup] = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(x(tick), 6, x(tick), height - 24, cls="grid"))
        parts.append(label(f"{tick:.0%}", x(tick), height - 8, anchor="middle"))
    parts.append(line(x(chance), 6, x(chance), height - 24, cls="chance"))
    for number, summary in enumerate(summaries):
        y = 6 + row * (number + 0.5)
        low, high = summary.interval
        parts += [
            label(f"split {summary.split}", left - 10, y + 4, anchor="end"),
            line(x(low), y, x(high), y, cls="interval"),
            line(x(low), y - 5, x(low), y + 5, cls="interval"),
            line(x(high), y - 5, x(high), y + 5, cls="interval"),
            el("circle", cx=f"{x(summary.top1):.1f}", cy=f"{y:.1f}", r=5, cls="dot"),
            label(f"{summary.top1:.1%}", width - right + 8, y + 4, cls="value"),
        ]
    return svg(width, height, "Top-1 by split with 95% intervals", parts)


def curves(scores: Sequence[Score]) -> Markup:
    """Training loss by epoch, a line a split and seed."""
    width, height, left, right, top, bottom = 640, 280, 52, 14, 12, 54
    losses = [score for score in scores if score.losses]
    longest = max(len(score.losses) for score in losses)
    values = [loss for score in losses for loss in score.losses]
    low, high = math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10
    span = (high - low) or 1.0

    def x(epoch: int) -> float:
        return left + (epoch - 1) / max(1, longest - 1) * (width - left - right)

    def y(loss: float) -> float:
        return top + (high - loss) / span * (height - top - bottom)

    parts: list[Markup] = []
    for step in range(5):
        loss = low + span * step / 4
        parts.append(line(left, y(loss), width - right, y(loss), cls="grid"))
        parts.append(label(f"{loss:.2f}", left - 6, y(loss) + 4, anchor="end"))
    quarters = (round(longest * share) for share in (0.25, 0.5, 0.75))
    ticks = range(1, longest + 1) if longest <= FEW_EPOCHS else sorted({1, longest, *quarters})
    parts += [label(str(epoch), x(epoch), height - 32, anchor="middle") for epoch in ticks]
    parts.append(label("epoch", (left + width - right) / 2, height - 8, anchor="middle"))
    splits = sorted({score.split for score in losses})
    for score in losses:
        colour = LINES[splits.index(score.split) % len(LINES)]
        points = " ".join(f"{x(epoch):.1f},{y(loss):.1f}" for epoch, loss in enumerate(score.losses, 1))
        title = el("title", f"split {score.split}, seed {score.seed}: {score.losses[-1]:.3f} at the end")
        parts.append(el("polyline", title, points=points, stroke=colour, cls="curve"))
    return svg(width, height, "Training loss by epoch", parts)


def curve_legend(scores: Sequence[Score]) -> Markup:
    """Which colour is which split."""
    splits = sorted({score.split for score in scores if score.losses})
    seeds = len({score.seed for score in scores})
    each = el("span", f"{seeds} seeds each") if seeds > 1 else None
    marks = [
        el("span", el("i", style=f"background:{LINES[n % len(LINES)]}"), f"split {split}")
        for n, split in enumerate(splits)
    ]
    return el("p", marks, each, cls="legend")


def matrix(confusion: np.ndarray, names: Sequence[str]) -> Markup:
    """The confusion matrix: rows are true classes, and a cell is as dark as the share of its row. Right ones are
    green, wrong ones red. Cells of nothing are not drawn; each of the others tells itself when it is pointed at."""
    count = len(names)
    named = count <= MOST_NAMED
    cell = max(6, min(34, 620 // count))
    # Letters are about 0.6 of their size wide; names above the columns lean to the right by 60 degrees.
    reach = 0.6 * min(12, cell) * max(len(short(name)) for name in names) + 12
    left, top, right = (reach, 0.87 * reach, 0.5 * reach) if named else (6, 6, 6)
    side = cell * count
    width, height = left + side + right, top + side + 6
    totals = confusion.sum(axis=1)
    parts = [el("rect", x=f"{left:g}", y=f"{top:g}", width=side, height=side, cls="empty")]
    for i, j in np.argwhere(confusion > 0).tolist():
        share = confusion[i, j] / totals[i]
        colour = f"hsl({145 if i == j else 6} {60 if i == j else 70}% {94 - 54 * share:.0f}%)"
        title = el("title", cell_text(names[i], names[j], confusion[i, j], totals[i]))
        parts.append(
            el(
                "rect",
                title,
                x=f"{left + j * cell:g}",
                y=f"{top + i * cell:g}",
                width=cell,
                height=cell,
                fill=colour,
                data_i=i,
                data_j=j,
            )
        )
    if named:
        size = min(12, cell)
        for i, name in enumerate(names):
            middle = (i + 0.5) * cell
            parts.append(label(short(name), left - 6, top + middle + size * 0.35, anchor="end", font_size=size))
            turned = f"translate({left + middle + size * 0.35:.1f} {top - 6}) rotate(-60)"
            parts.append(el("text", short(name), transform=turned, font_size=size))
    return svg(
        width,
        height,
        "Confusion matrix",
        parts,
        id="matrix",
        data_left=f"{left:g}",
        data_top=f"{top:g}",
        data_cell=cell,
    )


def short(name: str) -> str:
    """A name that fits beside the matrix."""
    return name if len(name) <= 20 else name[:19] + "…"


def cell_text(truth: str, predicted: str, videos: float, total: float) -> str:
    """What a cell of the matrix says."""
    verb = "recognised" if truth == predicted else f"taken for {predicted}"
    return f"{truth} {verb}: {videos:g} of {total:g} ({videos / total:.0%})"


def line(x1: float, y1: float, x2: float, y2: float, *, cls: str) -> Markup:
    """A line between two points, in pixels; ``cls`` is its class of style."""
    return el("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", cls=cls)


def label(text: str, x: float, y: float, *, anchor: str = "start", **attributes: object) -> Markup:
    """Text at a point, in pixels."""
    return el("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **attributes)


def svg(width: float, height: float, name: str, parts: Sequence[Markup], **attributes: object) -> Markup:
    """A picture of some size in pixels, which shrinks with its column; ``name`` is read to those who do not see it."""
    return el(
        "svg",
        parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=name,
        style=f"max-width:{width:g}px;--width:{width:g}px",
        **attributes,
    )
