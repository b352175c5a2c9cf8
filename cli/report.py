"""``vilp-pipe report``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.app import app
from cli.console import only_result_on_stdout
from store.errors import UsageError

Opt = typer.Option


@app.command()
def report(
    run: Annotated[str, Opt(help="Folder of a training run.")],
    store: Annotated[str | None, Opt(help="Where its store is now (default: where it was).")] = None,
    out: Annotated[str | None, Opt(help="The HTML file (default: report.html in the folder of the run).")] = None,
    examples: Annotated[int, Opt(help="How many right and how many wrong test videos to show; 0 for none.")] = 4,
    code: Annotated[
        list[str] | None, Opt(help="A module:name that the store names and that may be run, where you trust it.")
    ] = None,
) -> None:
    """Write one HTML file about a run: results, curves, confusion, examples, provenance. It needs no network.

    \b
      vilp-pipe report --run runs/hmdb51-fuse
    """
    with only_result_on_stdout() as print_result:
        from pipeline.report import write_report

        if not 0 <= examples <= 24:
            raise UsageError(f"examples is {examples}; allowed: 0 to 24")
        print_result(str(write_report(run, store, out=out, examples=examples, code=code or ())))
