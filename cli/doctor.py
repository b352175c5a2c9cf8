"""``vilp-pipe doctor``."""

from __future__ import annotations

from typing import Any

import typer

from cli.app import app
from cli.config import with_options_of
from cli.console import as_json, only_result_on_stdout, say
from cli.extract import extract, settings
from cli.options import Json


@app.command()
@with_options_of(extract, but=("ray_address", "update", "retry_quarantined", "dry_run", "profile", "strict", "json"))
def doctor(json: Json = False, **options: Any) -> None:
    """Look at this machine: what works, what does not, and what to do. Downloads and writes nothing.

    With --dataset or --store, or a file of settings of extract, also whether weights, videos, disk and memory are there
    for that extraction. Exit code 1 when something that is needed does not work.

    \b
      vilp-pipe doctor
      vilp-pipe doctor --dataset hmdb51 --pose none
    """
    given = settings(options)
    with only_result_on_stdout() as print_result:
        from dataclasses import asdict

        from pipeline.config import ExtractConfig, resolve
        from pipeline.doctor import FAIL, examine

        planned = "dataset" in given or options["store"] is not None
        config = resolve(options["store"], given) if planned else ExtractConfig(dataset="folder", **given)
        found = []
        for check in examine(config, planned=planned):
            found.append(check)
            if not json:
                print_result(f"{check.status:5} {check.name:16} {check.found}")
                if check.todo:
                    print_result(f"{'':22} -> {check.todo}")
        broken = [check.name for check in found if check.status == FAIL]
        if json:
            print_result(as_json({"ok": not broken, "checks": [asdict(check) for check in found]}))
    if broken:
        say(f"error: {', '.join(broken)}: see above for what to do")
        raise typer.Exit(1)
