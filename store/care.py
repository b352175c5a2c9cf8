"""Care for a store: delete a modality, collect what belongs to nothing.

Both decide by what they find, under the lease of the whole store: after a kill at any moment the same command ends what
was begun. Only objects of a form that stores write are removed; other files are named and left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from store.commits import committed_shards, remove_commit
from store.derived import refresh
from store.errors import MissingError, UsageError, nearest
from store.groups import Group, expected_metadata, read_groups, write_metadata
from store.layout import (
    COMMITS,
    CONFIGS,
    GROUPS,
    HEARTBEATS,
    LEASE,
    MISSING,
    PACKS,
    QUARANTINE,
    STORE,
    VIDEOS,
    definition_key,
)
from store.lease import WHOLE, hold
from store.local import LOCK
from store.objects import Objects
from store.parallel import each
from store.plan import Plan, read_plan
from store.schema import KINDS
from store.sealed import copy_key

_KINDS = f"(?:{'|'.join(KINDS)})"
_ID = "[a-z0-9-]+-[0-9a-f]{8}"
_GROUP = rf"(?P<group>{_KINDS}/{_ID}(?:/text/{_ID})?)"
# Every form of key that a store has beside its own tables.
_ARRAY = re.compile(rf"{_GROUP}/\w+/c\.(?P<shard>\d+)(?:\.\d+)*")
_METADATA = re.compile(rf"(?:{_GROUP}(?:/\w+)?|(?P<kind>{_KINDS}))/zarr\.json")
_COMMIT = re.compile(rf"{COMMITS}/{_GROUP}/(?P<shard>\d+)\.(?P<what>parquet|sha256)")
_DEFINITION = re.compile(rf"{GROUPS}/{_GROUP}/group(?:\.copy)?\.json")
_NAMED = re.compile(rf"{QUARANTINE}/[0-9a-f]{{16}}\.parquet|{CONFIGS}/[0-9a-f]{{16}}\.toml")
_PACK = re.compile(rf"{PACKS}/{_GROUP}/(?:pack\.json|[0-9a-f]{{16}}\.parquet)")


@dataclass(frozen=True)
class Orphan:
    """An object of a store that belongs to nothing, and why. ``group`` is the group that it was written for, or the
    kind where several groups shared it; empty for temporary files."""

    key: str
    why: str
    group: str = ""


@dataclass(frozen=True)
class Survey:
    """What lies in a store beside what its plan, definitions and commits need.

    orphans      may be removed
    lost_groups  have commits but no definition any more, so nobody reads them
    strangers    keys of a form that no store writes; they are never touched
    """

    orphans: tuple[Orphan, ...]
    lost_groups: tuple[str, ...]
    strangers: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """What a deletion removed, or would remove: groups with their commits, and the keys of all their objects.
    ``unused_frames`` are groups of frames from which no features are left."""

    groups: tuple[str, ...]
    keys: tuple[str, ...]
    unused_frames: tuple[str, ...]


def survey(objects: Objects) -> Survey:
    """Look through all keys of a store. Raises ``StoreError`` where its plan or a definition cannot be read, since then
    nobody knows what belongs to it."""
    plan, groups, keys = read_plan(objects), read_groups(objects), list(objects.list())
    needed = _needed(plan, groups)
    committed = {path: set(committed_shards(objects, path)) for path in groups}
    commits = [found for key in keys if (found := _COMMIT.fullmatch(key)) and found["what"] == "parquet"]
    lost = {found["group"] for found in commits} - set(groups)
    orphans, strangers = [], []
    for key in keys:
        if key in needed or key.startswith(f"{HEARTBEATS}/") or _NAMED.fullmatch(key):
            continue
        group, shard, what = _parse(key)
        if group is None:
            strangers.append(key)
        elif group in lost:
            continue
        elif group not in groups:
            orphans.append(Orphan(key, f"{what} of a group that is not defined", group))
        elif shard is not None and shard not in committed[group]:
            orphans.append(Orphan(key, f"{what} without a commit", group))
        elif what == "metadata":
            orphans.append(Orphan(key, "metadata of no array or group", group))
    orphans += [Orphan(key, "left by a writer that was killed") for key in objects.temporaries()]
    return Survey(tuple(orphans), tuple(sorted(lost)), tuple(strangers))


def collect(objects: Objects, *, dry_run: bool = False) -> Survey:
    """Remove what belongs to nothing; returns what was found, removed or (in a dry run) to be removed."""
    read_plan(objects)  # no lease is made where there is no store
    if dry_run:
        return survey(objects)
    with hold(objects, WHOLE) as lease:
        ours = lease.guard(objects)
        found = survey(ours)
        _remove(ours, (orphan.key for orphan in found.orphans))
    return found


def delete_group(objects: Objects, name: str, *, dry_run: bool = False) -> Removal:
    """Delete a group that its path, its id or the beginning of one picks; with a CLIP group go its text sets.

    The commits go first, then the definition, then arrays and metadata: readers see whole shards or none, and what a
    kill leaves is ended by the same command, or collected. Raises ``MissingError`` (``missing-modality``) where no
    group fits, ``UsageError`` where several do, and for frames that other groups were computed from.
    """
    read_plan(objects)  # no lease is made where there is no store
    if dry_run:
        return _removal(objects, name)
    with hold(objects, WHOLE) as lease:
        ours = lease.guard(objects)
        removal = _removal(ours, name)
        for path in removal.groups:
            for shard in committed_shards(ours, path):
                remove_commit(ours, path, shard)
        for path in removal.groups:
            ours.delete(definition_key(path))
            ours.delete(copy_key(definition_key(path)))
        write_metadata(ours, read_plan(ours))
        # Listed again: metadata that another group of the kind needs as well has to stay.
        left = {orphan.key for orphan in survey(ours).orphans}
        _remove(ours, (key for key in removal.keys if key in left))
        refresh(ours)
    return removal


def _removal(objects: Objects, name: str) -> Removal:
    groups, keys, found = read_groups(objects), list(objects.list()), survey(objects)
    remains = {orphan.group for orphan in found.orphans} | set(found.lost_groups)
    target = _pick({*groups, *(path for path in remains if "/" in path)}, name)
    users = [path for path in _users(groups, target) if path != target]
    if users:
        raise UsageError(f"{target} tells which frames {', '.join(users)} were computed from; delete those first")
    hanging = [path for path in {*groups, *remains} if path.startswith(f"{target}/")]
    gone = (*sorted(hanging), target)  # text sets before the CLIP group that they are found by
    rest = {path: group for path, group in groups.items() if path not in gone}
    kept = set(expected_metadata(read_plan(objects), rest))
    shared = f"{target.rpartition('/')[0]}/zarr.json"  # goes with the last group of its kind
    going = [key for key in keys if key not in kept and (_parse(key)[0] in gone or key == shared)]
    frames = [path for path in rest if path.startswith("frames/") and not _users(rest, path) and _users(groups, path)]
    return Removal(gone, tuple(going), tuple(frames))


def _pick(paths: Iterable[str], name: str) -> str:
    """The one group that is called so, else the one that begins so; neither the beginning of a path nor that of an id
    reaches over a slash."""
    paths = sorted(paths)
    exact = [path for path in paths if name in (path, path.rpartition("/")[2])]
    beginning = re.compile(rf"(.*/)?{re.escape(name)}[^/]*")
    fitting = exact or [path for path in paths if name and beginning.fullmatch(path)]
    if not fitting:
        listed = f"this store has: {', '.join(paths)}" if paths else "this store has none"
        raise MissingError(f"group is {name!r}; {listed}{nearest(name, paths)}", kind="missing-modality")
    if len(fitting) > 1:
        raise UsageError(f"group is {name!r}, which does not name one group; choose one of: {', '.join(fitting)}")
    return fitting[0]


def _users(groups: Mapping[str, Group], frames: str) -> list[str]:
    """Groups whose features were computed from the frames that a frames group tells of."""
    if frames not in groups or groups[frames].modality.kind != "frames":
        return []
    record = groups[frames].modality.record
    return [path for path, group in groups.items() if group.modality.record.get("frames") == record]


def _remove(objects: Objects, keys: Iterable[str]) -> None:
    keys = list(keys)
    each(objects.delete, keys)
    for folder in sorted({key.rpartition("/")[0] for key in keys}, reverse=True):
        objects.prune(folder)


def _needed(plan: Plan, groups: Mapping[str, Group]) -> set[str]:
    """Keys of the tables and metadata of a store."""
    return {*expected_metadata(plan, groups), *_twice((STORE, VIDEOS, MISSING)), LEASE, LOCK}


def _twice(keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        yield key
        yield copy_key(key)


def _parse(key: str) -> tuple[str | None, int | None, str]:
    """Group (or kind) of a key, its shard where it is of one, and what it is; no group for a key of no known form."""
    if found := _ARRAY.fullmatch(key):
        return found["group"], int(found["shard"]), "array"
    if found := _METADATA.fullmatch(key):
        return found["group"] or found["kind"], None, "metadata"
    if found := _COMMIT.fullmatch(key):
        return found["group"], int(found["shard"]), "commit" if found["what"] == "parquet" else "list of hashes"
    if found := _DEFINITION.fullmatch(key):
        return found["group"], None, "definition"
    if found := _PACK.fullmatch(key):
        return found["group"], None, "pack"
    return None, None, ""
