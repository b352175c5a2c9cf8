"""One picture of frame weights over the frames that hold the action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.figure import RIGHT, Strip
from pipeline.files import put_file

_COLOURS = ("#8b93a1", "#3b6fd4", "tab:orange")
_CELL = 1.5  # inches: the width of a frame


def draw_focus(strips: Sequence[Strip], weights: Mapping[str, np.ndarray], inside: np.ndarray, out: Path) -> None:
    """Draw N videos below each other into one PNG: T frames each, those inside of the action framed, and below each
    frame its weight for the true class, a bar for each head.

    weights  by name of the head, [N, T], rows sum to 1
    inside   bool [N, T]: which frames hold the action
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    count = inside.shape[1]
    figure = plt.figure(figsize=(_CELL * count, 2.7 * len(strips)), layout="constrained")
    try:
        parts = figure.subfigures(len(strips), 1, squeeze=False)[:, 0]
        for number, (part, strip) in enumerate(zip(parts, strips, strict=True)):
            grid = part.add_gridspec(2, count, height_ratios=(1.5, 1))
            part.suptitle(strip.title, fontsize=9, x=0.01, ha="left", parse_math=False)
            for column in range(count):
                _draw_frame(part.add_subplot(grid[0, column]), strip, column, bool(inside[number, column]))
            axis = part.add_subplot(grid[1, :])
            _draw_weights(axis, {name: found[number] for name, found in weights.items()}, inside[number])
        put_file(out, lambda path: figure.savefig(path, dpi=110, format="png"))
    finally:
        plt.close(figure)


def _draw_frame(axis: Any, strip: Strip, column: int, inside: bool) -> None:
    if strip.pictures is not None:
        axis.imshow(strip.pictures[column])
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{strip.times[column]:.2f} s", fontsize=7, pad=2)
    for spine in axis.spines.values():
        spine.set(color=RIGHT if inside else "#d5d8de", linewidth=3 if inside else 1)


def _draw_weights(axis: Any, weights: Mapping[str, np.ndarray], inside: np.ndarray) -> None:
    count, width = len(inside), 0.8 / len(weights)
    for column in np.flatnonzero(inside):
        axis.axvspan(column - 0.5, column + 0.5, color=RIGHT, alpha=0.12, linewidth=0)
    for number, (name, found) in enumerate(weights.items()):
        place = np.arange(count) + (number - (len(weights) - 1) / 2) * width
        label = f"{name}: {found[inside].sum():.0%} inside"
        axis.bar(place, found, width=width, color=_COLOURS[number % len(_COLOURS)], label=label)
    axis.axhline(1 / count, color="#8b93a1", linewidth=0.7, linestyle=":")
    axis.set(xlim=(-0.5, count - 0.5), xticks=[])
    axis.tick_params(labelsize=7)
    axis.set_ylabel("weight", fontsize=8)
    axis.set_ylim(0, 1.35 * max(found.max() for found in weights.values()))
    axis.legend(fontsize=7, loc="upper right", ncols=len(weights), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
