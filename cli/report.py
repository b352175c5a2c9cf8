"""``vilp-pipe report``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, only_result_on_stdout
from cli.options import Code, Json, Run, complete_store
from store.errors import UsageError

Opt = typer.Option


@app.command()
def report(
    run: Run,
    store: Annotated[
        str | None,
        Opt(help="Where the run's store is now (default: where it was).", autocompletion=complete_store),
    ] = None,
    out: Annotated[str | None, Opt(help="The HTML file (default: report.html in the folder of the run).")] = None,
    examples: Annotated[int, Opt(help="How many right and how many wrong test videos to show; 0 for none.")] = 4,
    code: Code = None,
    json: Json = False,
) -> None:
    """Write one HTML file about a run: results, curves, confusion, examples, provenance. It needs no network.

    \b
      vilp-pipe report --run runs/hmdb51-fuse
    """
    with only_result_on_stdout() as print_result:
        from pipeline.report import write_report

        if not 0 <= examples <= 24:
            raise UsageError(f"examples is {examples}; allowed: 0 to 24")
        page = write_report(run, store, out=out, examples=examples, code=code or ())
        keep_config(page)
        print_result(as_json({"html": str(page)}) if json else str(page))
