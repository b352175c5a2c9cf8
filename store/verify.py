"""Is every byte of a store as it was written? What its values are, as one digest; and restoring what can be
restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from store.commits import (
    FACTS,
    PARTIAL,
    QUARANTINED,
    Commit,
    committed_shards,
    read_commit,
    remove_commit,
    unfinished_checksums,
)
from store.errors import StoreError
from store.groups import Group, expected_metadata, read_groups, write_metadata
from store.kept import damaged_configs
from store.layout import HEARTBEATS, LEASE, MISSING, STORE, VIDEOS, commit_key, definition_key
from store.objects import Objects
from store.packs import stray_packs
from store.plan import Plan, read_plan, settle_plan
from store.quarantine import damaged_reports
from store.reader import FeatureStore
from store.sealed import canonical, copy_key, get_sealed, seal, settle, sha256, unseal


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written: an object, the shard of the group that it belongs to (None where it is
    metadata, which is restored from its copy), and the slots whose features it holds."""

    key: str
    message: str
    group: str = ""
    shard: int | None = None
    slots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """Outcome of a verification. All counts are of videos.

    digest       SHA-256 over the values of the plan and of all committed features, never over times or file bytes, so
                 that two stores with the same digest hold the same features; None while something is damaged
    planned      videos in the plan
    committed    videos that every modality of the store has committed, the quarantined among them
    partial      committed from a file of which far fewer frames decode than it claims
    quarantined  committed without features
    corrupt      videos that a problem touches
    leftovers    what writers that were killed left behind: temporary files, hashes without a commit, rows of packs
    """

    digest: str | None
    planned: int
    committed: int
    partial: int
    quarantined: int
    corrupt: int
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]


def verify_store(objects: Objects, *, note: Callable[[str], None] = lambda line: None) -> Report:
    """Check every object of a store against its hash and compute the digest of its values.

    Raises ``StoreError`` where there is no store, or where both copies of its plan are damaged.
    """
    plan = read_plan(objects)
    groups = read_groups(objects)
    problems = list(_metadata_problems(objects, plan, groups))
    status: list[dict[int, str]] = []
    for path, group in groups.items():
        note(f"checking {path}")
        rows: dict[int, str] = {}
        for shard in committed_shards(objects, path):
            commit, found = _check_shard(objects, plan, group, shard)
            problems += found
            if commit is not None:
                rows |= zip(commit.table["slot"].to_pylist(), commit.table["status"].to_pylist(), strict=True)
        if group.modality.per_video:
            status.append(rows)
    stray = stray_packs(objects, groups)
    problems += [Problem(key, "or its other half is damaged: a copy of commits") for key in stray if stray[key]]
    problems += [Problem(key, "is a damaged report") for key in damaged_reports(objects)]
    problems += [Problem(key, "is a damaged record of settings") for key in damaged_configs(objects)]
    return Report(
        digest=None if problems else store_digest(FeatureStore(objects, plan, groups), note=note),
        planned=plan.videos.num_rows,
        committed=len(set.intersection(*(set(rows) for rows in status))) if status else 0,
        partial=_count(status, PARTIAL),
        quarantined=_count(status, QUARANTINED),
        corrupt=len({slot for problem in problems for slot in problem.slots}),
        problems=tuple(problems),
        leftovers=tuple(_leftovers(objects, groups)),
    )


def restore(objects: Objects, report: Report) -> list[Problem]:
    """Repair all that needs no video: restore metadata from its copies, remove leftovers, and remove the commits of
    damaged shards so that an extraction computes them again. Returns the problems that such an extraction has to
    mend.
    """
    settle_plan(objects)
    plan = read_plan(objects)
    for path in read_groups(objects):
        key = definition_key(path)
        settle(objects, key, seal(get_sealed(objects, key)))
    write_metadata(objects, plan)
    for key in _lease_keys(objects):
        if not _is_sealed(objects.get(key)):
            objects.delete(key)
    for key in [*damaged_reports(objects), *damaged_configs(objects)]:  # the next run makes them anew
        objects.delete(key)
    groups = read_groups(objects)
    damaged_packs = [key for key, damaged in stray_packs(objects, groups).items() if damaged]
    for leftover in [*damaged_packs, *_leftovers(objects, groups)]:
        objects.delete(leftover)
    damaged = [problem for problem in report.problems if problem.shard is not None]
    for group, shard in sorted({(p.group, p.shard) for p in damaged if p.shard is not None}):
        remove_commit(objects, group, shard)
    return damaged


def store_digest(store: FeatureStore, *, note: Callable[[str], None] = lambda line: None) -> str:
    """SHA-256 over the plan and all committed feature rows as canonical values: equal for a run that was killed and
    resumed and for one that was not, on either engine. Times, messages and the bytes of Parquet and Zarr files do not
    enter.
    """
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(canonical(value).encode() + b"\n")

    columns = [name for name in store.videos.column_names if name != "mtime_ns"]
    add({"dataset": store.dataset_name, "class_names": list(store.class_names), "shard_len": store.plan.shard_len})
    for row in store.videos.select(columns).to_pylist():
        add(row)
    for path, group in sorted(store.groups.items()):
        note(f"digest of {path}")
        add({"group": path, "record": dict(group.modality.record)})
        commits = store.commits(group)
        shards = commits.slots // store.plan.shard_len
        for shard in commits.objects:
            low, high = np.searchsorted(shards, [shard, shard + 1])
            rows = commits.table.slice(low, high - low)
            for row in rows.select(FACTS).to_pylist():
                add(row)
            for name in sorted(group.modality.arrays):
                if group.modality.per_video:
                    values = store.rows(group, name, rows["slot"].to_pylist())
                else:
                    values = store.whole(group, name)
                add([name, shard, str(values.dtype), list(values.shape)])
                digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _metadata_problems(objects: Objects, plan: Plan, groups: dict[str, Group]) -> Iterator[Problem]:
    for key in _sealed_keys(objects):
        for candidate in (key, copy_key(key)):
            if not _is_sealed(objects.get(candidate)):
                yield Problem(candidate, "is damaged or missing; its copy is whole")
    for key in (VIDEOS, MISSING):
        for candidate in (key, copy_key(key)):
            if sha256(objects.get(candidate) or b"") != _table_hash(objects, key):
                yield Problem(candidate, "is damaged or missing; its copy is whole")
    for key, data in expected_metadata(plan, groups).items():
        if objects.get(key) != data:
            yield Problem(key, "differs from what its definition says")
    for key in _lease_keys(objects):
        lease = objects.get(key)
        if lease is not None and not _is_sealed(lease):
            yield Problem(key, "is a damaged lease")


def _check_shard(objects: Objects, plan: Plan, group: Group, shard: int) -> tuple[Commit | None, list[Problem]]:
    """The commit of a shard, where it is whole, and what is wrong with the shard. A run that writes it meanwhile is no
    fault: a shard is looked at again as long as its commit changes."""
    slots = tuple(plan.slots_of(shard)) if group.modality.per_video else ()
    try:
        commit = read_commit(objects, group.path, shard)
    except StoreError:
        key = commit_key(group.path, shard)
        return None, [Problem(key, "or its list of hashes is damaged", group.path, shard, slots)]
    if commit is None:
        return None, []
    problems = []
    for key, digest in commit.objects.items():
        data = objects.get(key)
        if data is None or sha256(data) != digest:
            problems.append(Problem(key, "is missing" if data is None else "is damaged", group.path, shard, slots))
    if problems and objects.get(commit_key(group.path, shard)) != commit.data:
        return _check_shard(objects, plan, group, shard)
    return commit, problems


def _sealed_keys(objects: Objects) -> Iterator[str]:
    yield STORE
    for path in read_groups(objects):
        yield definition_key(path)


def _leftovers(objects: Objects, groups: Iterable[str]) -> Iterator[str]:
    yield from objects.temporaries()
    yield from (key for key, damaged in stray_packs(objects, groups).items() if not damaged)
    for group in groups:
        yield from unfinished_checksums(objects, group)


def _lease_keys(objects: Objects) -> Iterator[str]:
    yield LEASE
    yield from objects.list(HEARTBEATS)


def _is_sealed(data: bytes | None) -> bool:
    try:
        return data is not None and unseal(data) is not None
    except ValueError:
        return False


def _table_hash(objects: Objects, key: str) -> str:
    facts = get_sealed(objects, STORE)
    assert facts is not None
    return facts["tables"][key]


def _count(status: Iterable[dict[int, str]], wanted: str) -> int:
    return len({slot for rows in status for slot, found in rows.items() if found == wanted})
