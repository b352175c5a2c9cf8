"""``vilp-pipe inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, only_result_on_stdout, say
from cli.options import ClipGroup, Code, Json, PoseGroup, Store, complete_run
from store.errors import UsageError

Opt = typer.Option


@app.command()
def inspect(
    store: Store = None,
    video: Annotated[list[str] | None, Opt(help="Id of a video; give it several times for several.")] = None,
    random: Annotated[int | None, Opt(help="This many videos by lot; with --run, test videos of its split.")] = None,
    seed: Annotated[int, Opt(help="Of the lot.")] = 0,
    run: Annotated[
        str | None,
        Opt(help="Folder of a training run: adds frame weights and top classes.", autocompletion=complete_run),
    ] = None,
    frames: Annotated[int | None, Opt(help="Frames a strip (default: what the run reads, or 8).")] = None,
    clip: ClipGroup = None,
    pose: PoseGroup = None,
    code: Code = None,
    out: Annotated[Path, Opt(help="The picture.")] = Path("inspect.png"),
    json: Json = False,
) -> None:
    """Draw what a store knows of videos: stored frames with skeletons and boxes, the heatmap on the token grid.

    \b
      vilp-pipe inspect --store stores/hmdb51 --random 12
      vilp-pipe inspect --store stores/hmdb51 --video smile_7 --run runs/hmdb51-fuse --out smile.png
    """
    with only_result_on_stdout() as print_result:
        from pipeline.inspection import inspect_videos, some_videos
        from pipeline.status import find_store
        from store.reader import FeatureStore

        if bool(video) == (random is not None):
            raise UsageError("give either --video ID (as often as you like) or --random N")
        if random is not None and random < 1:
            raise UsageError(f"random is {random}; allowed: 1 or more videos")
        if out.suffix.lower() != ".png":
            raise UsageError(f"out is {str(out)!r}; allowed: a name that ends in .png")
        opened = FeatureStore.open(find_store(store))
        chosen = video or some_videos(opened, random or 1, seed=seed, run=run, clip=clip, pose=pose)
        notes = inspect_videos(opened, chosen, out, run=run, frames=frames, clip=clip, pose=pose, code=code or ())
        if random is not None and len(chosen) < random:
            notes.append(f"there are only {len(chosen)} such videos with features")
        keep_config(out, store=opened.url)
        if json:
            print_result(as_json({"picture": str(out), "videos": chosen, "notes": list(notes)}))
            return
        for line in notes:
            say(f"note: {line}")
        print_result(str(out))
