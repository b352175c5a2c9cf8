"""From a dataset on the disk to the plan of a store, and from plan and commits to the work that is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.datasets import Dataset
from stages.types import VideoRef
from store.commits import QUARANTINED, Commit, committed_shards, read_commit
from store.errors import RetryError, StoreError
from store.lease import WHOLE, Part
from store.objects import Objects
from store.plan import MISSING_SCHEMA, Plan, videos_schema


def make_plan(dataset: Dataset, shard_len: int, source: dict[str, Any]) -> Plan:
    """Give every video that is on the disk a slot, in the order of the dataset."""
    rows = [_row(slot, video) for slot, video in enumerate(dataset.videos)]
    return Plan(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_splits=dataset.num_splits,
        shard_len=shard_len,
        videos=pa.Table.from_pylist(rows, schema=videos_schema(dataset.num_splits)),
        missing=_missing(dataset),
        licence=dataset.licence,
        expected_videos=dataset.expected_videos,
        source=source,
    )


def extend_plan(plan: Plan, dataset: Dataset) -> Plan:
    """Append videos that the plan does not have, from the next shard boundary on."""
    known = set(plan.videos["video_id"].to_pylist())
    first = plan.num_shards * plan.shard_len
    new = [video for video in dataset.videos if video.video_id not in known]
    rows = [_row(first + number, video) for number, video in enumerate(new)]
    added = pa.Table.from_pylist(rows, schema=plan.videos.schema)
    return dataclasses.replace(
        plan,
        videos=pa.concat_tables([plan.videos, added]),
        missing=_missing(dataset),
        expected_videos=dataset.expected_videos,
    )


def _row(slot: int, video: Any) -> dict[str, Any]:
    row = {field.name: getattr(video, field.name) for field in dataclasses.fields(video) if field.name != "splits"}
    return {"slot": slot, **row, **{f"split{number}": name for number, name in enumerate(video.splits, start=1)}}


def _missing(dataset: Dataset) -> pa.Table:
    rows = [{"path": path, "reason": "missing"} for path in dataset.missing]
    rows += [{"path": path, "reason": "unlisted"} for path in dataset.unlisted]
    return pa.Table.from_pylist(rows, schema=MISSING_SCHEMA)


@dataclass(frozen=True)
class Changes:
    """How a dataset on the disk differs from the plan: video ids."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()


def compare(plan: Plan, dataset: Dataset) -> Changes:
    """Compare by size and modification time. Raises ``StoreError`` where this is another dataset altogether."""
    if (plan.dataset, plan.class_names) != (dataset.name, dataset.class_names):
        raise StoreError(
            f"the store holds {plan.dataset} with {len(plan.class_names)} classes, but {dataset.name} with "
            f"{len(dataset.class_names)} classes was asked for; name another store with --store",
            kind="store-mismatch",
        )
    columns = plan.videos.select(["video_id", "bytes", "mtime_ns"]).to_pylist()
    planned = {row["video_id"]: row for row in columns}
    present = {video.video_id: video for video in dataset.videos}
    both = [(planned[name], present[name]) for name in planned if name in present]
    return Changes(
        added=tuple(name for name in present if name not in planned),
        removed=tuple(name for name in planned if name not in present),
        resized=tuple(video.video_id for row, video in both if row["bytes"] != video.bytes),
        touched=tuple(
            video.video_id for row, video in both if row["bytes"] == video.bytes and row["mtime_ns"] != video.mtime_ns
        ),
    )


@dataclass(frozen=True)
class Unit:
    """The work that is left on one shard: which videos to compute, and for which groups (paths). ``kept`` are the slots
    that each of those groups has committed already."""

    shard: int
    refs: tuple[VideoRef, ...]
    groups: tuple[str, ...]
    kept: Mapping[str, frozenset[int]] = field(default_factory=dict)


def pending_units(
    objects: Objects,
    plan: Plan,
    groups: Sequence[str],
    root: Path,
    *,
    part: Part = WHOLE,
    limit: int | None = None,
    retry_quarantined: bool = False,
) -> list[Unit]:
    """Plan minus commits, a unit a shard that has work left.

    A shard whose commit covers only some of its videos (an earlier run had a limit) has the rest left; with
    ``retry_quarantined`` the videos that were quarantined as well.
    """
    wanted = plan.videos.slice(0, limit)
    by_shard: dict[int, list[VideoRef]] = {}
    for row in wanted.select(["slot", "video_id", "path", "start", "end"]).to_pylist():
        shard = row["slot"] // plan.shard_len
        if shard in part:
            ref = VideoRef(row["slot"], row["video_id"], str(root / row["path"]), row["start"], row["end"])
            by_shard.setdefault(shard, []).append(ref)
    committed = {group: set(committed_shards(objects, group)) for group in groups}
    units = []
    for shard, refs in by_shard.items():
        left: set[int] = set()
        unfinished = []
        kept: dict[str, frozenset[int]] = {}
        for group in groups:
            commit = read_commit(objects, group, shard) if shard in committed[group] else None
            missing = {ref.slot for ref in refs} - _finished(commit, retry_quarantined)
            if missing:
                left |= missing
                unfinished.append(group)
                kept[group] = frozenset(row["slot"] for row in commit.rows) if commit else frozenset()
        if unfinished:
            units.append(Unit(shard, tuple(ref for ref in refs if ref.slot in left), tuple(unfinished), kept))
    return units


def _finished(commit: Commit | None, retry_quarantined: bool) -> set[int]:
    if commit is None:
        return set()
    # What the environment may be to blame for is never finished: every run tries it again.
    return {
        row["slot"]
        for row in commit.rows
        if row["error_kind"] not in RetryError.KINDS and not (retry_quarantined and row["status"] == QUARANTINED)
    }


def count_videos(units: Iterable[Unit]) -> int:
    return sum(len(unit.refs) for unit in units)
