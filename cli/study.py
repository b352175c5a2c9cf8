"""``vilp-pipe study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import only_result_on_stdout, say, show, shown_anyway
from cli.options import (
    ClipGroup,
    Device,
    Frames,
    Json,
    PoseGroup,
    Split,
    Store,
    TextGroup,
    complete_head,
    complete_store,
    named,
    persons_option,
    precision_option,
)
from pipeline.studies import STUDIES

if TYPE_CHECKING:
    from pipeline.studies.report import Report

Opt = typer.Option


@app.command(epilog="Studies: " + " ".join(f"{name}: {question}" for name, question in STUDIES.items()))
def study(
    name: Annotated[
        str,
        typer.Argument(metavar="STUDY", help=", ".join(STUDIES) + ".", autocompletion=named(*STUDIES)),
    ],
    store: Store = None,
    head: Annotated[
        str,
        Opt(help="The head that reads pose: pvcs, pvcs-joint, vilp, fuse, vcs+pose, ...", autocompletion=complete_head),
    ] = "pvcs",
    persons: Annotated[str, persons_option()] = "all",
    split: Split = "1",
    frames: Frames = 8,
    seeds: Annotated[int, Opt(help="Train every variant this often.")] = 3,
    epochs: Annotated[int, Opt(help="Of every training.")] = 30,
    precision: Annotated[str, precision_option()] = "auto",
    to: Annotated[str | None, Opt(help="Store of another dataset (transfer).", autocompletion=complete_store)] = None,
    clip: ClipGroup = None,
    pose: PoseGroup = None,
    text: TextGroup = None,
    device: Device = "auto",
    out: Annotated[str | None, Opt(help="Folder of the report (default: studies/<store>-<study>).")] = None,
    json: Json = False,
) -> None:
    """Answer a question about features and heads with a table, a picture and a verdict.

    A verdict is one of: helps, equivalent within 0.5 points, inconclusive.

    \b
      vilp-pipe study pose --store stores/hmdb51 --split all --seeds 5
      vilp-pipe study transfer --store stores/hmdb51 --to stores/ucf101
    """
    with only_result_on_stdout() as print_result:
        from pipeline.head import HeadConfig, TrainConfig
        from pipeline.status import find_store
        from pipeline.studies import StudyConfig, run_study

        config = StudyConfig(
            store=find_store(store),
            head=HeadConfig(head=head, persons=persons),
            split=split if split == "all" or not split.isdecimal() else int(split),
            frames=frames,
            seeds=seeds,
            device=device,
            clip=clip,
            pose=pose,
            text=text,
            to=to,
            training=TrainConfig(epochs=epochs, precision=precision),
        )

        def show_report(report: Report) -> None:
            files = (f"{kind}: {path}" for kind, path in report.files.items())
            lines = (*report.markdown.rstrip().split("\n"), *files)
            show(report, lines, json=json, print_result=print_result)

        with shown_anyway(show_report):
            report = run_study(name, config, out=out, note=say)
        show_report(report)
        keep_config(Path(report.files["json"]).parent, store=config.store)
