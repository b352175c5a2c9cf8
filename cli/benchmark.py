"""``vilp-pipe benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, make_progress, only_result_on_stdout, say, shown_anyway
from cli.options import Json

if TYPE_CHECKING:
    from pipeline.benchmarks import Comparison, Report

Opt = typer.Option


@app.command()
def benchmark(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="decode, clip, pose, extract, store, head, scale, growth (default: all)."
        ),
    ] = None,
    out: Annotated[Path, Opt(help="Folder for benchmark.json and benchmark.png.")] = Path("benchmark-results"),
    videos: Annotated[int | None, Opt(help="Clips to decode and to extract (default: 24).")] = None,
    store_videos: Annotated[
        int | None, Opt(help="Videos of made-up features to store and read (default: 6766, 5.5 GB a format).")
    ] = None,
    quick: Annotated[bool, Opt("--quick", help="Less of everything, once: a look, not a measurement.")] = False,
    json: Json = False,
) -> None:
    """Time decoding, CLIP, pose, the whole extraction and head training against plain scripts on the same clips, and
    see how the engines scale
    and how costs grow.

    \b
      vilp-pipe benchmark
      vilp-pipe benchmark decode clip --quick
    """
    with only_result_on_stdout() as print_result:
        from dataclasses import replace

        from pipeline.benchmarks import QUICK, BenchmarkConfig, run_benchmarks

        config = QUICK if quick else BenchmarkConfig()
        if videos is not None:
            config = replace(config, videos=videos)
        if store_videos is not None:
            config = replace(config, store_videos=store_videos)
        with shown_anyway(_show):
            report = run_benchmarks(names or (), out=out, config=config, progress=make_progress())
        keep_config(out)
        if json:
            print_result(as_json(report.to_dict()))
        else:
            _show(report)
            print_result(f"table:   {report.table}")
            print_result(f"picture: {report.picture}")
    say(f"time: {report.seconds:.0f} s")


def _show(report: Report) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    console.print(f"\n{report.machine.line}", markup=False, highlight=False)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    for comparison in report.comparisons:
        console.print()
        console.print(_table(comparison))
        for note in comparison.notes:
            console.print(f"  {note}", style="dim", markup=False, highlight=False)
    console.print()


def _table(comparison: Comparison) -> object:
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in comparison.rows for name in row.columns))
    unit = comparison.rows[0].unit
    table = Table(title=comparison.title, title_justify="left", title_style="bold")
    table.add_column("way")
    for name in ("times faster", "rounds", "seconds", f"{unit} a second", *columns):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        spread = "once" if len(row.rounds) == 1 else "{:.2f} to {:.2f}".format(*row.ratio_range)
        cells = [f"{row.ratio:.2f}", spread, f"{row.seconds:.2f}", f"{row.rate:,.1f}"]
        cells += [_figure(row.columns.get(name)) for name in columns]
        table.add_row(row.name, *cells, style="dim" if row.name == comparison.plain else None)
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}" if 0.99 < value < 1 else f"{value:.2f}"
