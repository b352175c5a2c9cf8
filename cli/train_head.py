"""``vilp-pipe train-head``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import epochs_on, make_progress, only_result_on_stdout, show, shown_anyway
from cli.options import (
    ClipGroup,
    Device,
    Frames,
    Head,
    Json,
    PoseGroup,
    Split,
    Store,
    TextGroup,
    named,
    persons_option,
    precision_option,
)
from cli.results import run_lines

if TYPE_CHECKING:
    from pipeline.head import RunResult

Opt = typer.Option
HEAD, TRAINING = "Head", "Training"


@app.command("train-head")
def train_head(
    store: Store = None,
    head: Head = "fuse",
    split: Split = "1",
    frames: Frames = 8,
    seeds: Annotated[int, Opt(help="Train this often, with seeds 0, 1, ...")] = 1,
    epochs: Annotated[int, Opt(help="0 is zero-shot.")] = 30,
    clip: ClipGroup = None,
    pose: PoseGroup = None,
    video: Annotated[
        str | None, Opt(help="Id of a video model's group, or its beginning: mean and attn then read its clips.")
    ] = None,
    text: TextGroup = None,
    device: Device = "auto",
    out: Annotated[str | None, Opt(help="Folder of the run (default: runs/<store>-<head>).")] = None,
    json: Json = False,
    modalities: Annotated[
        str,
        Opt(
            help="What fuse may read: V, P, V+T, P+T, V+P or V+P+T.",
            rich_help_panel=HEAD,
            autocompletion=named("V", "P", "V+T", "P+T", "V+P", "V+P+T"),
        ),
    ] = "V+P+T",
    word_mode: Annotated[
        str,
        Opt(
            help="Words that spot frames: name+eot, name or all.",
            rich_help_panel=HEAD,
            autocompletion=named("name+eot", "name", "all"),
        ),
    ] = "name+eot",
    tau: Annotated[float, Opt(help="Temperature of the softmax over frames.", rich_help_panel=HEAD)] = 0.01,
    kappa: Annotated[float, Opt(help="Steepness of the gate of vilp.", rich_help_panel=HEAD)] = 1.0,
    sigma: Annotated[float, Opt(help="Width of a joint's Gaussian in token cells.", rich_help_panel=HEAD)] = 0.7,
    persons: Annotated[str, persons_option(HEAD)] = "all",
    pose_in: Annotated[
        str,
        Opt(
            help="Where pose acts in vilp, pvcs and fuse: weights, values or both.",
            rich_help_panel=HEAD,
            autocompletion=named("both", "weights", "values"),
        ),
    ] = "both",
    temporal_layers: Annotated[
        int, Opt(help="Of BIKE's temporal transformer before vilp; 6 as published.", rich_help_panel=HEAD)
    ] = 0,
    tokens: Annotated[
        str,
        Opt(
            help="Patch tokens that attn and fuse attend to: penult, value or last.",
            rich_help_panel=HEAD,
            autocompletion=named("value", "penult", "last"),
        ),
    ] = "penult",
    bottleneck: Annotated[int, Opt(help="Width of the adapters.", rich_help_panel=HEAD)] = 64,
    pool_heads: Annotated[int, Opt(help="Heads of the attention pooling (attn, fuse).", rich_help_panel=HEAD)] = 8,
    tune: Annotated[
        bool,
        Opt(
            "--tune",
            help="Choose training settings on an inner validation, grouped by source, of each split's training videos.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    learning_rate: Annotated[float, Opt(help="Of AdamW, at the start.", rich_help_panel=TRAINING)] = 1e-3,
    batch_size: Annotated[int, Opt(help="Videos a step.", rich_help_panel=TRAINING)] = 128,
    scalar_boost: Annotated[
        float, Opt(help="How many times faster scalars learn (alpha, gamma, scale).", rich_help_panel=TRAINING)
    ] = 10.0,
    weight_decay: Annotated[float, Opt(help="Of matrices.", rich_help_panel=TRAINING)] = 0.05,
    smoothing: Annotated[float, Opt(help="Of the labels.", rich_help_panel=TRAINING)] = 0.1,
    auxiliary: Annotated[
        float, Opt(help="Weight of the loss of each stream of a head with several.", rich_help_panel=TRAINING)
    ] = 0.3,
    frame_dropout: Annotated[
        float, Opt(help="Chance that a frame of a training video is hidden.", rich_help_panel=TRAINING)
    ] = 0.1,
    token_dropout: Annotated[
        float, Opt(help="Chance that a patch token of a training video is hidden.", rich_help_panel=TRAINING)
    ] = 0.1,
    ema: Annotated[float, Opt(help="Decay of the average of weights that is tested.", rich_help_panel=TRAINING)] = 0.99,
    random_frames: Annotated[
        bool,
        Opt("--random-frames", help="Show a random stored frame of each of T' segments.", rich_help_panel=TRAINING),
    ] = False,
    loss: Annotated[
        str,
        Opt(
            help="all-class, or in-batch as published.",
            rich_help_panel=TRAINING,
            autocompletion=named("all-class", "in-batch"),
        ),
    ] = "all-class",
    interpolation: Annotated[
        float,
        Opt(help="Share of the trained in the tested weights; the rest is zero-shot.", rich_help_panel=TRAINING),
    ] = 1.0,
    precision: Annotated[str, precision_option(TRAINING)] = "auto",
) -> None:
    """Train a head on stored features and test it once, at the last epoch.

    \b
      vilp-pipe train-head --store stores/hmdb51 --head vcs
      vilp-pipe train-head --store stores/hmdb51 --split all --seeds 5 --json
      vilp-pipe train-head --store stores/hmdb51 --head vcs+pose --tune
    """
    with only_result_on_stdout() as print_result:
        from pipeline.head import HeadConfig, TrainConfig
        from pipeline.head import train_head as train
        from pipeline.status import find_store

        config = HeadConfig(
            head=head,
            word_mode=word_mode,
            tau=tau,
            kappa=kappa,
            sigma=sigma,
            persons=persons,
            modalities=modalities.upper(),
            pose_in=pose_in,
            temporal_layers=temporal_layers,
            tokens=tokens,
            bottleneck=bottleneck,
            pool_heads=pool_heads,
        )
        training = TrainConfig(
            learning_rate=learning_rate,
            batch_size=batch_size,
            scalar_boost=scalar_boost,
            weight_decay=weight_decay,
            smoothing=smoothing,
            auxiliary=auxiliary,
            frame_dropout=frame_dropout,
            token_dropout=token_dropout,
            ema=ema,
            random_frames=random_frames,
            loss=loss,
            interpolation=interpolation,
            precision=precision,
        )
        where = find_store(store)

        def show_run(result: RunResult) -> None:
            show(result, run_lines(result), json=json, print_result=print_result)

        with shown_anyway(show_run):
            result = train(
                where,
                head=config,
                split=split,
                frames=frames,
                seeds=seeds,
                epochs=epochs,
                device=device,
                out=out,
                clip=clip,
                pose=pose,
                text=text,
                video=video,
                training=training,
                tune=tune,
                progress=epochs_on(make_progress()),
            )
        assert result.directory is not None
        show_run(result)
        read = result.selection
        groups = {"clip": None, "pose": read.pose, "text": read.text, **read.encoder_id}
        keep_config(result.directory, store=where, **groups)
