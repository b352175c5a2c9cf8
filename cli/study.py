"""``vilp-pipe study``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.app import app
from cli.console import as_json, only_result_on_stdout, say
from pipeline.studies import STUDIES

Opt = typer.Option


@app.command(epilog="Studies: " + " ".join(f"{name}: {question}" for name, question in STUDIES.items()))
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help=", ".join(STUDIES) + ".")],
    store: Annotated[str | None, Opt(help="Folder of the store (default: the only one under stores/).")] = None,
    head: Annotated[str, Opt(help="The head that reads pose: pvcs, pvcs-joint, vilp, fuse, vcs+pose, ...")] = "pvcs",
    split: Annotated[str, Opt(help="Number of the official split, or all.")] = "1",
    frames: Annotated[int, Opt(help="Frames a video of those that are stored.")] = 8,
    seeds: Annotated[int, Opt(help="Train every variant this often.")] = 3,
    epochs: Annotated[int, Opt(help="Of every training.")] = 30,
    to: Annotated[str | None, Opt(help="Store of another dataset (transfer).")] = None,
    clip: Annotated[str | None, Opt(help="Id of the CLIP group, or its beginning, where there are several.")] = None,
    pose: Annotated[str | None, Opt(help="Id of the pose group, or its beginning, where there are several.")] = None,
    device: Annotated[str, Opt(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[str | None, Opt(help="Folder of the report (default: studies/<store>-<study>).")] = None,
    json: Annotated[bool, Opt("--json", help="Print one JSON object on standard output.")] = False,
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
            head=HeadConfig(head=head),
            split=split if split == "all" or not split.isdecimal() else int(split),
            frames=frames,
            seeds=seeds,
            device=device,
            clip=clip,
            pose=pose,
            to=to,
            training=TrainConfig(epochs=epochs),
        )
        report = run_study(name, config, out=out, told=say)
        if json:
            print_result(as_json(report.to_dict()))
            return
        print_result(report.markdown.rstrip())
        for kind, path in report.files.items():
            print_result(f"{kind}: {path}")
