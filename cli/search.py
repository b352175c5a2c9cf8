"""``vilp-pipe search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, only_result_on_stdout, say
from cli.options import ClipGroup, Code, Json, Store, named

Opt = typer.Option


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    store: Store = None,
    like: Annotated[str | None, Opt(help="Instead of a text: the id of a video whose neighbours to find.")] = None,
    top: Annotated[int, Opt(help="Results to show.")] = 10,
    by: Annotated[str, Opt(help="video or frame: what is ranked.", autocompletion=named("video", "frame"))] = "video",
    clip: ClipGroup = None,
    html: Annotated[Path | None, Opt(help="Write a page with thumbnails, which needs nothing else.")] = None,
    code: Code = None,
    json: Json = False,
) -> None:
    """Find videos, or frames, by words or by another video, among the stored CLIP features.

    \b
      vilp-pipe search --store stores/hmdb51 "a person jumping over a bar"
      vilp-pipe search --store stores/hmdb51 "a dog" --by frame --top 30 --html dogs.html
      vilp-pipe search --store stores/hmdb51 --like v_Archery_g01_c01
    """
    with only_result_on_stdout() as print_result:
        from pipeline.search import search as find
        from pipeline.search import write_page
        from pipeline.status import find_store
        from store.reader import FeatureStore

        opened = FeatureStore.open(find_store(store))
        found = find(opened, text, like=like, top=top, by=by, clip=clip)
        if html is not None:
            write_page(opened, found, html, code=code or ())
            keep_config(html, store=opened.url)
        if json:
            print_result(as_json({**found.to_dict(), "html": None if html is None else str(html)}))
            return
        for rank, hit in enumerate(found.hits, start=1):
            print_result(
                f"{rank:4} {hit.score:7.4f}  {hit.video_id}  ({hit.class_name}, frame {hit.frame + 1} of "
                f"{found.frames})"
            )
        if html is not None:
            print_result(f"page: {html}")
    if found.warning:
        say(f"warning: {found.warning}")
