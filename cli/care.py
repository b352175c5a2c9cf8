"""``vilp-pipe delete``, ``gc``, ``copy`` and ``merge``: care for stores."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.app import app
from cli.console import as_json, make_progress, only_result_on_stdout
from cli.options import DryRun, Json, Store
from store.printable import command

Arg = typer.Argument


@app.command()
def delete(
    group: Annotated[str, Arg(help="A group by path or id, or the beginning of one, as vilp-pipe status names it.")],
    store: Store = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Delete a modality of a store: its commits, its definition and its arrays; with a CLIP model go its text sets.

    \b
      vilp-pipe delete pose/rtmpose --store stores/hmdb51 --dry-run
    """
    with only_result_on_stdout() as print_result:
        from pipeline.status import find_store
        from store.care import delete_group
        from store.objects import open_objects

        objects = open_objects(find_store(store))
        removal = delete_group(objects, group, dry_run=dry_run)
        if json:
            print_result(as_json({"store": objects.url, "dry_run": dry_run, **_plain(removal)}))
            return
        would = "would be deleted" if dry_run else "deleted"
        for path in removal.groups:
            print_result(f"{path}: {would}")
        print_result(f"{len(removal.keys)} objects {would} from {objects.url}")
        for path in removal.unused_frames:
            print_result(f"{path} tells of no features any more; it can be deleted as well")


@app.command()
def gc(store: Store = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Remove what belongs to nothing: arrays without a commit, leftovers of writers that were killed, remains of groups
    that are not defined. What is no store's own is named and left alone.

    \b
      vilp-pipe gc --store stores/hmdb51 --dry-run
    """
    with only_result_on_stdout() as print_result:
        from pipeline.status import find_store
        from store.care import collect
        from store.objects import open_objects

        objects = open_objects(find_store(store))
        found = collect(objects, dry_run=dry_run)
        if json:
            print_result(as_json({"store": objects.url, "dry_run": dry_run, **_plain(found)}))
            return
        for orphan in found.orphans:
            print_result(f"{'would remove' if dry_run else 'removed'} {orphan.key}: {orphan.why}")
        for path in found.lost_groups:
            print_result(f"left alone {path}: it has commits but no definition; {command('delete', path)} removes it")
        for key in found.strangers:
            print_result(f"left alone {key}: not known to be part of a store")
        print_result(f"{len(found.orphans)} objects {'would be removed' if dry_run else 'removed'} from {objects.url}")


@app.command()
def copy(
    source: Annotated[str, Arg(help="Folder of a store, or s3://bucket/prefix.")],
    destination: Annotated[str, Arg(help="Where the copy goes: a folder, or s3://bucket/prefix.")],
    json: Json = False,
) -> None:
    """Copy a store, from a folder or a bucket to either. Run it again after whatever ended it.

    Every object is held against its hash on the way.

    \b
      vilp-pipe copy stores/hmdb51 s3://features/hmdb51
    """
    with only_result_on_stdout() as print_result:
        from store.objects import open_objects
        from store.transfer import copy_store

        bar = _Shards("copying")
        done = copy_store(open_objects(source), open_objects(destination), progress=bar)
        _show(done, [source], destination, json, print_result)


@app.command()
def merge(
    sources: Annotated[list[str], Arg(help="Stores of one plan: folders, or s3://bucket/prefix.")],
    destination: Annotated[str, Arg(help="Where all groups and shards go; it may exist, with the same plan.")],
    json: Json = False,
) -> None:
    """Bring stores of one plan together, such as parts that were computed on machines without a common disk. Run it
    again after whatever ended it.

    \b
      vilp-pipe merge part-0 part-1 s3://features/part-2 stores/hmdb51
    """
    with only_result_on_stdout() as print_result:
        from store.objects import open_objects
        from store.transfer import merge_stores

        bar = _Shards("merging")
        done = merge_stores([open_objects(source) for source in sources], open_objects(destination), progress=bar)
        _show(done, sources, destination, json, print_result)


class _Shards:
    """Progress of a transfer, in shards."""

    def __init__(self, what: str) -> None:
        self._what, self._progress = what, make_progress()

    def __call__(self, done: int, total: int) -> None:
        if done == 0:
            self._progress.begin(f"{self._what} shards", total)
        else:
            self._progress.advance(1)
        if done == total:
            self._progress.end()


def _show(done: Any, sources: list[str], destination: str, json: bool, print_result: Any) -> None:
    if json:
        print_result(as_json({"sources": sources, "destination": destination, **_plain(done)}))
        return
    groups = f", new groups: {', '.join(done.groups)}" if done.groups else ""
    print_result(f"{done.shards} shards brought to {destination}, {done.present} were there{groups}")
    print_result(f"check every byte, and the digest: {command('verify', '--store', destination)}")


def _plain(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result)
