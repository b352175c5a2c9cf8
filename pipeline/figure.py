"""Pictures of videos as a store knows them: their frames with skeletons and boxes, the heatmap on the token grid, and
what a head says of them. Everything that is drawn comes in a ``Strip``; nothing here reads a store."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.files import put_file
from stages.geometry import crop_of, to_view
from stages.pose.coco import COCO_LIMBS

COLOURS = ("tab:orange", "tab:cyan", "tab:pink", "tab:olive")
RIGHT, WRONG, OTHER = "#1a7f37", "#b42318", "#8b93a1"
MAX_STRIPS = 48  # that fit into one picture, whatever their proportions
FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Hiragino Sans GB", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "Noto Emoji", "Symbola"),
)
_CELL, _PANEL = 1.6, 3.0  # inches: the width of a frame, and that of the class scores


@dataclass(frozen=True)
class View:
    """What a CLIP model sees of a frame: the name of the view, the side S of its input in pixels, the side G of its
    token grid (0: no tokens) and the spread of a joint on that grid, in cells."""

    name: str
    size: int
    grid: int
    sigma: float = 0.7


@dataclass(frozen=True)
class Verdict:
    """What a head says of a video: its best classes with scores in [0, 1], the true one where it is known, and how much
    each of the T frames weighs in the score of ``weighed`` (float [T], sums to 1; None where the head weighs none)."""

    classes: tuple[tuple[str, float], ...]
    truth: str | None = None
    weighed: str = ""
    weights: np.ndarray | None = None

    @property
    def right(self) -> bool | None:
        return None if self.truth is None else self.classes[0][0] == self.truth


@dataclass(frozen=True)
class Strip:
    """T frames of one video.

    size       width and height of a frame, in pixels
    times      seconds, float [T]
    pictures   uint8 [T, H, W, 3]; None where they cannot be had, and then ``note`` says why
    keypoints  float [T, P, 17, 3], fractions of the frame and confidence; None without pose
    boxes      float [T, P, 5], fractions of the frame and score; None without pose
    shares     float [P], how much each person counts in the heatmaps; None: all alike
    view       None without CLIP features
    """

    title: str
    size: tuple[int, int]
    times: np.ndarray
    pictures: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    boxes: np.ndarray | None = None
    shares: np.ndarray | None = None
    view: View | None = None
    verdict: Verdict | None = None
    note: str = ""

    @property
    def heatmapped(self) -> bool:
        return self.keypoints is not None and self.view is not None and self.view.grid > 0


def draw_strips(strips: Sequence[Strip], out: Path | BinaryIO, *, dpi: int = 110, format: str = "png") -> None:
    """Draw strips below each other into one picture; a row of frames each, a row of views with their heatmap where
    there are both, bars for the weights of frames and scores of classes where there is a verdict."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    heights = [(0.45 if strip.title else 0.2) + sum(_rows(strip).values()) for strip in strips]
    width = max(_CELL * len(strip.times) + (_PANEL if strip.verdict else 0.3) for strip in strips)
    with mpl.rc_context({"font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
        try:
            parts = figure.subfigures(len(strips), 1, height_ratios=heights, squeeze=False)[:, 0]
            for part, strip in zip(parts, strips, strict=True):
                _draw(part, strip)
            if isinstance(out, Path):
                put_file(out, lambda path: figure.savefig(path, dpi=dpi, format=format))
            else:
                figure.savefig(out, dpi=dpi, format=format)
        finally:
            plt.close(figure)


def _families() -> list[str]:
    """Matplotlib's own font, and those of this machine that have the scripts which it lacks."""
    from matplotlib.font_manager import get_font_names

    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in get_font_names())]


def printable(text: str, limit: int = 90) -> str:
    """``text`` on one line, without control characters, not longer than ``limit``."""
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _rows(strip: Strip) -> dict[str, float]:
    """Rows of a strip and their heights in inches."""
    width, height = strip.size
    rows = {"frames": _CELL * min(max(height / width, 0.4), 2.0)}
    if strip.heatmapped:
        rows["views"] = _CELL
    if strip.verdict is not None and strip.verdict.weights is not None:
        rows["weights"] = 0.5
    return rows


def _draw(part: Any, strip: Strip) -> None:
    rows, count = _rows(strip), len(strip.times)
    panel = [_PANEL / _CELL] if strip.verdict else []
    grid = part.add_gridspec(
        len(rows), count + len(panel), height_ratios=list(rows.values()), width_ratios=[1.0] * count + panel
    )
    title = printable(strip.title) + (f"   {printable(strip.note, 140)}" if strip.note else "")
    if title:
        part.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    for row, name in enumerate(rows):
        if name == "weights":
            _draw_weights(part.add_subplot(grid[row, :count]), strip)
            continue
        for column in range(count):
            axis = part.add_subplot(grid[row, column])
            (_draw_frame if name == "frames" else _draw_view)(axis, strip, column)
            axis.set(xticks=[], yticks=[])
            if column == 0 and name == "views" and strip.view is not None:
                axis.set_ylabel(f"{strip.view.name}, {strip.view.grid} x {strip.view.grid}", fontsize=8)
    if strip.verdict:
        _draw_classes(part.add_subplot(grid[:, count]), strip.verdict)


def _draw_frame(axis: Any, strip: Strip, column: int) -> None:
    width, height = strip.size
    if strip.pictures is not None:
        # Stored frames may be smaller than the source; one coordinate system serves both.
        axis.imshow(strip.pictures[column], extent=(0, width, height, 0))
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", facecolor="#20242c")
    axis.set_title(f"{strip.times[column]:.2f} s", fontsize=7, pad=2)
    if strip.keypoints is not None:
        _draw_persons(axis, strip.keypoints[column] * (width, height, 1))
    if strip.boxes is not None:
        for box, colour in zip(strip.boxes[column], COLOURS, strict=False):
            if box[4] > 0:
                left, top, right, bottom = box[:4] * (width, height, width, height)
                corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
                axis.plot(*corners.T, color=colour, linewidth=0.8, linestyle="--")


def _draw_view(axis: Any, strip: Strip, column: int) -> None:
    import torch

    from stages.heatmap import render

    assert strip.view is not None
    assert strip.keypoints is not None
    view = strip.view
    if strip.pictures is not None:
        axis.imshow(view_of(strip.pictures[column], view), extent=(0, 1, 1, 0))
    points = torch.from_numpy(np.array(strip.keypoints[column], dtype=np.float32))
    points[..., :2] = to_view(points[..., :2], view.name, *strip.size, view.size)
    if strip.shares is not None:
        points[..., 2] *= torch.from_numpy(strip.shares)[:, None]
    heatmap = render(points, view.grid, sigma=view.sigma).numpy()
    axis.imshow(heatmap, extent=(0, 1, 1, 0), cmap="inferno", alpha=0.55, vmin=0, vmax=1)


def _draw_weights(axis: Any, strip: Strip) -> None:
    assert strip.verdict is not None
    weights = strip.verdict.weights
    assert weights is not None
    places = np.arange(len(weights))
    axis.bar(places, weights, width=0.9, color="#3b6fd4")
    axis.axhline(1 / len(weights), color=OTHER, linewidth=0.7, linestyle=":")
    for place, weight in zip(places, weights, strict=True):
        axis.text(place, weight, f"{weight:.0%}", ha="center", va="bottom", fontsize=7)
    axis.set(xlim=(-0.5, len(weights) - 0.5), ylim=(0, max(weights.max() * 1.5, 0.01)), xticks=[], yticks=[])
    axis.set_ylabel("weight", fontsize=8)
    label = f"weight of each frame for {printable(strip.verdict.weighed, 40)!r}"
    axis.set_xlabel(label, fontsize=7, parse_math=False)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _draw_classes(axis: Any, verdict: Verdict) -> None:
    names = [printable(name, 26) for name, _ in verdict.classes]
    scores = [score for _, score in verdict.classes]
    places = np.arange(len(names))[::-1]
    miss = OTHER if verdict.truth is None else WRONG
    colours = [RIGHT if name == verdict.truth else OTHER for name, _ in verdict.classes]
    if verdict.right is not True:
        colours[0] = miss if verdict.truth is not None else "#3b6fd4"
    axis.barh(places, scores, color=colours, height=0.3)
    most = max(scores) * 1.1
    for place, name, score in zip(places, names, scores, strict=True):
        axis.text(most / 90, place + 0.2, name, ha="left", va="bottom", fontsize=8, parse_math=False)
        # On its own, since a name that is written from the right would take it to its other side.
        axis.text(most, place + 0.2, f"{score:.1%}", ha="right", va="bottom", fontsize=8)
    if verdict.truth is not None:
        word = "right" if verdict.right else "wrong"
        line = f"{word}: it is {printable(verdict.truth, 28)}"
        axis.set_title(line, fontsize=8, color=RIGHT if verdict.right else WRONG, loc="left", parse_math=False)
    axis.set(xlim=(0, most), ylim=(-0.6, len(names) - 0.2), xticks=[], yticks=[])
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def view_of(picture: np.ndarray, view: View) -> np.ndarray:
    """What a view shows of a frame: uint8 [S, S, 3]."""
    import cv2

    crop = crop_of(view.name, picture.shape[1], picture.shape[0], view.size)
    resized = cv2.resize(picture, (crop.width, crop.height), interpolation=cv2.INTER_AREA)
    cut = resized[crop.top : crop.top + view.size, crop.left : crop.left + view.size]
    return cut[:, ::-1] if crop.mirrored else cut


def _draw_persons(axis: Any, persons: np.ndarray) -> None:
    """Limbs of persons [P, 17, 3] in pixels, the fainter the less sure; joints without confidence are left out."""
    for person, colour in zip(persons, COLOURS, strict=False):
        seen = person[person[:, 2] > 0]
        if not len(seen):
            continue
        for start, end in COCO_LIMBS:
            if person[start, 2] > 0 and person[end, 2] > 0:
                sure = float(person[[start, end], 2].min().clip(0, 1))
                axis.plot(*person[[start, end], :2].T, color=colour, linewidth=1.2, alpha=0.15 + 0.85 * sure)
        alphas = 0.15 + 0.85 * seen[:, 2].clip(0, 1)
        axis.scatter(seen[:, 0], seen[:, 1], s=3, color="white", zorder=3, linewidths=0, alpha=alphas)
