"""``vilp-pipe demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, epochs_on, make_progress, only_result_on_stdout, say
from cli.options import Json, named

if TYPE_CHECKING:
    from pipeline.demo import Demo

Opt = typer.Option


@app.command()
def demo(
    out: Annotated[Path, Opt(help="Folder for videos, store, runs and pictures.")] = Path("demo"),
    subjects: Annotated[int, Opt(help="People to render, in 28 videos each: more of them narrow the intervals.")] = 9,
    engine: Annotated[str, Opt(help="ray or inline.", autocompletion=named("ray", "inline"))] = "ray",
    json: Json = False,
) -> None:
    """The whole path on rendered videos: render, extract, compare heads on unseen subjects and frame weights with the
    frames that hold the action, and ask whether pose helps.

    \b
      vilp-pipe demo
      vilp-pipe demo --out /tmp/demo --engine inline
      vilp-pipe demo --out demo-36 --subjects 36
    """
    with only_result_on_stdout() as print_result:
        from pipeline.datasets.synthetic import SyntheticConfig
        from pipeline.demo import run_demo

        progress = make_progress()
        rendered = SyntheticConfig(num_subjects=subjects)
        made = run_demo(out, rendered=rendered, engine=engine, progress=progress, epochs=epochs_on(progress))
        keep_config(out)
        if json:
            print_result(as_json(made.to_dict()))
            return
        for line in _lines(made):
            print_result(line)
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in made.seconds.items())
    say(f"time: {sum(made.seconds.values()):.0f} s ({steps})")


def _lines(made: Demo) -> list[str]:
    lines = [f"{'unseen subjects':27} {'top-1':>6}   95% interval"]
    figures = {f"{head}, zero-shot": figure for head, figure in made.zero_shot.items()}
    figures |= {head: (result.top1, result.interval) for head, result in made.results.items()}
    for name, (top1, (low, high)) in figures.items():
        lines.append(f"{name:27} {top1:6.1%}   {low:.1%} to {high:.1%}")
    chance = next(iter(made.results.values())).chance
    lines += [f"{'chance':27} {chance:6.1%}", ""]
    lines += [f"{'frame weights':27}  inside   AUC   95% interval    AUC beside another   alone"]
    for name, found in made.focus.items():
        low, high = found["all"].interval
        lines.append(
            f"{name:27} {found['all'].share:7.1%}  {found['all'].area:.2f}   {low:.2f} to {high:.2f}"
            f"    {found['distracted'].area:18.2f}   {found['alone'].area:5.2f}"
        )
    lines += [
        "inside: share of the weight on frames that hold the action; AUC: the chance that a frame inside weighs more",
        "than one outside; beside another: only videos in which an idle second person stands about; persons of pvcs",
        "and fuse count by how far they move (--persons moving), but for the row that says otherwise (alpha 0.5)",
        *(
            f"pvcs over vcs, {name}: AUC {of['all']}, beside another {of['distracted']}"
            for name, of in made.gains.items()
        ),
        "",
        f"does pose help? {made.study.verdict}. {made.study.sentences[0]}",
        "",
        made.note,
        "",
        *(f"picture: {picture}" for picture in made.pictures),
        f"study:   {made.study.files['md']}",
        f"store:   {made.store}",
    ]
    return lines
