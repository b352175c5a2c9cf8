"""Benchmarks: ours beside what one would write otherwise, in one run on the same clips.

A part is a module with ``run(config, clips, folder, progress)``, which gives comparisons; ``PARTS`` lists them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.benchmarks.base import BenchmarkConfig, Comparison
from pipeline.files import check_directory, put_file
from pipeline.progress import Progress
from store.errors import UnwrittenError, one_of

if TYPE_CHECKING:
    from pipeline.benchmarks.clips import ClipSet
    from pipeline.benchmarks.machine import Machine

__all__ = ["PARTS", "QUICK", "BenchmarkConfig", "Comparison", "Report", "run_benchmarks"]

PARTS = ("decode", "clip", "pose", "extract", "store", "head", "scale", "growth")
QUICK = BenchmarkConfig(
    videos=8,
    rounds=1,
    steady_clips=64,
    models=("ViT-B-32",),
    store_videos=512,
    train=714,
    test=306,
    seeds=1,
    units=100,
    growth_videos=128,
)
RANDOM_WEIGHTS = "All models have random weights of real size: speed does not depend on what weights say."


@dataclass(frozen=True)
class Report:
    """Comparisons, where they were measured, and the files that were written.

    ``load_after`` is the load a core at the end, which the benchmark itself brings to about 1.
    """

    machine: Machine
    comparisons: tuple[Comparison, ...]
    seconds: float
    load_after: float
    table: Path
    picture: Path

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know before the figures."""
        loads = f"Load a core before and after: {self.machine.load:.1f} and {self.load_after:.1f}"
        busy = self.machine.load > 0.5
        return (RANDOM_WEIGHTS, f"{loads}{', so something else was running: trust ratios only' if busy else ''}.")

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": {**self.machine.to_dict(), "load_after": self.load_after},
            "seconds": self.seconds,
            "notes": list(self.notes),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "picture": str(self.picture),
        }


def run_benchmarks(
    names: Sequence[str] = PARTS,
    *,
    out: Path,
    config: BenchmarkConfig | None = None,
    clips: ClipSet | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the named parts and write ``benchmark.json`` and ``benchmark.png`` into ``out``, anew after every part.

    clips  default: UCF101 of ``$VILP_SHARED`` or ``../shared`` where it is there, else the synthetic set, rendered for
           the purpose

    Raises ``UsageError`` for a name that is no part.
    """
    names = names or PARTS
    for name in names:
        one_of("benchmark", name, PARTS)
    config, progress = config or BenchmarkConfig(), progress or Progress()
    check_directory("out", out)
    out.mkdir(parents=True, exist_ok=True)
    from pipeline.benchmarks.clips import find_clips
    from pipeline.benchmarks.machine import describe_machine, load_per_core

    began = time.monotonic()
    machine = describe_machine()
    progress.note(machine.line)
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="vilp-benchmark-") as temporary:
        clips = clips or find_clips(config.videos, Path(temporary) / "videos")
        for name in dict.fromkeys(names):
            folder = Path(temporary) / name
            folder.mkdir()
            comparisons += import_module(f"pipeline.benchmarks.{name}").run(config, clips, folder, progress)
            report = _write(out, machine, comparisons, time.monotonic() - began, load_per_core())
    return report


def _write(out: Path, machine: Machine, comparisons: Sequence[Comparison], seconds: float, load: float) -> Report:
    """The table and the picture of the parts so far: a long run that is cut short leaves what it has measured."""
    from pipeline.benchmarks.figure import draw_ratios

    report = Report(machine, tuple(comparisons), seconds, load, out / "benchmark.json", out / "benchmark.png")
    text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
    try:
        draw_ratios(comparisons, machine.line, report.picture)
        put_file(report.table, lambda path: path.write_text(text + "\n"))
    except UnwrittenError as error:
        error.result = report
        raise
    return report
