"""``vilp-pipe predict``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import make_progress, only_result_on_stdout, say, show, shown_anyway
from cli.options import Code, Device, Json, Run, complete_store

if TYPE_CHECKING:
    from pipeline.prediction import Predictions

Opt = typer.Option


@app.command()
def predict(
    videos: Annotated[list[str], typer.Argument(help="Video files, or folders of them.", metavar="VIDEO...")],
    run: Run,
    store: Annotated[
        str | None,
        Opt(help="Where the run's store is now (default: where it was).", autocompletion=complete_store),
    ] = None,
    split: Annotated[int | None, Opt(help="Ask the heads of this split (default: the run's first).")] = None,
    top: Annotated[int, Opt(help="Classes to name.")] = 5,
    figure: Annotated[str | None, Opt(help="Draw a PNG with a strip a video.")] = None,
    clip_pretrained: Annotated[str | None, Opt(help="Where the CLIP weights are now, if they moved.")] = None,
    video_pretrained: Annotated[str | None, Opt(help="Where the video model's weights are now.")] = None,
    det_weights: Annotated[str | None, Opt(help="Where the detector's weights are now.")] = None,
    pose_weights: Annotated[str | None, Opt(help="Where the keypoint model's weights are now.")] = None,
    pose_config: Annotated[str | None, Opt(help="Where the file of poses, or mmpose's config, is now.")] = None,
    code: Code = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Classify video files with the heads of a run. Nothing is written but the picture; exit code 1 when no video could
    be used.

    \b
      vilp-pipe predict clip.mp4 --run runs/hmdb51-fuse
      vilp-pipe predict my-videos/ --run runs/hmdb51-fuse --figure predicted.png --json
      vilp-pipe predict clip.mp4 --run runs/hmdb51-late  # of evaluate --late --out
    """
    with only_result_on_stdout() as print_result:
        from pipeline.prediction import predict as classify

        moved = {
            "clip_pretrained": clip_pretrained,
            "video_pretrained": video_pretrained,
            "det_weights": det_weights,
            "pose_weights": pose_weights,
            "pose_config": pose_config,
        }

        def show_found(found: Predictions) -> None:
            show(found, _lines(found), json=json, print_result=print_result)

        with shown_anyway(show_found):
            found = classify(
                videos,
                run=run,
                store=store,
                split=split,
                top=top,
                device=device,
                weights=moved,
                figure=figure,
                code=code or (),
                progress=make_progress(),
            )
        show_found(found)
        if figure is not None:
            keep_config(figure)
    if all(video.error_kind for video in found.videos):
        say("error: no video could be used; see above for each")
        raise typer.Exit(1)


def _lines(found: Predictions) -> Iterator[str]:
    for video in found.videos:
        yield video.path + (" (ends early: far fewer frames decode than it claims)" if video.partial else "")
        if video.error_kind:
            yield f"  {video.error_kind}: {video.error_message}"
        for name, score in video.classes:
            yield f"  {score:6.1%}  {name}"
    for warning in found.warnings:
        yield f"note: {warning}"
