"""A bar chart of all ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.benchmarks.base import Comparison
from pipeline.files import put_file

OURS, THEIRS = "#2a6f97", "#b7bec8"


def figures(value: float) -> str:
    """A positive number with about three figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_ratios(comparisons: Sequence[Comparison], machine: str, path: Path) -> None:
    """One panel a comparison, one bar a way: how many times faster than the plain way, with the spread over rounds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    heights = [len(comparison.rows) + 1.2 for comparison in comparisons]
    figure, axes = plt.subplots(
        len(comparisons),
        1,
        figsize=(9, 0.9 + 0.36 * sum(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
        squeeze=False,
    )
    for axis, comparison in zip(axes[:, 0], comparisons, strict=True):
        ratios = [row.ratio for row in comparison.rows]
        low = [max(0.0, row.ratio - row.ratio_range[0]) for row in comparison.rows]
        high = [max(0.0, row.ratio_range[1] - row.ratio) for row in comparison.rows]
        names = [row.name for row in comparison.rows]
        colours = [OURS if name.startswith("ours") else THEIRS for name in names]
        bars = axis.barh(names, ratios, color=colours)
        if any(len(row.rounds) > 1 for row in comparison.rows):
            axis.errorbar(ratios, names, xerr=(low, high), fmt="none", ecolor="black", elinewidth=1, capsize=2)
        labels = [f"{row.ratio:.2f}x   {figures(row.rate)} {row.unit}/s" for row in comparison.rows]
        # Beside the whisker, not on it.
        ends = [ratio + end for ratio, end in zip(ratios, high, strict=True)]
        for bar, label, end in zip(bars, labels, ends, strict=True):
            axis.annotate(
                label,
                (end, bar.get_y() + bar.get_height() / 2),
                (5, 0),
                textcoords="offset points",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        axis.axvline(1, color="black", lw=0.8, zorder=0)
        axis.set_xlim(0, 1.45 * max(ends))
        axis.invert_yaxis()
        axis.set_title(comparison.title, loc="left", fontsize=11, fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Times faster than the plain way, or than the first row (line: 1). Random weights.\n{machine}",
        fontsize=9,
        x=0.5,
    )
    put_file(path, lambda fresh: figure.savefig(fresh, dpi=110, format="png"))
    plt.close(figure)
