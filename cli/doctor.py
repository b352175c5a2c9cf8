"""``vilp-pipe doctor``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.app import app
from cli.console import as_json, only_result_on_stdout, say
from cli.options import Json, complete_dataset, complete_device, complete_store, named
from cli.sizes import parse_bytes

Opt = typer.Option
PLAN = "What to extract (as with extract)"


@app.command()
def doctor(
    dataset: Annotated[
        str | None,
        Opt(
            help="Hold the machine against an extraction of this dataset.",
            rich_help_panel=PLAN,
            autocompletion=complete_dataset,
        ),
    ] = None,
    root: Annotated[str | None, Opt(help="Folder of its videos.", rich_help_panel=PLAN)] = None,
    store: Annotated[
        str | None, Opt(help="Where the features go, or are.", rich_help_panel=PLAN, autocompletion=complete_store)
    ] = None,
    splits: Annotated[str | None, Opt(help="Folder of the official split lists.", rich_help_panel=PLAN)] = None,
    clip: Annotated[str | None, Opt(help="Model of open_clip.", rich_help_panel=PLAN)] = None,
    clip_pretrained: Annotated[str | None, Opt(help="Its weights.", rich_help_panel=PLAN)] = None,
    tokens: Annotated[str | None, Opt(help="Patch tokens to keep.", rich_help_panel=PLAN)] = None,
    frames: Annotated[int | None, Opt(help="Frames a video for CLIP.", rich_help_panel=PLAN)] = None,
    pose: Annotated[str | None, Opt(help="onnx, mmpose, precomputed or none.", rich_help_panel=PLAN)] = None,
    det_weights: Annotated[str | None, Opt(help="Weights of the person detector.", rich_help_panel=PLAN)] = None,
    pose_weights: Annotated[str | None, Opt(help="Weights of the keypoint model.", rich_help_panel=PLAN)] = None,
    pose_config: Annotated[str | None, Opt(help="mmpose's config, or a file of poses.", rich_help_panel=PLAN)] = None,
    video: Annotated[str | None, Opt(help="Video model of torchvision, or none.", rich_help_panel=PLAN)] = None,
    video_pretrained: Annotated[str | None, Opt(help="Its weights.", rich_help_panel=PLAN)] = None,
    decoder: Annotated[
        str | None, Opt(help="pyav or decord.", rich_help_panel=PLAN, autocompletion=named("pyav", "decord"))
    ] = None,
    engine: Annotated[
        str | None, Opt(help="ray or inline.", rich_help_panel=PLAN, autocompletion=named("ray", "inline"))
    ] = None,
    device: Annotated[
        str | None, Opt(help="auto, cpu, cuda or cuda:N.", rich_help_panel=PLAN, autocompletion=complete_device)
    ] = None,
    memory: Annotated[str | None, Opt(help="Bound on decoded frames in flight.", rich_help_panel=PLAN)] = None,
    limit: Annotated[int | None, Opt(help="Only the first N videos.", rich_help_panel=PLAN)] = None,
    json: Json = False,
) -> None:
    """Look at this machine: what works, what does not, and what to do. Downloads and writes nothing.

    With --dataset or --store also whether weights, videos, disk and memory are there for that extraction. Exit code 1
    when something that is needed does not work.

    \b
      vilp-pipe doctor
      vilp-pipe doctor --dataset hmdb51 --pose none
    """
    given: dict[str, Any] = {
        "dataset": dataset,
        "root": root,
        "splits": splits,
        "clip": clip,
        "clip_pretrained": clip_pretrained,
        "tokens": None if tokens is None else tuple(name for name in tokens.split(",") if name),
        "frames": frames,
        "pose": pose,
        "det_weights": det_weights,
        "pose_weights": pose_weights,
        "pose_config": pose_config,
        "video": video,
        "video_pretrained": video_pretrained,
        "decoder": decoder,
        "engine": engine,
        "device": device,
        "memory": parse_bytes("memory", memory) if memory else None,
        "limit": limit,
    }
    given = {name: value for name, value in given.items() if value is not None}
    with only_result_on_stdout() as out:
        from dataclasses import asdict

        from pipeline.config import ExtractConfig, resolve
        from pipeline.doctor import FAIL, examine

        planned = dataset is not None or store is not None
        config = resolve(store, given) if planned else ExtractConfig(dataset="folder", **given)
        found = []
        for check in examine(config, planned=planned):
            found.append(check)
            if not json:
                out(f"{check.status:5} {check.name:16} {check.found}")
                if check.todo:
                    out(f"{'':22} -> {check.todo}")
        broken = [check.name for check in found if check.status == FAIL]
        if json:
            out(as_json({"ok": not broken, "checks": [asdict(check) for check in found]}))
    if broken:
        say(f"error: {', '.join(broken)}: see above for what to do")
        raise typer.Exit(1)
