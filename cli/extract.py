"""``vilp-pipe extract``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

import typer

from cli.app import app
from cli.console import as_json, make_progress, only_result_on_stdout, say, show, show_table
from cli.forecast import forecast_lines
from cli.options import (
    Json,
    complete_dataset,
    complete_device,
    complete_run,
    complete_store,
    named,
    split_names,
    with_commas,
)
from cli.sizes import parse_bytes
from store.errors import UsageError

Opt = typer.Option
DATA, FEATURES, RUN = "Videos and store", "Features", "How to run"


@app.command()
def extract(
    dataset: Annotated[
        str | None,
        Opt(
            help="ucf101, hmdb51, folder, manifest or synthetic.", rich_help_panel=DATA, autocompletion=complete_dataset
        ),
    ] = None,
    root: Annotated[
        str | None,
        Opt(help="Folder of the videos (default: $VILP_DATA/<dataset>, else data/<dataset>).", rich_help_panel=DATA),
    ] = None,
    store: Annotated[
        str | None,
        Opt(
            help="Folder of the store, or s3://bucket/prefix (default: stores/<dataset>).",
            rich_help_panel=DATA,
            autocompletion=complete_store,
        ),
    ] = None,
    splits: Annotated[
        str | None, Opt(help="Folder of the official split lists, where not under the root.", rich_help_panel=DATA)
    ] = None,
    limit: Annotated[int | None, Opt(help="Only the first N videos of the plan.", rich_help_panel=DATA)] = None,
    update: Annotated[bool, Opt("--update", help="Append videos that came later.", rich_help_panel=DATA)] = False,
    frames: Annotated[int | None, Opt(help="Frames a video for CLIP (default: 16).", rich_help_panel=FEATURES)] = None,
    pose_frames: Annotated[
        int | None, Opt(help="Frames a video for pose, a multiple of --frames (default: 48).", rich_help_panel=FEATURES)
    ] = None,
    views: Annotated[
        str | None,
        Opt(
            help="center, center256, squash, flip; several with commas.",
            rich_help_panel=FEATURES,
            autocompletion=with_commas("center", "center256", "squash", "flip"),
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        Opt(
            help="Patch tokens to keep, of value, penult and last, or '' (default: value,penult).",
            rich_help_panel=FEATURES,
            autocompletion=with_commas("value", "penult", "last"),
        ),
    ] = None,
    clip: Annotated[
        str | None, Opt(help="Model of open_clip, stick or tiny (default: ViT-B-16).", rich_help_panel=FEATURES)
    ] = None,
    clip_pretrained: Annotated[
        str | None,
        Opt(
            help="Its weights: a tag of open_clip, a file, or none (random) (default: openai; of stick its own).",
            rich_help_panel=FEATURES,
        ),
    ] = None,
    pose: Annotated[
        str | None,
        Opt(
            help="onnx, mmpose, precomputed, none or module:Class (default: mmpose).",
            rich_help_panel=FEATURES,
            autocompletion=named("mmpose", "onnx", "precomputed", "none"),
        ),
    ] = None,
    det_weights: Annotated[str | None, Opt(help="Weights of the person detector.", rich_help_panel=FEATURES)] = None,
    pose_weights: Annotated[str | None, Opt(help="Weights of the keypoint model.", rich_help_panel=FEATURES)] = None,
    pose_config: Annotated[
        str | None,
        Opt(
            help="mmpose: config name or file; precomputed: poses of mmaction2, OpenPose, AlphaPose, COCO, Parquet.",
            rich_help_panel=FEATURES,
        ),
    ] = None,
    heatmap: Annotated[
        str | None,
        Opt(
            help="Store CLIP embeddings of pose heatmaps: joints, limbs or none.",
            rich_help_panel=FEATURES,
            autocompletion=named("joints", "limbs", "none"),
        ),
    ] = None,
    video: Annotated[
        str | None,
        Opt(
            help="Embeddings of clips by a video model of torchvision: r2plus1d_18, r3d_18, mc3_18, mvit_v1_b, "
            "mvit_v2_s, swin3d_t, swin3d_s, swin3d_b or none (default: none).",
            rich_help_panel=FEATURES,
            autocompletion=named(
                "r3d_18", "mc3_18", "r2plus1d_18", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b", "none"
            ),
        ),
    ] = None,
    video_pretrained: Annotated[
        str | None,
        Opt(
            help="Its weights: torchvision's name, a file, or none (random) (default: torchvision's best).",
            rich_help_panel=FEATURES,
        ),
    ] = None,
    video_clips: Annotated[
        int | None, Opt(help="Clips a video for the video model (default: 4).", rich_help_panel=FEATURES)
    ] = None,
    posefeat: Annotated[
        list[str] | None,
        Opt(
            help="Features and class scores of a skeleton network: a run of head pose or poseconv, or score files of "
            "mmaction2 (several times for several).",
            rich_help_panel=FEATURES,
            autocompletion=complete_run,
        ),
    ] = None,
    posefeat_split: Annotated[
        int | None,
        Opt(help="Of score files: the split whose training videos the network saw.", rich_help_panel=FEATURES),
    ] = None,
    posefeat_annotations: Annotated[
        str | None,
        Opt(help="Of score files that do not name their videos: what was tested.", rich_help_panel=FEATURES),
    ] = None,
    templates: Annotated[
        str | None,
        Opt(
            help="Prompts of the class names: video, name, photo or ensemble, templates with {} and | between them, "
            "or a file with one a line (default: video).",
            rich_help_panel=FEATURES,
            autocompletion=named("video", "name", "photo", "ensemble"),
        ),
    ] = None,
    modality: Annotated[
        str | None,
        Opt(
            help="Compute only these: clip, pose, video, text (default: all of them), or posefeat alone.",
            rich_help_panel=FEATURES,
            autocompletion=with_commas("clip", "pose", "video", "text", "posefeat"),
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        Opt(
            help="pyav, decord or module:function (default: pyav).",
            rich_help_panel=FEATURES,
            autocompletion=named("pyav", "decord"),
        ),
    ] = None,
    decode_seconds: Annotated[
        float | None,
        Opt(help="CPU seconds that one video may take to decode (default: 300).", rich_help_panel=RUN),
    ] = None,
    precision: Annotated[
        str | None,
        Opt(
            help="auto, fp32, bf16 or fp16: auto is bf16 where the CPU or GPU has it.",
            rich_help_panel=RUN,
            autocompletion=named("auto", "fp32", "bf16", "fp16"),
        ),
    ] = None,
    device: Annotated[
        str | None, Opt(help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUN, autocompletion=complete_device)
    ] = None,
    batch_size: Annotated[int | None, Opt(help="Images a forward pass (default: 32).", rich_help_panel=RUN)] = None,
    engine: Annotated[
        str | None,
        Opt(help="ray or inline (default: ray).", rich_help_panel=RUN, autocompletion=named("ray", "inline")),
    ] = None,
    ray_address: Annotated[str | None, Opt(help="Join a running Ray cluster.", rich_help_panel=RUN)] = None,
    part: Annotated[
        str | None, Opt(help="i/n: this run's share, for independent jobs on one store.", rich_help_panel=RUN)
    ] = None,
    memory: Annotated[
        str | None,
        Opt(
            help="Bound on decoded frames in flight, such as 2GB (default: a quarter of the machine's).",
            rich_help_panel=RUN,
        ),
    ] = None,
    shard_len: Annotated[int | None, Opt(help="Videos a shard (default: 64).", rich_help_panel=RUN)] = None,
    seed: Annotated[
        int | None,
        Opt(
            help="Of random weights; when a store is made also of the synthetic set, and of the split of a folder that "
            "has none (default: 0).",
            rich_help_panel=RUN,
        ),
    ] = None,
    retry_quarantined: Annotated[
        bool, Opt("--retry-quarantined", help="Try videos again that failed before.", rich_help_panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool, Opt("--dry-run", help="Print plan, bytes and time, and stop.", rich_help_panel=RUN)
    ] = False,
    profile: Annotated[
        str | None,
        Opt(
            metavar="FILE.json",
            help="Write a trace of every stage call, for ui.perfetto.dev, and tell busy and idle seconds a stage.",
            rich_help_panel=RUN,
        ),
    ] = None,
    strict: Annotated[
        bool, Opt("--strict", help="Missing or quarantined videos and another environment fail.", rich_help_panel=RUN)
    ] = False,
    json: Json = False,
) -> None:
    """Decode videos, encode frames and poses, and commit the features to a store.

    Run it again after whatever ended it: only what is missing is computed. On a store that exists, settings that are
    not given are those of its first run.

    \b
      vilp-pipe extract --dataset hmdb51
      vilp-pipe extract --dataset folder --root my-videos --store stores/mine --pose none
      vilp-pipe extract --store stores/hmdb51 --modality pose --pose onnx --det-weights d.onnx --pose-weights p.onnx
      vilp-pipe extract --store stores/hmdb51 --modality video --video r2plus1d_18
      vilp-pipe extract --store stores/hmdb51 --modality text --templates ensemble
      vilp-pipe extract --store stores/hmdb51 --modality posefeat --posefeat runs/hmdb51-poseconv
      vilp-pipe extract --dataset synthetic --limit 64 --profile trace.json
    """
    given = settings(locals())
    with only_result_on_stdout() as print_result:
        from pipeline.config import resolve
        from pipeline.extraction import extract as run
        from pipeline.trace import Trace

        config = resolve(store, given)
        if config.posefeat_only and (dry_run or profile is not None):
            raise UsageError(
                "--dry-run and --profile tell of videos that are decoded, and posefeat decodes none; leave them out"
            )
        if dry_run:
            if profile is not None:
                raise UsageError("--profile traces a run, and --dry-run makes none; leave one of them out")
            from pipeline.forecast import forecast

            planned = forecast(config)
            show(planned, forecast_lines(planned), json=json, print_result=print_result)
            return
        with contextlib.nullcontext() if profile is None else Trace(profile) as trace:
            summary = run(config, progress=make_progress(), trace=trace)
        if json:
            print_result(as_json(summary.to_dict()))
        else:
            _show(summary)
    nothing_worked = summary.executed > 0 and summary.done == 0
    if nothing_worked:
        say("error: no video succeeded; the table above says why")
    if nothing_worked or (strict and summary.quarantined):
        raise typer.Exit(1)


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a command's options, by parameter, as settings of ``ExtractConfig`` but the store."""
    from pipeline.config import ExtractConfig, parse_part
    from stages.clip.templates import read_templates

    read: dict[str, Callable[[Any], Any]] = {
        "views": split_names,
        "tokens": split_names,
        "posefeat": tuple,
        "modality": split_names,
        "templates": read_templates,
        "part": parse_part,
        "memory": partial(parse_bytes, "memory"),
    }
    given = {
        "modalities" if name == "modality" else name: read[name](value) if name in read else value
        for name, value in options.items()
        if value is not None and value is not False
    }
    return {field.name: given[field.name] for field in fields(ExtractConfig) if field.name in given.keys() - {"store"}}


def _show(summary: Any) -> None:
    done = f"{summary.done} of {summary.executed} in this run; {summary.planned} in the plan"
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.quarantined.items()))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in sorted(summary.stage_seconds.items()))
    show_table(
        f"{summary.dataset}: extraction",
        [
            ("videos with features", done),
            ("partial", str(summary.partial)),
            ("quarantined", kinds or "0"),
            *(("", f"{failure['video_id']}: {failure['message']}") for failure in summary.failures[:5]),
            ("listed or planned, not on disk", str(summary.missing)),
            ("on disk but in no list", str(summary.unlisted)),
            ("units tried again", str(len(summary.retried_units))),
            *(("", _retried(retry)) for retry in summary.retried_units[:5]),
            ("seconds a stage", seconds or "nothing to do"),
            ("time", f"{summary.seconds:.1f} s, {summary.videos_per_second:.2f} videos a second"),
            ("store", summary.store),
        ],
    )
    if summary.profile:
        _show_profile(summary.profile)
        say(f"trace, to open in ui.perfetto.dev: {summary.profile['trace']}")
    if summary.quarantine:
        say(f"all that are quarantined: {summary.quarantine}")
        for line in summary.next_steps:
            say(line)
    if summary.done or not summary.executed:
        say(f"next: {summary.next_command}")


def _retried(retry: dict[str, Any]) -> str:
    what = "class names" if retry["shard"] is None else f"shard {retry['shard']}"
    return f"{what}, {retry['times']} times: {'; '.join(retry['why'])}"


def _show_profile(profile: dict[str, Any]) -> None:
    rows = [
        (name, str(stage["workers"]), str(stage["calls"]), f"{stage['busy']:.1f}", f"{stage['idle']:.1f}")
        for name, stage in profile["stages"].items()
    ]
    columns = ("stage", "workers", "calls", "busy seconds", "idle seconds")
    show_table(f"{profile['seconds']:.1f} seconds of each worker, start-up included", rows, columns)
