"""What was measured, beside the least that it could have taken: as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.benchmarks.figure import figures
from pipeline.benchmarks.gpu.base import Row
from pipeline.benchmarks.gpu.ceilings import Ceilings

NOTES = (
    "All models have random weights of real size: speed does not depend on what weights say.",
    "Seconds are the median of the repeats after warm-up, by the device's own clock; where results end on the host, by "
    "the host's. The spread is the fastest and the slowest repeat.",
    "Floors are operations over the measured rate of matrix products in that precision, bytes through the device's "
    "memory over its measured bandwidth, and bytes from the host over the measured bandwidth of pinned copies. The "
    "share is of the ceiling of matrix products: the floor of operations over the seconds.",
)
NO_GPU = "This was a CPU: the figures show that the benchmark runs, and nothing else."


@dataclass(frozen=True)
class PartResult:
    """One part: its rows, and what ended it before it was through, if anything did."""

    name: str
    rows: tuple[Row, ...]
    seconds: float
    budget: float
    problem: str = ""


@dataclass(frozen=True)
class Aim:
    """What was wanted of a figure, and what was found; None where it was not measured."""

    what: str
    wanted: float
    found: float | None
    met: bool | None


@dataclass(frozen=True)
class GpuReport:
    """All parts, where they were measured, and what the device can do."""

    device: dict[str, Any]
    parts: tuple[PartResult, ...]
    seconds: float

    @property
    def ceilings(self) -> Ceilings:
        return Ceilings.of(row for part in self.parts for row in part.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        return NOTES if self.device["type"] == "cuda" else (NO_GPU, *NOTES)

    @property
    def aims(self) -> tuple[Aim, ...]:
        rows = [row for part in self.parts for row in part.rows if row.seconds]
        shares = [share_of_ceiling(row, self.ceilings) for row in rows if row.group == "CLIP ViT-L-14"]
        share = max((found for found in shares if found is not None), default=None)
        studies = (row.median for row in rows if row.group.startswith("head pvcs:") and row.name.startswith("3 splits"))
        seconds = next(studies, None)
        return (
            Aim("ViT-L-14, share of the ceiling, at least", 0.6, share, None if share is None else share >= 0.6),
            Aim("pvcs study, s, at most", 10.0, seconds, None if seconds is None else seconds <= 10),
        )

    @property
    def problems(self) -> list[str]:
        """What was not measured, and why, a line each."""
        found = []
        for part in self.parts:
            found += [f"{row.group}: {row.name}: {row.problem}" for row in part.rows if row.problem]
            found += [f"{part.name}: {part.problem}"] if part.problem else []
        return found

    def to_dict(self) -> dict[str, Any]:
        ceilings = self.ceilings
        return {
            "device": self.device,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "ceilings": ceilings.to_dict(),
            "aims": [asdict(aim) for aim in self.aims],
            "parts": [
                {
                    "name": part.name,
                    "seconds": part.seconds,
                    "budget": part.budget,
                    "problem": part.problem,
                    "groups": [_group_dict(group, rows, ceilings) for group, rows in groups(part.rows)],
                }
                for part in self.parts
            ],
            "problems": self.problems,
        }

    def table(self) -> str:
        """Text of at most 160 columns or so."""
        lines = [" ".join(f"{name} {value}" for name, value in self.device.items()), *self.notes]
        ceilings = self.ceilings
        for part in self.parts:
            for group, rows in groups(part.rows):
                best = fastest(rows)
                lines += ["", group, *(f"  {_line(row, ceilings, row is best)}" for row in rows)]
        lines += ["", "aims:"]
        for aim in self.aims:
            found = "not measured" if aim.found is None else f"{_figure(aim.found)}, {'met' if aim.met else 'missed'}"
            lines.append(f"  {aim.what} {aim.wanted:g}: {found}")
        if self.problems:
            lines += ["", "not measured:", *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines) + "\n"


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of the same group together, in the order in which groups first appear."""
    for group in dict.fromkeys(row.group for row in rows):
        yield group, [row for row in rows if row.group == group]


def fastest(rows: Sequence[Row]) -> Row | None:
    """Of several ways that do the same work, the one of the highest rate; None where there is nothing to compare."""
    timed = [row for row in rows if row.seconds]
    return max(timed, key=lambda row: row.rate) if len(timed) > 1 and len({row.unit for row in timed}) == 1 else None


def share_of_ceiling(row: Row, ceilings: Ceilings) -> float | None:
    """Of the measured rate of matrix products in the row's precision, how much it reached: 1 is all of it."""
    floor = ceilings.floors(row.need)["operations"]
    return floor / row.median if floor is not None and row.seconds else None


def _group_dict(group: str, rows: Sequence[Row], ceilings: Ceilings) -> dict[str, Any]:
    best = fastest(rows)
    return {"name": group, "fastest": best.name if best else None, "rows": [_row_dict(row, ceilings) for row in rows]}


def _row_dict(row: Row, ceilings: Ceilings) -> dict[str, Any]:
    derived: dict[str, Any] = {}
    if row.seconds:
        derived = {
            "median_seconds": row.median,
            "rate": row.rate,
            "floor_seconds": ceilings.floors(row.need),
            "share_of_ceiling": share_of_ceiling(row, ceilings),
        }
    return {**row.to_dict(), **derived}


def _line(row: Row, ceilings: Ceilings, best: bool) -> str:
    name = f"{'*' if best else ' '} {row.name}"
    columns = ", ".join(f"{column} {_figure(value)}" for column, value in row.columns.items())
    if row.problem:
        return f"{name:<62} {row.problem}"
    if not row.seconds:
        return f"{name:<62} {columns}"
    parts = [
        f"{_scaled(row.rate):>8} {row.unit}/s",
        f"{_ms(row.median)} ms ({_ms(min(row.seconds))} to {_ms(max(row.seconds))})",
    ]
    floors = {kind: f"{_ms(floor)} {kind}" for kind, floor in ceilings.floors(row.need).items() if floor is not None}
    parts += [f"floors, ms: {', '.join(floors.values())}"] if floors else []
    share = share_of_ceiling(row, ceilings)
    parts += [f"{100 * share:.0f}% of the ceiling"] if share is not None else []
    return f"{name:<62} {'; '.join(filter(None, (*parts, columns)))}"


def _ms(seconds: float) -> str:
    return _figure(1000 * seconds)


def _figure(value: float) -> str:
    return figures(value) if value < 1 or value >= 100 else f"{value:.4g}"


def _scaled(rate: float) -> str:
    """With a prefix from thousands of millions on."""
    for prefix, unit in (("T", 1e12), ("G", 1e9)):
        if rate >= unit:
            return f"{rate / unit:.4g} {prefix}"
    return figures(rate)
