"""The plan: which video lies in which slot. Fixed when a store is made; ``--update`` only appends to it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.columns import numbers, take
from store.errors import StoreError
from store.layout import FORMAT, MISSING, STORE, TABLES, VERSION, VIDEOS
from store.objects import Objects
from store.printable import command
from store.sealed import copy_key, get_sealed, put_twice, seal, settle, sha256


def videos_schema(num_splits: int) -> pa.Schema:
    """Columns of ``videos.parquet``: one row a slot."""
    return pa.schema(
        [
            ("slot", pa.int32()),
            ("video_id", pa.string()),
            ("path", pa.string()),
            ("label", pa.int32()),
            ("class_name", pa.string()),
            ("source", pa.string()),
            *[(f"split{number}", pa.string()) for number in range(1, num_splits + 1)],
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("bytes", pa.int64()),
            ("mtime_ns", pa.int64()),
        ]
    )


MISSING_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string())])
GONE = "gone"


@dataclass(frozen=True)
class Plan:
    """All that is fixed about a store before any feature is computed.

    videos    one row a slot (``videos_schema``), slots ascending; after an update a shard may end before it is full
    missing   one row a path: ``missing`` (listed but not on disk) or ``unlisted`` (on disk but in no list); one row a
              video: ``gone`` (of the plan, but not on disk when a run last looked)
    source    how to find the videos again: dataset name, root, split folder
    """

    dataset: str
    class_names: tuple[str, ...]
    num_splits: int
    shard_len: int
    videos: pa.Table
    missing: pa.Table
    licence: str = ""
    expected_videos: int | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def slots(self) -> np.ndarray:
        """int64, every slot in use, ascending."""
        return numbers(self.videos["slot"]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Length of the arrays' first axis: one past the last slot."""
        return int(self.slots[-1]) + 1

    @property
    def num_shards(self) -> int:
        return -(-self.rows // self.shard_len)

    def slots_of(self, shard: int) -> list[int]:
        """Slots in use of one shard, ascending."""
        return self.slots[self.span(shard)].tolist()

    def at(self, slots: np.ndarray, *columns: str) -> pa.Table:
        """Some columns of ``videos`` for some slots that are in use, in their order."""
        return take(self.videos.select(columns), np.searchsorted(self.slots, slots))

    def lookup(self, key: str, value: str) -> dict[Any, Any]:
        """One column of ``videos`` by another that names each video once: ``lookup("slot", "video_id")``."""
        return dict(zip(self.videos[key].to_pylist(), self.videos[value].to_pylist(), strict=True))

    def span(self, shard: int) -> slice:
        """Where the videos of a shard stand in ``videos``."""
        low, high = np.searchsorted(self.slots, [shard * self.shard_len, (shard + 1) * self.shard_len])
        return slice(int(low), int(high))

    @property
    def num_missing(self) -> int:
        """Videos that the lists or the plan name and that are not on the disk."""
        return int(pc.sum(pc.is_in(self.missing["reason"], pa.array(["missing", GONE]))).as_py() or 0)

    @property
    def num_unlisted(self) -> int:
        """Files on the disk that no list names."""
        return self.missing.num_rows - self.num_missing

    def attributes(self) -> dict[str, Any]:
        """Attributes of the root group, for readers that know nothing of the tables."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "shard_len": self.shard_len,
            "num_videos": self.videos.num_rows,
            "class_names": list(self.class_names),
            "licence": self.licence,
        }


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """The table of a Parquet file. Raises pyarrow's errors where it is none."""
    # One thread, no read-ahead: these tables are small, and Arrow's thread pools were seen to abort a process that ends
    # while they start.
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def write_plan(objects: Objects, plan: Plan) -> None:
    """Write a plan, or replace one: whatever moment a crash picks, ``read_plan`` finds the old one or the new one."""
    videos, missing = parquet_bytes(plan.videos), parquet_bytes(plan.missing)
    facts = {
        **plan.attributes(),
        "num_splits": plan.num_splits,
        "expected_videos": plan.expected_videos,
        "source": plan.source,
        "tables": {VIDEOS: sha256(videos), MISSING: sha256(missing)},
    }
    current = get_sealed(objects, STORE)
    if current is not None:
        # Until the new tables are all there, the store is described by either set.
        put_twice(objects, STORE, seal({**current, "next": facts}), point="plan")
    # All copies before all firsts: at any moment one whole set, old or new, lies on the disk.
    for key, data in ((VIDEOS, videos), (MISSING, missing)):
        objects.put(copy_key(key), data, point="plan-table-copy")
    for key, data in ((VIDEOS, videos), (MISSING, missing)):
        objects.put(key, data, point="plan-table")
    put_twice(objects, STORE, seal(facts), point="plan")


def settle_plan(objects: Objects) -> None:
    """Bring the writing of a plan that a crash cut short to its end, and make both copies of everything whole."""
    facts = get_sealed(objects, STORE)
    if facts is None:
        return
    if facts.get("next") is not None:
        write_plan(objects, read_plan(objects))
        return
    settle(objects, STORE, seal(facts), point="plan")
    for key, digest in facts["tables"].items():
        data = verified(objects, key, digest)
        if data is not None:
            settle(objects, key, data, point="plan-table")


def read_plan(objects: Objects) -> Plan:
    """The plan of a store.

    Raises ``StoreError``: ``store-missing``, ``store-format`` or ``store-version`` where this is no store that this
    version can read, ``store-corrupt`` where the plan and its copy are damaged.
    """
    facts = get_sealed(objects, STORE)
    if facts is None:
        require_no_strangers(objects)
        make = command("extract", "--store", objects.url)
        raise StoreError(f"no feature store at {objects.url}; make one with: {make}")
    try:
        return _read_tables(objects, _supported(objects, facts))
    except StoreError:
        if get_sealed(objects, STORE) == facts:
            raise
        return read_plan(objects)  # it was replaced between our looks at the facts and at the tables


def require_no_strangers(objects: Objects) -> None:
    """Raise ``StoreError`` (``store-format``) where something else than the tables of a half-made store lies here."""
    found = objects.scan()
    strangers = [name for name in (*found.objects, *found.folders) if name != TABLES]
    if strangers:
        raise StoreError(
            f"{objects.url} is not empty ({strangers[0]!r}) and holds no feature store; "
            "name another place with --store",
            kind="store-format",
        )


def _supported(objects: Objects, facts: dict[str, Any]) -> dict[str, Any]:
    if facts.get("format") != FORMAT:
        raise StoreError(f"{objects.url} has format {facts.get('format')!r}; allowed: {FORMAT}", kind="store-format")
    if facts.get("version") != VERSION:
        raise StoreError(
            f"{objects.url} has store version {facts.get('version')}; this vilp-pipe reads version {VERSION}: "
            "install the vilp-pipe that wrote it",
            kind="store-version",
        )
    return facts


def _read_tables(objects: Objects, facts: dict[str, Any]) -> Plan:
    for candidate in (facts, facts.get("next")):
        if candidate is None:
            continue
        tables = [verified(objects, key, candidate["tables"][key]) for key in (VIDEOS, MISSING)]
        if None not in tables:
            videos, missing = (read_parquet(data) for data in tables if data is not None)
            return Plan(
                dataset=candidate["dataset"],
                class_names=tuple(candidate["class_names"]),
                num_splits=candidate["num_splits"],
                shard_len=candidate["shard_len"],
                videos=videos,
                missing=missing,
                licence=candidate["licence"],
                expected_videos=candidate["expected_videos"],
                source=candidate["source"],
            )
    raise StoreError(
        f"{objects.describe(VIDEOS)} and its copy are damaged; restore one of them from a backup, "
        "or extract into a new store",
        kind="store-corrupt",
    )


def verified(objects: Objects, key: str, digest: str) -> bytes | None:
    """Bytes of a table that is kept twice, from whichever copy has the given SHA-256; None where neither has."""
    for candidate in (key, copy_key(key)):
        data = objects.get(candidate)
        if data is not None and sha256(data) == digest:
            return data
    return None
