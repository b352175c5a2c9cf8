"""``vilp-pipe evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import epochs_on, make_progress, only_result_on_stdout, show, shown_anyway
from cli.options import (
    RUN,
    ClipGroup,
    Device,
    Json,
    PoseGroup,
    TextGroup,
    complete_head,
    complete_run,
    complete_store,
    split_names,
)
from cli.results import few_shot_lines, late_lines, run_lines, zero_shot_lines
from store.errors import UsageError

if TYPE_CHECKING:
    from pipeline.head.late import LateResult

Opt = typer.Option


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
    if out is not None and not late:
        raise UsageError(f"out is {out!r}, which keeps a late fusion; give --late as well")
    if run is None and not zero_shot:
        raise UsageError("run is not given; name the folder of a training run with --run, or give --zero-shot")
    for name, group in (("clip", clip), ("pose", pose), ("text", text)):
        if run is not None and group is not None:
            raise UsageError(f"{name} is {group!r}, but a run has groups of its own; give --run or --{name}")
    again = "few-shot trains the head of a run again" if few_shot is not None else "late fuses the head of a run"
    if (few_shot is not None or late) and (run is None or zero_shot or store is not None or names is not None):
        raise UsageError(f"{again}: give --run, without --zero-shot, --store, --views")
    with only_result_on_stdout() as print_result:
        from pipeline import head as heads
        from pipeline.head.protocols import crosses_datasets
        from pipeline.status import find_store

        print_lines = partial(show, json=json, print_result=print_result)
        if few_shot is not None:
            assert run is not None
            few = heads.few_shot(run, _numbers(few_shot), device=device, progress=epochs_on(make_progress()))
            print_lines(few, few_shot_lines(few))
        elif late:
            assert run is not None
            fuse = partial(heads.late_fusion, run, late, annotations=late_annotations, device=device)
            _late(fuse, out, print_lines)
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
            print_lines(found, zero_shot_lines(found))
        else:
            assert run is not None
            result = heads.evaluate_run(run, store, views=names, device=device, allow_mismatch=allow_mismatch)
            print_lines(result, run_lines(result, evaluated=True))


def _late(fuse: Callable[..., LateResult], out: str | None, print_lines: Callable[..., None]) -> None:
    """Fuse, and keep the fusion in the folder ``out`` if there is one; that it can be kept is known before."""
    from pipeline.head.fused import check_place, write_fused

    if out is not None:
        check_place(out)
    fused = fuse(progress=epochs_on(make_progress()))
    if out is not None:
        with shown_anyway(lambda result: print_lines(result, late_lines(result))):
            write_fused(out, fused)
    print_lines(fused, late_lines(fused, out))
    if out is not None:
        keep_config(out)


def _numbers(text: str) -> tuple[int, ...]:
    names = split_names(text)
    if not all(name.isdecimal() for name in names):
        raise UsageError(f"few-shot is {text!r}; allowed: numbers from 1 on, such as 2,4,8,16")
    return tuple(int(name) for name in names)
