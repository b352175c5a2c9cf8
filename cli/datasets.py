"""``vilp-pipe datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.app import app
from cli.config import App, keep_config
from cli.console import as_json, make_progress, only_result_on_stdout, say
from cli.options import Json, named
from store.printable import command

Opt = typer.Option

datasets = App(no_args_is_help=True, help="Get the official datasets: list, prepare.")
app.add_typer(datasets, name="datasets")


@datasets.command("list")
def list_datasets(
    json: Json = False,
) -> None:
    """The datasets that can be prepared: what they are, where they would lie, and what of them is there.

    \b
      vilp-pipe datasets list
    """
    with only_result_on_stdout() as print_result:
        from pipeline.datasets import default_root, load_dataset
        from pipeline.datasets.prepare import RECIPES
        from store.errors import VilpError

        rows: dict[str, Any] = {}
        for name, recipe in RECIPES.items():
            official, root = recipe.official, default_root(name)
            try:
                present = len(load_dataset(name, root).videos)
            except VilpError:
                present = 0
            rows[name] = {
                "videos": official.num_videos,
                "classes": official.num_classes,
                "root": str(root),
                "present": present,
                "licence": official.licence,
                "archives": [archive.url for archive in recipe.archives],
            }
        if json:
            print_result(as_json({"datasets": rows}))
            return
        for name, row in rows.items():
            print_result(
                f"{name}: {row['videos']:,} videos, {row['classes']} classes; {row['present']:,} in {row['root']}"
            )
            print_result(f"  licence: {row['licence']}")
            for url in row["archives"]:
                print_result(f"  {url}")
            if row["present"] < row["videos"]:
                print_result(f"  {command('datasets', 'prepare', name, '--root', str(row['root']))}")


@datasets.command()
def prepare(
    name: Annotated[str, typer.Argument(help="hmdb51 or ucf101.", autocompletion=named("hmdb51", "ucf101"))],
    root: Annotated[
        Path | None, Opt(help="Folder to lay it out in (default: $VILP_DATA/<name>, else data/<name>).")
    ] = None,
    archives: Annotated[
        Path | None, Opt("--from", help="Folder that has the official archives already; nothing is downloaded.")
    ] = None,
    json: Json = False,
) -> None:
    """Download, unpack, lay out, count and decode a dataset. Run it again after whatever ended it: it goes on.

    Exit code 1 when a count is not the official one. Videos that do not decode are reported; extract
    quarantines them.

    \b
      vilp-pipe datasets prepare hmdb51
      vilp-pipe datasets prepare ucf101 --root /data/ucf101 --from ~/Downloads
    """
    with only_result_on_stdout() as print_result:
        from pipeline.datasets import default_root
        from pipeline.datasets.prepare import RECIPES
        from pipeline.datasets.prepare import prepare as make
        from store.errors import one_of

        one_of("dataset", name, tuple(RECIPES))
        made = make(RECIPES[name], root or default_root(name), archives=archives, progress=make_progress())
        keep_config(made.root, root=made.root)
        if json:
            print_result(as_json(made.to_dict()))
        else:
            splits = ", ".join(f"{train:,}/{test:,}" for train, test in made.splits)
            print_result(f"{name}: {made.videos:,} videos, {made.classes} classes, splits {splits} in {made.root}")
            for line in made.wrong:
                print_result(f"incomplete: {line}")
            for line in made.unreadable:
                print_result(f"unreadable: {line}")
            if not made.wrong:
                print_result(f"next: {command('extract', '--dataset', name, '--root', str(made.root))}")
    if made.wrong:
        say(
            f"error: {name} is not complete; run the same command again, or compare the archives with the official ones"
        )
        raise typer.Exit(1)
