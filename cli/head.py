"""``vilp-pipe train-head`` and ``vilp-pipe evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.app import app
from cli.console import as_json, make_progress, only_result_on_stdout
from pipeline.progress import Progress
from store.printable import command

if TYPE_CHECKING:
    from pipeline.head import EpochReport

Opt = typer.Option


@app.command("train-head")
def train_head(
    store: Annotated[str | None, Opt(help="Folder of the store (default: the only one under stores/).")] = None,
    head: Annotated[str, Opt(help="fuse, pvcs, vcs, mean or attn (vilp needs heatmap_clip features).")] = "fuse",
    split: Annotated[str, Opt(help="Number of the official split, or all.")] = "1",
    frames: Annotated[int, Opt(help="Frames a video of those that are stored.")] = 8,
    seeds: Annotated[int, Opt(help="Train this often, with seeds 0, 1, ...")] = 1,
    epochs: Annotated[int, Opt(help="0 is zero-shot.")] = 30,
    clip: Annotated[str | None, Opt(help="Id of the CLIP group, or its beginning, where there are several.")] = None,
    pose: Annotated[str | None, Opt(help="Id of the pose group, or its beginning, where there are several.")] = None,
    device: Annotated[str, Opt(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[str | None, Opt(help="Folder of the run (default: runs/<store>-<head>).")] = None,
    json: Annotated[bool, Opt("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Train a head on stored features and test it once, at the last epoch.

    \b
      vilp-pipe train-head --store stores/hmdb51 --head vcs
      vilp-pipe train-head --store stores/hmdb51 --split all --seeds 5 --json
    """
    with only_result_on_stdout() as print_result:
        from pipeline.head import train_head as train
        from pipeline.status import find_store

        result = train(
            find_store(store),
            head=head,
            split=split if split == "all" or not split.isdecimal() else int(split),
            frames=frames,
            seeds=seeds,
            epochs=epochs,
            device=device,
            out=out,
            clip=clip,
            pose=pose,
            progress=epochs_on(make_progress()),
        )
        _show(result, json, print_result)


@app.command()
def evaluate(
    run: Annotated[str, Opt(help="Folder of a training run.")],
    store: Annotated[str | None, Opt(help="Folder of the store (default: the one it was trained from).")] = None,
    device: Annotated[str, Opt(help="auto, cpu, cuda or cuda:N.")] = "auto",
    allow_mismatch: Annotated[
        bool, Opt("--allow-mismatch", help="Take features other than those that the head was trained on.")
    ] = False,
    json: Annotated[bool, Opt("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Test the heads of a run again; the figures are those of the run, to the bit on the same machine.

    \b
      vilp-pipe evaluate --run runs/hmdb51-fuse
    """
    with only_result_on_stdout() as print_result:
        from pipeline.head import evaluate_run

        _show(evaluate_run(run, store, device=device, allow_mismatch=allow_mismatch), json, print_result)


def epochs_on(progress: Progress) -> Callable[[EpochReport], None]:
    """A training callback that shows every head's epochs as one piece of work."""

    def report(epoch: EpochReport) -> None:
        if epoch.epoch == 1:
            progress.begin(f"training, split {epoch.split}, seed {epoch.seed}", epoch.epochs)
        progress.advance(1)
        if epoch.epoch == epoch.epochs:
            progress.end()

    return report


def _show(result: Any, json: bool, print_result: Any) -> None:
    if json:
        print_result(as_json(result.to_dict()))
        return
    for summary in result.summaries:
        low, high = summary.interval
        print_result(
            f"split {summary.split}: top-1 {summary.top1:.1%} (95% interval {low:.1%} to {high:.1%}), "
            f"top-5 {summary.top5:.1%}, mean class {summary.mean_class:.1%}"
        )
    print_result(f"mean of splits: top-1 {result.top1:.1%}; chance is {result.chance:.1%}")
    for warning in result.warnings:
        print_result(f"note: {warning}")
    if result.reproduced is not None:
        print_result(f"predictions equal those of the run to the bit: {'yes' if result.reproduced else 'no'}")
    if result.directory is not None:
        print_result(f"run: {result.directory}")
        if result.reproduced is None:
            print_result(f"next: {command('evaluate', '--run', str(result.directory))}")
