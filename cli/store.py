"""``vilp-pipe status`` and ``vilp-pipe verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.app import app
from cli.console import as_json, make_progress, only_result_on_stdout, say
from cli.options import Json, Store
from store.printable import command

Opt = typer.Option
# Quarantined videos that status names one by one.
SHOWN = 10


@app.command()
def status(
    store: Store = None,
    json: Json = False,
) -> None:
    """What is in a store: coverage of every group, who works on it now, and what is quarantined.

    \b
      vilp-pipe status
      vilp-pipe status --store stores/hmdb51 --json
    """
    with only_result_on_stdout() as print_result:
        from pipeline.status import find_store, store_status
        from store.groups import in_words
        from store.layout import QUARANTINE

        found = store_status(find_store(store))
        if json:
            print_result(as_json(found))
            return
        print_result(f"{found['store']}: {found['dataset']}, {found['planned']} videos in {found['shards']} shards")
        print_result(
            f"  {found['missing']} videos of lists or plan are not on disk, {found['unlisted']} files are in no list"
        )
        width = max((len(group["path"]) for group in found["groups"]), default=5)
        print_result(f"  {'group':{width}}  committed  partial  quarantined     left        MB")
        for group in found["groups"]:
            counts = f"{group['committed']:9}  {group['partial']:7}  {group['quarantined']:11}  {group['left']:7}"
            print_result(f"  {group['path']:{width}}  {counts}  {group['bytes'] / 1e6:8.1f}")
            if group["settings"]:
                print_result(f"    {in_words(group['settings'])}")
            for text in found["texts"]:
                if text["path"].startswith(f"{group['path']}/"):
                    told = [in_words(text["settings"])] if text["settings"] else []
                    told += [] if text["committed"] else ["holds nothing yet: go on with vilp-pipe extract"]
                    print_result(f"    {': '.join([text['path'].removeprefix(group['path'] + '/'), *told])}")
            if not group["committed"] and not found["running"]:
                remove = command("delete", group["path"], "--store", found["store"])
                print_result(f"    holds nothing yet: go on with vilp-pipe extract, or remove it with: {remove}")
        for run in found["running"]:
            silent = "" if run["silent_seconds"] is None else f", last heard of {run['silent_seconds']:.0f} s ago"
            print_result(
                f"  running: part {run['part']}, process {run['pid']} on {run['host']} since {run['since']}{silent}"
            )
        failures: dict[tuple[str, str, str], int] = {}
        for row in found["quarantined"]:
            failure = (row["video_id"], row["kind"], row["message"])
            failures[failure] = failures.get(failure, 0) + 1
        for (video_id, kind, message), groups in list(failures.items())[:SHOWN]:
            print_result(
                f"  quarantined: {video_id}: {kind}: {message}{f' (in {groups} groups)' if groups > 1 else ''}"
            )
        if len(failures) > SHOWN:
            print_result(f"  quarantined: and {len(failures) - SHOWN} more, all in {found['store']}/{QUARANTINE}/")
        for line in found["next_steps"]:
            print_result(f"  {line}")


@app.command()
def verify(
    store: Store = None,
    repair: Annotated[
        bool, Opt("--repair", help="Restore what has a copy; compute damaged shards again from their videos.")
    ] = False,
    code: Annotated[
        list[str] | None,
        Opt(help="A decoder or estimator (module:name) or config file that the store names and a repair may run."),
    ] = None,
    sources: Annotated[bool, Opt("--sources", help="Compare the videos on disk with their recorded SHA-256.")] = False,
    json: Json = False,
) -> None:
    """Check every byte of a store, and print the digest of its values. Exit code 1 when anything is wrong.

    \b
      vilp-pipe verify --store stores/hmdb51
      vilp-pipe verify --store stores/hmdb51 --repair
    """
    with only_result_on_stdout() as print_result:
        from dataclasses import asdict

        from pipeline.repair import repair as mend
        from pipeline.status import changed_sources, find_store
        from store.objects import open_objects
        from store.plan import read_plan
        from store.verify import verify_store

        objects = open_objects(find_store(store))
        progress = make_progress()
        report = verify_store(objects, note=progress.note)
        if repair and (report.problems or report.leftovers):
            for problem in report.problems:
                progress.warn(f"{problem.key} {problem.message}")
            report = mend(objects, report, progress=progress, code=code or ())
        changed = changed_sources(objects) if sources else []
        if json:
            print_result(
                as_json({**asdict(report), "changed_sources": changed, "ok": not report.problems and not changed})
            )
        else:
            ids = read_plan(objects).lookup("slot", "video_id")
            for problem in report.problems:
                print_result(f"{problem.key} {problem.message}")
                if problem.slots:
                    print_result(f"  videos: {', '.join(ids[slot] for slot in problem.slots)}")
            for line in changed:
                print_result(line)
            print_result(
                f"{report.committed} of {report.planned} videos committed, {report.partial} partial, "
                f"{report.quarantined} quarantined, {report.corrupt} corrupt"
            )
            print_result(f"digest {report.digest}")
    if report.problems and not repair:
        repair_command = command("verify", "--store", objects.url, "--repair")
        say(f"error: damaged objects: {len(report.problems)}; run: {repair_command}")
    if report.problems or changed:
        raise typer.Exit(1)
