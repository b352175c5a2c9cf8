"""``vilp-pipe demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, make_progress, only_result_on_stdout, say
from cli.options import Json, named

Opt = typer.Option


@app.command()
def demo(
    out: Annotated[Path, Opt(help="Folder for videos, store, runs and the picture.")] = Path("demo"),
    engine: Annotated[str, Opt(help="ray or inline.", autocompletion=named("ray", "inline"))] = "ray",
    json: Json = False,
) -> None:
    """The whole path on rendered videos: render, extract, train four heads, compare them on unseen subjects.

    \b
      vilp-pipe demo
      vilp-pipe demo --out /tmp/demo --engine inline
    """
    with only_result_on_stdout() as print_result:
        from cli.head import epochs_on
        from pipeline.demo import run_demo

        progress = make_progress()
        made = run_demo(out, engine=engine, progress=progress, epochs=epochs_on(progress))
        keep_config(out)
        if json:
            print_result(as_json(made.to_dict()))
            return
        print_result(f"{'head':8} {'top-1':>7}   95% interval")
        for head, result in made.results.items():
            low, high = result.summaries[0].interval
            print_result(f"{head:8} {result.top1:7.1%}   {low:.1%} to {high:.1%}")
        print_result(f"{'chance':8} {next(iter(made.results.values())).chance:7.1%}")
        print_result(f"\n{made.note}\n")
        print_result(f"picture: {made.picture}")
        print_result(f"store:   {made.store}")
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in made.seconds.items())
    say(f"time: {sum(made.seconds.values()):.0f} s ({steps})")
