"""What a study found, and how it is written down: ``<study>.json``, ``<study>.md`` and ``<study>.png``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import check_directory, free_path, put_file
from pipeline.studies.verdict import MARGIN, Gain
from store.errors import UnwrittenError, UsageError

Cell = str | int | float | None


@dataclass(frozen=True)
class Report:
    """The answer of a study.

    verdict    ``helps``, ``equivalent within 0.5 points`` or ``inconclusive``
    sentences  the verdict in words
    columns    of the table, ``rows`` are its cells
    details    figures behind the table, as plain JSON values
    settings   all that is needed to repeat it
    warnings   what a reader has to know
    draw       draws the picture into a matplotlib figure
    """

    study: str
    question: str
    verdict: str
    sentences: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    details: Mapping[str, Any]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    draw: Callable[[Any], None]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "vilp-study",
            "version": 1,
            "study": self.study,
            "question": self.question,
            "verdict": self.verdict,
            "sentences": list(self.sentences),
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "details": dict(self.details),
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "files": dict(self.files),
        }

    @property
    def markdown(self) -> str:
        lines = [
            f"# Study: {self.study}",
            "",
            self.question,
            "",
            f"**Verdict: {self.verdict}.** {self.sentences[0]}",
            "",
        ]
        for sentence in self.sentences[1:]:
            lines += [sentence, ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns)), *(_line(row) for row in self.rows), ""]
        lines += [f"* Note: {warning}" for warning in self.warnings]
        return "\n".join([*lines, "", f"{self.study}.json beside this file holds all settings and figures.", ""])


def write_report(report: Report, folder: Path) -> Report:
    """Write table, picture and verdict; returns the report with the paths of its files by kind. Raises
    ``UnwrittenError``, which has the report, where they cannot be written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    report.draw(figure)
    paths = {kind: folder / f"{report.study}.{kind}" for kind in ("json", "md", "png")}
    written = Report(**{**vars(report), "files": {kind: str(path) for kind, path in paths.items()}})
    text = json.dumps(_plain(written.to_dict()), indent=2, allow_nan=False)
    try:
        put_file(paths["png"], lambda path: figure.savefig(path, dpi=120, format="png"))
        put_file(paths["md"], lambda path: path.write_text(written.markdown))
        put_file(paths["json"], lambda path: path.write_text(text + "\n"))
    except UnwrittenError as error:
        error.result = report
        raise
    return written


def free_folder(store: str, study: str) -> Path:
    """The first free one of ``studies/<store>-<study>``, ``studies/<store>-<study>-2``, ..."""
    return free_path(Path("studies") / f"{Path(store).name}-{study}")


def check_folder(folder: Path, study: str) -> Path:
    """Raise ``UsageError`` where a report cannot go into ``folder``: before hours of work, not after."""
    check_directory("out", folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / f"{study}.json").is_file():
        raise UsageError(f"out is {folder}, which is not empty and holds no study {study}; name another directory")
    return folder


def percent(value: float | None) -> str:
    """A share in [0, 1] as per cent; nothing for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.1%}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def gain_cells(found: Gain) -> tuple[str, str, str]:
    """Gain in points, its interval, and the verdict."""
    return points(found.gain), f"{points(found.low)} to {points(found.high)}", found.verdict


def draw_gains(gains: Mapping[str, Gain], title: str, label: str) -> Callable[[Any], None]:
    """A picture of gains with their intervals, one below the other; the band is what counts as equivalent."""

    def draw(figure: Any) -> None:
        figure.set_size_inches(7.5, 1.6 + 0.36 * len(gains))
        axis = figure.add_subplot()
        axis.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.88", label="equivalent")
        axis.axvline(0, color="0.4", linewidth=0.8)
        for row, found in enumerate(gains.values()):
            colour = "tab:green" if found.low > 0 else "tab:red" if found.high < 0 else "tab:blue"
            axis.plot([100 * found.low, 100 * found.high], [row, row], color=colour, linewidth=2)
            axis.plot(100 * found.gain, row, "o", color=colour, markersize=6)
        # Where no answer differs, the interval may be as wide as everything: it leaves the picture on both sides.
        known = [found for found in gains.values() if found.gain or found.low != -found.high]
        if known:
            low, high = min(-MARGIN, *(g.low for g in known)), max(MARGIN, *(g.high for g in known))
            margin = 0.05 * (high - low)
            axis.set_xlim(100 * (low - margin), 100 * (high + margin))
        axis.set_yticks(range(len(gains)), list(gains))
        axis.set_ylim(len(gains) - 0.5, -0.5)
        axis.set_xlabel(label)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)

    return draw


def draw_intervals(axis: Any, gains: Mapping[str, Gain]) -> None:
    """Gains from left to right, each with its interval."""
    middle = [100 * found.gain for found in gains.values()]
    below = [100 * (found.gain - found.low) for found in gains.values()]
    above = [100 * (found.high - found.gain) for found in gains.values()]
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.errorbar(range(len(gains)), middle, yerr=[below, above], fmt="o", capsize=4)
    axis.set_xticks(range(len(gains)), list(gains))
    axis.set_xlim(-0.5, len(gains) - 0.5)


def _line(cells: Sequence[Cell]) -> str:
    texts = ["" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c).replace("|", "\\|") for c in cells]
    return f"| {' | '.join(texts)} |"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
