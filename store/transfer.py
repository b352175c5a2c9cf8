"""Shards from one store to another: copies, and stores whose parts were computed apart brought together.

A shard travels as it is: every array is held against the hash in its commit on the way, and the commit is put after
them. So the destination is a whole store with fewer shards at any moment, and the same command goes on after a kill.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from store.commits import FACTS, Commit, committed_shards, corrupt, read_commit
from store.derived import refresh
from store.errors import StoreError, UsageError
from store.groups import Group, read_groups, write_metadata
from store.kept import bring_configs
from store.layout import STORE, checksum_key, commit_key, definition_key
from store.lease import WHOLE, hold
from store.objects import Objects, is_remote
from store.parallel import each
from store.plan import Plan, read_plan, settle_plan
from store.printable import command
from store.sealed import get_sealed, seal, settle, sha256
from store.writer import check_place, create_store


@dataclass(frozen=True)
class Transfer:
    """What a copy or a merge brought: groups and shards that the destination had not, and shards that it had."""

    groups: tuple[str, ...]
    shards: int
    present: int


@dataclass(frozen=True)
class _Shard:
    source: Objects
    group: str
    number: int


def copy_store(
    source: Objects, destination: Objects, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Transfer:
    """Copy a store, or go on with a copy that was cut short. Both then have one digest.

    Raises ``StoreError`` (``store-mismatch``) where the destination holds what the source does not, and what
    ``merge_stores`` raises.
    """
    _refuse_one_place([source, destination])
    plan = read_plan(source)
    check_place(destination)
    if get_sealed(destination, STORE) is not None:  # stores of other plans cannot be brought together either
        _require_same_plan(source, plan, destination, read_plan(destination))
    groups = read_groups(source)
    for path in read_groups(destination):
        extra = set(committed_shards(destination, path)) - set(committed_shards(source, path))
        if path not in groups or extra:
            what = path if path not in groups else f"shard {min(extra)} of {path}"
            raise StoreError(
                f"{destination.url} holds {what}, which {source.url} does not: it is no copy; name another place, or "
                f"bring the two together: {command('merge', source.url, destination.url)}",
                kind="store-mismatch",
            )
    return merge_stores([source], destination, progress=progress)


def merge_stores(
    sources: Sequence[Objects],
    destination: Objects,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Transfer:
    """Bring the groups and shards of some stores of one plan into another one, which is made where there is none.

    ``progress`` is told how many shards are done, and of how many. Raises ``StoreError`` before anything is changed:
    ``store-mismatch`` where plans differ (file times and folders aside), or where two stores hold a shard with other
    values; ``store-corrupt`` where a commit is damaged, and later, when what was brought stays, where an array is.
    """
    _refuse_one_place([*sources, destination])
    plans = [read_plan(source) for source in sources]
    for source, plan in zip(sources, plans, strict=True):
        _require_same_plan(sources[0], plans[0], source, plan)
    check_place(destination)
    exists = get_sealed(destination, STORE) is not None
    if exists:
        _require_same_plan(sources[0], plans[0], destination, read_plan(destination))
    _inventory([*sources, destination] if exists else sources)
    with hold(destination, WHOLE) as lease:
        ours = lease.guard(destination)
        settle_plan(ours)
        plan = create_store(ours, plans[0])
        before = read_groups(ours)
        groups, shards = _inventory([ours, *sources])
        for path, group in groups.items():
            settle(ours, definition_key(path), seal(group.to_dict()), point="group")
        write_metadata(ours, plan)
        for source in sources:
            bring_configs(source, ours)
        missing = [shard for shard in shards if shard.source is not ours]
        done = iter(range(1, len(missing) + 1))
        progress(0, len(missing))
        each(lambda shard: _bring(shard, ours), missing, done=lambda shard: progress(next(done), len(missing)))
        refresh(ours)
    return Transfer(tuple(sorted(set(groups) - set(before))), len(missing), len(shards) - len(missing))


def _inventory(stores: Sequence[Objects]) -> tuple[dict[str, Group], list[_Shard]]:
    """All groups and shards, each from the first store that has it. Raises where two have a shard with other values."""
    groups: dict[str, Group] = {}
    shards: dict[tuple[str, int], _Shard] = {}
    for store in stores:
        for path, group in read_groups(store).items():
            groups.setdefault(path, group)
            for number in committed_shards(store, path):
                first = shards.setdefault((path, number), _Shard(store, path, number))
                if first.source is not store:
                    _require_same_values(first, _Shard(store, path, number))
    return groups, list(shards.values())


def _require_same_values(one: _Shard, other: _Shard) -> None:
    a, b = (read_commit(shard.source, shard.group, shard.number) for shard in (one, other))
    if a is None or b is None:  # removed since it was listed
        return
    if a.objects == b.objects and a.table.select(FACTS).equals(b.table.select(FACTS)):
        return
    ours, theirs = (set(commit.table["slot"].to_pylist()) for commit in (a, b))
    if ours != theirs:
        raise StoreError(
            f"shard {one.number} of {one.group} holds other videos in {one.source.url} than in {other.source.url} "
            f"(slot {min(ours ^ theirs)} is in one of them alone, as after --limit), and shards are taken whole; "
            "nothing was changed: extract the rest of that shard in both, or delete the group from one",
            kind="store-mismatch",
        )
    raise StoreError(
        f"shard {one.number} of {one.group} holds other values in {one.source.url} than in {other.source.url} "
        f"({_first_difference(a, b)}); nothing was changed: delete the group from one of the two, or keep them apart",
        kind="store-mismatch",
    )


def _first_difference(a: Commit, b: Commit) -> str:
    """Of two commits of the same videos."""
    for ours, theirs in zip(*(commit.table.select(FACTS).to_pylist() for commit in (a, b)), strict=True):
        differing = [name for name in FACTS if ours[name] != theirs[name]]
        if differing:
            name = differing[0]
            return f"{name} of slot {ours['slot']} is {ours[name]!r} and {theirs[name]!r}"
    keys = sorted(key for key in a.objects.keys() | b.objects.keys() if a.objects.get(key) != b.objects.get(key))
    return f"the bytes of {keys[0]} differ"


def _require_same_plan(one: Objects, a: Plan, other: Objects, b: Plan) -> None:
    for name, left, right in _differences(a, b):
        raise StoreError(
            f"{one.url} and {other.url} have different plans: {name} is {left!r} and {right!r}; only stores of one "
            "plan can be brought together",
            kind="store-mismatch",
        )


def _differences(a: Plan, b: Plan) -> Iterator[tuple[str, Any, Any]]:
    """What differs between two plans that makes them different: where the videos lie and their times do not."""
    for name in ("dataset", "shard_len", "num_splits", "class_names"):
        if getattr(a, name) != getattr(b, name):
            yield name, getattr(a, name), getattr(b, name)
            return
    if a.videos.num_rows != b.videos.num_rows:
        yield "the number of videos", a.videos.num_rows, b.videos.num_rows
    columns = [name for name in a.videos.column_names if name != "mtime_ns"]
    for name in columns:
        left, right = (plan.videos[name].combine_chunks() for plan in (a, b))
        if left.equals(right):
            continue
        pairs = enumerate(zip(left.to_pylist(), right.to_pylist(), strict=False))
        row, (x, y) = next((row, pair) for row, pair in pairs if pair[0] != pair[1])
        yield f"{name} of slot {a.videos['slot'][row]}", x, y


def _bring(shard: _Shard, destination: Objects) -> None:
    """Copy a shard: arrays, hashes, commit."""
    source, group, number = shard.source, shard.group, shard.number
    commit = read_commit(source, group, number)  # raises where it is damaged
    if commit is None:
        raise _removed(shard)
    for key, digest in commit.objects.items():
        content = source.get(key)
        if content is None or sha256(content) != digest:
            if source.get(commit_key(group, number)) != commit.data:
                raise _removed(shard)
            raise corrupt(source, f"{source.describe(key)} is {'missing' if content is None else 'damaged'}")
        destination.put(key, content, point="array")
    destination.put(checksum_key(group, number), commit.sums, point="checksums")
    destination.put(commit_key(group, number), commit.data, point="commit")


def _removed(shard: _Shard) -> StoreError:
    return StoreError(
        f"shard {shard.number} of {shard.group} was removed from {shard.source.url}, or written again, while it was "
        "copied; run the same command again",
        kind="store-mismatch",
    )


def _refuse_one_place(stores: Sequence[Objects]) -> None:
    places = [store.url if is_remote(store.url) else os.path.realpath(store.url) for store in stores]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise UsageError(f"{twice[0]} is named twice; a store cannot be brought into itself")
