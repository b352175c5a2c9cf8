"""From a dataset on the disk to the plan of a store, and from plan and commits to the work that is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets import Dataset
from stages.types import VideoRef
from store.commits import QUARANTINED
from store.errors import RetryError, StoreError
from store.layout import STORE
from store.lease import WHOLE, Part
from store.objects import Objects
from store.packs import read_commits
from store.plan import GONE, MISSING_SCHEMA, Plan, videos_schema
from store.sealed import get_sealed


def dataset_seed(objects: Objects, asked: int) -> int:
    """The seed that a store's dataset was listed with; ``asked`` where there is no store yet. The split of a folder and
    the synthetic set were made with it, and stay as they are when another seed draws other weights."""
    facts = get_sealed(objects, STORE)
    return asked if facts is None else int(facts["source"].get("seed", 0))


def make_plan(dataset: Dataset, shard_len: int, source: dict[str, Any]) -> Plan:
    """Give every video that is on the disk a slot, in the order of the dataset."""
    return Plan(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_splits=dataset.num_splits,
        shard_len=shard_len,
        videos=_with_slots(dataset.videos.table, 0, dataset.num_splits),
        missing=_missing(dataset),
        licence=dataset.licence,
        expected_videos=dataset.expected_videos,
        source=source,
    )


def _with_slots(videos: pa.Table, first: int, num_splits: int) -> pa.Table:
    slots = pa.array(np.arange(first, first + videos.num_rows), pa.int32())
    return videos.add_column(0, "slot", slots).select(videos_schema(num_splits).names).cast(videos_schema(num_splits))


def _missing(dataset: Dataset) -> pa.Table:
    rows = [{"path": path, "reason": "missing"} for path in dataset.missing]
    rows += [{"path": path, "reason": "unlisted"} for path in dataset.unlisted]
    return pa.Table.from_pylist(rows, schema=MISSING_SCHEMA)


@dataclass(frozen=True)
class Changes:
    """How a dataset on the disk differs from the plan. A video is known by its path and where it is cut.

    match      int64 [videos of the plan], where each stands in the dataset; -1 where it is gone
    added      int64, positions in the dataset of the videos that the plan does not have
    removed    video ids of the plan that are not on the disk
    resized    video ids whose file has another size
    touched    video ids whose file has another modification time, and the same size
    relisted   video ids of which the lists say something else now: label, source or splits
    """

    match: np.ndarray
    added: np.ndarray
    removed: Sequence[str] = ()
    resized: Sequence[str] = ()
    touched: Sequence[str] = ()
    relisted: Sequence[str] = ()

    def gone(self, plan: Plan) -> np.ndarray:
        """int64, slots of the videos of the plan that are not on the disk."""
        return plan.slots[self.match < 0]


def compare(plan: Plan, dataset: Dataset) -> Changes:
    """Compare by size and modification time. Raises ``StoreError`` where this is another dataset altogether."""
    if (plan.dataset, plan.class_names) != (dataset.name, dataset.class_names):
        then, now = set(plan.class_names), set(dataset.class_names)
        changed = [f"{name!r} is new" for name in sorted(now - then)[:1]]
        changed += [f"{name!r} is gone" for name in sorted(then - now)[:1]]
        told = f" ({', '.join(changed)})" if changed and plan.dataset == dataset.name else ""
        raise StoreError(
            f"the store holds {plan.dataset} with {len(plan.class_names)} classes, but {dataset.name} with "
            f"{len(dataset.class_names)} classes was asked for{told}; name another store with --store",
            kind="store-mismatch",
        )
    planned, present = _identities(plan.videos), _identities(dataset.videos.table)
    match = pc.fill_null(pc.index_in(planned, present), -1).to_numpy().astype(np.int64)
    both = match >= 0
    before = plan.videos.filter(pa.array(both))
    after = dataset.videos.table.take(pa.array(match[both]))
    names = before["video_id"]

    def differing(*columns: str) -> np.ndarray:
        return np.logical_or.reduce([pc.not_equal(before[name], after[name]).to_numpy() for name in columns])

    resized, touched = differing("bytes"), differing("mtime_ns")
    return Changes(
        match=match,
        added=np.flatnonzero(pc.is_null(pc.index_in(present, planned)).to_numpy()),
        removed=plan.videos["video_id"].filter(pa.array(~both)).to_pylist(),
        resized=names.filter(pa.array(resized)).to_pylist(),
        touched=names.filter(pa.array(touched & ~resized)).to_pylist(),
        relisted=names.filter(pa.array(differing(*_listed(plan)))).to_pylist(),
    )


def update_plan(plan: Plan, dataset: Dataset, changes: Changes) -> Plan:
    """Append the videos that came later, from the next shard boundary on, and take over what the lists say now. What
    has a slot keeps it, and its id."""
    now = dataset.videos.table
    videos = _taken_over(plan, dataset, changes, _listed(plan))
    added = _with_slots(now.take(pa.array(changes.added)), plan.num_shards * plan.shard_len, plan.num_splits)
    return dataclasses.replace(
        plan,
        videos=pa.concat_tables([videos, added]).combine_chunks(),
        missing=_missing(dataset),
        expected_videos=dataset.expected_videos,
    )


def refresh_files(plan: Plan, dataset: Dataset, changes: Changes) -> Plan:
    """Take over the sizes and modification times that the files have now."""
    return dataclasses.replace(plan, videos=_taken_over(plan, dataset, changes, ["bytes", "mtime_ns"]))


def note_gone(plan: Plan, gone: np.ndarray) -> Plan:
    """Have the table of missing videos name those of the plan (by slot) that are not on the disk any more, and no
    others, as ``gone``."""
    paths = plan.at(gone, "path")["path"].combine_chunks()
    missing = plan.missing
    listed = pc.and_(pc.not_equal(missing["reason"], GONE), pc.invert(pc.is_in(missing["path"], paths)))
    noted = pa.table([paths, pa.repeat(GONE, len(paths))], schema=MISSING_SCHEMA)
    return dataclasses.replace(plan, missing=pa.concat_tables([missing.filter(listed), noted]).combine_chunks())


def _taken_over(plan: Plan, dataset: Dataset, changes: Changes, columns: Iterable[str]) -> pa.Table:
    """The videos of a plan with some columns as the dataset has them now; those that are gone stay as they are."""
    videos, now = plan.videos, dataset.videos.table
    found = pa.array(changes.match, mask=changes.match < 0)
    for name in columns:
        values = pc.coalesce(now[name].take(found), videos[name])
        videos = videos.set_column(videos.schema.get_field_index(name), videos.schema.field(name), values)
    return videos


def _listed(plan: Plan) -> list[str]:
    """What the lists of a dataset say of a video."""
    return ["label", "class_name", "source", *(f"split{number}" for number in range(1, plan.num_splits + 1))]


def _identities(videos: pa.Table) -> pa.ChunkedArray:
    cuts = [pc.cast(pc.fill_null(videos[name], -1.0), pa.string()) for name in ("start", "end")]
    return pc.binary_join_element_wise(videos["path"], *cuts, "\0")


@dataclass(frozen=True)
class Unit:
    """The work that is left on one shard: which videos to compute, and for which groups (paths). ``missing`` are the
    slots that each of those groups still lacks, ``kept`` those that it has committed already."""

    shard: int
    refs: tuple[VideoRef, ...]
    groups: tuple[str, ...]
    missing: Mapping[str, frozenset[int]]
    kept: Mapping[str, frozenset[int]]

    @classmethod
    def whole(cls, shard: int, refs: Sequence[VideoRef], groups: Sequence[str]) -> Unit:
        """A unit of which nothing is committed yet."""
        slots = frozenset(ref.slot for ref in refs)
        return cls(shard, tuple(refs), tuple(groups), dict.fromkeys(groups, slots), dict.fromkeys(groups, frozenset()))

    def first(self, count: int) -> Unit:
        """The work on the first ``count`` videos alone."""
        refs = self.refs[:count]
        inside = frozenset(ref.slot for ref in refs)
        missing = {group: slots & inside for group, slots in self.missing.items()}
        return dataclasses.replace(self, refs=refs, missing=missing)


@dataclass(frozen=True)
class Work:
    """Plan minus commits. Iterating gives a unit for each shard that has work left, in order; each is made when it is
    asked for, so that a plan of millions of videos costs a byte a video and group.

    left        bool [videos] by group: which videos of the plan it lacks, those to be tried again among them
    committed   bool [videos] by group: which it has committed, the quarantined and those to be tried again among them
    """

    plan: Plan
    root: Path
    left: Mapping[str, np.ndarray]
    committed: Mapping[str, np.ndarray]

    @cached_property
    def any_left(self) -> np.ndarray:
        """bool [videos], what any group lacks."""
        return np.logical_or.reduce([np.zeros(self.plan.videos.num_rows, bool), *self.left.values()])

    @property
    def num_videos(self) -> int:
        return int(self.any_left.sum())

    @cached_property
    def shards(self) -> list[int]:
        """Shards that have work left, ascending."""
        return np.unique(self.plan.slots[self.any_left] // self.plan.shard_len).tolist()

    def only(self, shards: Collection[int]) -> Work:
        """The part of the work that lies in some shards."""
        inside = np.isin(self.plan.slots // self.plan.shard_len, list(shards))
        return dataclasses.replace(self, left={group: mask & inside for group, mask in self.left.items()})

    def passes(self) -> Iterator[Work]:
        """The work in two parts, of which the second may begin when the first is committed: videos that were never
        tried, and those that failed before. Where these fail again and end the run, all the rest is done."""
        none = np.zeros(self.plan.videos.num_rows, bool)
        again = np.logical_or.reduce([none, *(mask & self.committed[group] for group, mask in self.left.items())])
        fresh = {group: mask & ~again for group, mask in self.left.items()}
        yield dataclasses.replace(self, left=fresh)
        committed = {group: mask | fresh[group] for group, mask in self.committed.items()}
        yield dataclasses.replace(
            self, left={group: mask & again for group, mask in self.left.items()}, committed=committed
        )

    def __iter__(self) -> Iterator[Unit]:
        columns = self.plan.videos.select(["slot", "video_id", "path", "start", "end"])
        for shard in self.shards:
            span = self.plan.span(shard)
            slots = self.plan.slots[span]
            rows = columns.slice(span.start, span.stop - span.start).filter(pa.array(self.any_left[span])).to_pylist()
            groups = tuple(group for group, mask in self.left.items() if mask[span].any())
            yield Unit(
                shard,
                tuple(VideoRef.of(row, self.root) for row in rows),
                groups,
                {group: frozenset(slots[self.left[group][span]].tolist()) for group in groups},
                {group: frozenset(slots[self.committed[group][span]].tolist()) for group in groups},
            )


def pending(
    objects: Objects,
    plan: Plan,
    groups: Iterable[str],
    root: Path,
    *,
    part: Part = WHOLE,
    limit: int | None = None,
    retry_quarantined: bool = False,
    gone: np.ndarray | None = None,
) -> Work:
    """The work that a run has to do.

    A shard whose commit covers only some of its videos (an earlier run had a limit) has the rest left. With
    ``retry_quarantined`` the work is the videos that are quarantined, and nothing else. Slots in ``gone`` are those of
    videos that are not on the disk, which are left out.
    """
    slots = plan.slots
    wanted = (slots // plan.shard_len) % part.count == part.index
    wanted[len(slots) if limit is None else limit :] = False
    if gone is not None:
        wanted &= ~np.isin(slots, gone)
    left, committed = {}, {}
    for group in groups:
        commits = read_commits(objects, group, shard_len=plan.shard_len)
        again = commits.mask("status", QUARANTINED)
        # What the environment may be to blame for is never finished: every run tries it again.
        unfinished = again if retry_quarantined else commits.mask("error_kind", *RetryError.KINDS)
        committed[group] = np.isin(slots, commits.slots)
        missing = np.isin(slots, commits.slots[unfinished])
        left[group] = wanted & (missing if retry_quarantined else missing | ~committed[group])
    # A recipe keeps its root absolute: what is said of a video names the same file in every run.
    return Work(plan, root.absolute(), left, committed)
