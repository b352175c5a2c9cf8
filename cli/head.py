"""``vilp-pipe train-head`` and ``vilp-pipe evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, make_progress, only_result_on_stdout, shown_anyway
from cli.options import (
    RUN,
    ClipGroup,
    Device,
    Frames,
    Head,
    Json,
    PoseGroup,
    Split,
    Store,
    TextGroup,
    complete_head,
    complete_run,
    complete_store,
    named,
    split_names,
)
from pipeline.progress import Progress
from store.errors import UsageError
from store.printable import command

if TYPE_CHECKING:
    from pipeline.head import EpochReport

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
    persons: Annotated[
        str,
        Opt(
            help="Whose joints pvcs, pvcs-joint and fuse read: all, or moving (each by how far they move).",
            rich_help_panel=HEAD,
            autocompletion=named("all", "moving"),
        ),
    ] = "all",
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
    precision: Annotated[
        str,
        Opt(
            help="Of the matrix products of training: auto, fp32 or bf16.",
            rich_help_panel=TRAINING,
            autocompletion=named("auto", "fp32", "bf16"),
        ),
    ] = "auto",
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
        with shown_anyway(lambda result: _show(result, json, print_result)):
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
        _show(result, json, print_result)
        read = result.selection
        groups = {"clip": None, "pose": read.pose, "text": read.text, **read.encoder_id}
        keep_config(result.directory, store=where, **groups)


@app.command()
def evaluate(
    run: Annotated[str | None, Opt(help=RUN, autocompletion=complete_run)] = None,
    store: Annotated[
        str | None,
        Opt(
            help="Folder of the store (default: the one it was trained from); of another dataset: cross-dataset.",
            autocompletion=complete_store,
        ),
    ] = None,
    views: Annotated[str | None, Opt(help="Stored views to average, with commas (default: those of the run).")] = None,
    zero_shot: Annotated[
        bool,
        Opt("--zero-shot", help="Test without training on these classes: all of them, and ten random halves."),
    ] = False,
    head: Annotated[str, Opt(help="Head of --zero-shot without a run.", autocompletion=complete_head)] = "vcs",
    frames: Annotated[int, Opt(help="Frames a video of --zero-shot without a run.")] = 8,
    clip: ClipGroup = None,
    pose: PoseGroup = None,
    text: TextGroup = None,
    few_shot: Annotated[
        str | None, Opt(help="Train the run's head again on so many videos a class, such as 2,4,8,16.")
    ] = None,
    late: Annotated[
        list[str] | None,
        Opt(
            help="Late fusion with the scores of another run (its folder), of posefeat or posefeat/ID in the store, or "
            "of score files of mmaction2 (several times for several), with a weight from inner validation."
        ),
    ] = None,
    late_annotations: Annotated[
        str | None, Opt(help="The annotations that were tested, where a score file does not name its videos.")
    ] = None,
    out: Annotated[
        str | None, Opt(help="Keep the late fusion in this folder, for predict --run.", metavar="DIR")
    ] = None,
    device: Device = "auto",
    allow_mismatch: Annotated[
        bool, Opt("--allow-mismatch", help="Take features other than those that the head was trained on.")
    ] = False,
    json: Json = False,
) -> None:
    """Test the heads of a run again; the figures are those of the run, to the bit on the same machine.

    \b
      vilp-pipe evaluate --run runs/hmdb51-fuse
      vilp-pipe evaluate --run runs/hmdb51-fuse --few-shot 2,4,8,16
      vilp-pipe evaluate --run runs/hmdb51-vcs --store stores/ucf101  # cross-dataset
      vilp-pipe evaluate --store stores/ucf101 --zero-shot
      vilp-pipe evaluate --run runs/hmdb51-vcs --late runs/hmdb51-poseconv --out runs/hmdb51-late
    """
    names = None if views is None else split_names(views)
    with only_result_on_stdout() as print_result:
        from pipeline import head as heads
        from pipeline.head.protocols import crosses_datasets
        from pipeline.status import find_store

        if out is not None and not late:
            raise UsageError(f"out is {out!r}, which keeps a late fusion; give --late as well")
        if run is None and not zero_shot:
            raise UsageError("run is not given; name the folder of a training run with --run, or give --zero-shot")
        for name, group in (("clip", clip), ("pose", pose), ("text", text)):
            if run is not None and group is not None:
                raise UsageError(f"{name} is {group!r}, but a run has groups of its own; give --run or --{name}")
        if few_shot is not None:
            if run is None or zero_shot or store is not None or names is not None:
                raise UsageError(
                    "few-shot trains the head of a run again: give --run, without --zero-shot, --store, --views"
                )
            few = heads.few_shot(run, _numbers(few_shot), device=device, progress=epochs_on(make_progress()))
            _show_few_shot(few, json, print_result)
        elif late:
            if run is None or zero_shot or store is not None or names is not None:
                raise UsageError("late fuses the head of a run: give --run, without --zero-shot, --store, --views")
            if out is not None:
                from pipeline.head.fused import check_place, write_fused

                check_place(out)
            fused = heads.late_fusion(
                run, late, annotations=late_annotations, device=device, progress=epochs_on(make_progress())
            )
            if out is not None:
                with shown_anyway(lambda result: _show_late(result, None, json, print_result)):
                    write_fused(out, fused)
            _show_late(fused, out, json, print_result)
            if out is not None:
                keep_config(out)
        elif zero_shot or (run is not None and store is not None and crosses_datasets(run, store)):
            found = heads.zero_shot(
                find_store(store) if run is None else store,
                head=head,
                run=run,
                frames=frames,
                views=names,
                device=device,
                clip=clip,
                pose=pose,
                text=text,
                allow_mismatch=allow_mismatch,
            )
            _show_zero_shot(found, json, print_result)
        else:
            assert run is not None
            result = heads.evaluate_run(run, store, views=names, device=device, allow_mismatch=allow_mismatch)
            _show(result, json, print_result, evaluated=True)


def epochs_on(progress: Progress) -> Callable[[EpochReport], None]:
    """A training callback that shows every head's epochs as one piece of work, or those of all heads trained
    together."""
    shown: list[tuple[int, int]] = []

    def report(epoch: EpochReport) -> None:
        if not shown:
            heads = f"split {epoch.split}, seed {epoch.seed}" if epoch.runs == 1 else f"{epoch.runs} heads together"
            progress.begin(f"training, {heads}", epoch.epochs)
            shown.append((epoch.split, epoch.seed))
        if shown == [(epoch.split, epoch.seed)]:
            progress.advance(1)
            if epoch.epoch == epoch.epochs:
                progress.end()
                shown.clear()

    return report


def _numbers(text: str) -> tuple[int, ...]:
    names = split_names(text)
    if not all(name.isdecimal() for name in names):
        raise UsageError(f"few-shot is {text!r}; allowed: numbers from 1 on, such as 2,4,8,16")
    return tuple(int(name) for name in names)


def _show(result: Any, json: bool, print_result: Any, *, evaluated: bool = False) -> None:
    if json:
        print_result(as_json(result.to_dict()))
        return
    for summary in result.summaries:
        print_result(f"split {summary.split}: {_figures(summary)}")
    low, high = result.interval
    print_result(
        f"mean of splits: top-1 {result.top1:.1%} (95% interval {low:.1%} to {high:.1%}); chance is {result.chance:.1%}"
    )
    for split, tuning in result.tuning.items():
        chosen = {name: value for name, value in tuning["chosen"].items() if value != getattr(result.training, name)}
        what = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "the settings that were given"
        print_result(f"tuned on {tuning['validation_videos']} training videos of split {split}: {what}")
    for warning in result.warnings:
        print_result(f"note: {warning}")
    if result.reproduced is not None:
        print_result(f"predictions equal those of the run to the bit: {'yes' if result.reproduced else 'no'}")
    print_result(f"table: {result.table_line}")
    if result.directory is not None:
        print_result(f"run: {result.directory}")
        if not evaluated:
            print_result(f"next: {command('evaluate', '--run', str(result.directory))}")


def _show_zero_shot(found: Any, json: bool, print_result: Any) -> None:
    if json:
        print_result(as_json(found.to_dict()))
        return
    learnt = f"learnt on {found.trained_on}, {found.heads} heads" if found.trained_on else "untrained"
    print_result(f"zero-shot on {found.dataset}: head {found.head}, {learnt}")
    for summary in found.splits:
        print_result(f"test videos of split {summary.split}, {found.classes} classes: {_figures(summary)}")
    low, high = found.everything["interval"]
    print_result(
        f"all {found.videos} videos, {found.classes} classes: top-1 {found.everything['top1']:.1%} "
        f"(95% interval {low:.1%} to {high:.1%})"
    )
    if half := found.to_dict()["half_mean"]:
        print_result(
            f"half of the classes ({half['classes']}), {len(found.half)} draws: top-1 {half['top1']:.1%}, "
            f"standard deviation {half['std']:.1%}"
        )
    for warning in found.warnings:
        print_result(f"note: {warning}")


def _show_few_shot(few: Any, json: bool, print_result: Any) -> None:
    if json:
        print_result(as_json(few.to_dict()))
        return
    for row in few.rows:
        intervals = ", ".join("{:.1%} to {:.1%}".format(*split["interval"]) for split in row["splits"])
        print_result(f"{row['shots']} videos a class: top-1 {row['top1']:.1%} (95% interval by split: {intervals})")
    for warning in few.warnings:
        print_result(f"note: {warning}")


def _show_late(found: Any, out: str | None, json: bool, print_result: Any) -> None:
    if json:
        print_result(as_json(found.to_dict()))
        return
    print_result(f"late fusion on {found.dataset}: {found.head} with {found.other}")
    for split in found.splits:
        print_result(
            f"split {split.split}: weight {split.weight:g}, chosen on {split.validation_videos} training videos of "
            f"{split.validation_sources} sources ({split.folds} {'folds' if split.folds > 1 else 'fold'}); "
            f"{split.videos} test videos"
            + (f", of which {split.lacking} have no other scores and keep the head's" if split.lacking else "")
        )
        for name in ("head", "other", "fused"):
            row = getattr(split, name)
            print_result(
                "  {}: top-1 {:.1%} (95% interval {:.1%} to {:.1%})".format(name, row["top1"], *row["interval"])
            )
    for name, gain in found.gains.items():
        print_result(
            "gain of both over the {} alone: {:+.1f} points (95% interval {:+.1f} to {:+.1f}): {}".format(
                name, *(100 * gain[key] for key in ("gain", "low", "high")), gain["verdict"]
            )
        )
    for warning in found.warnings:
        print_result(f"note: {warning}")
    if out is not None:
        print_result(f"next: {command('predict', 'VIDEO', '--run', out)}")


def _figures(summary: Any) -> str:
    low, high = summary.interval
    return (
        f"top-1 {summary.top1:.1%} (95% interval {low:.1%} to {high:.1%}), top-5 {summary.top5:.1%}, "
        f"mean class {summary.mean_class:.1%}"
    )
