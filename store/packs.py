"""All commits of a group at once.

Commits are small objects, two a shard, so a store of many thousand shards would take minutes to open. A *pack* is a
copy of all commits of a group in two objects: a sealed index, which gives for every shard the version of the commit
that was copied (see ``Objects.scan``) and the hashes that it vouches for, and a Parquet file with the rows. The commits
stay the truth: a listing tells which of them are still those that were packed, and the others are read one by one. A
pack that is stale, damaged or gone makes opening slower, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from store.columns import is_one_of, numbers, take
from store.commits import SCHEMA, Commit, read_commit
from store.layout import COMMITS, PACKS, pack_key, pack_rows_key
from store.objects import Objects, is_remote
from store.plan import parquet_bytes, read_parquet
from store.sealed import seal, sha256, unseal

# A pack is written anew when this many commits are not in it, or an eighth of those that are: often enough for opening
# to stay fast, seldom enough for packing to cost a small share of a run.
PACK_FROM = 64
_GROWTH = 8
_REQUESTS_AT_ONCE = 32


@dataclass(frozen=True)
class Commits:
    """All commits of a group.

    table     one row a committed video (``SCHEMA``), slots ascending
    objects   for every committed shard the SHA-256 of each object that its commit vouches for, by key
    """

    table: pa.Table
    objects: Mapping[int, Mapping[str, str]]

    @property
    def slots(self) -> np.ndarray:
        """int64, ascending."""
        return numbers(self.table["slot"])

    def mask(self, column: str, *values: str) -> np.ndarray:
        """Which rows have one of the values in a column, bool."""
        return is_one_of(self.table[column], values)

    def of(self, slots: np.ndarray, *columns: str) -> pa.Table:
        """Some columns of the rows of some committed slots, in their order."""
        return take(self.table.select(columns), np.searchsorted(self.slots, slots))


@dataclass(frozen=True)
class Pack:
    """A copy of commits: ``versions`` and ``objects`` by shard, and the rows of all of them."""

    versions: Mapping[int, str]
    objects: Mapping[int, Mapping[str, str]]
    table: pa.Table


def commit_versions(objects: Objects, group: str) -> dict[int, str]:
    """Version of the commit of every committed shard of a group, shards ascending."""
    found = objects.scan(f"{COMMITS}/{group}").objects
    versions = {int(name.removesuffix(".parquet")): found[name] for name in found if name.endswith(".parquet")}
    return dict(sorted(versions.items()))


def read_commits(objects: Objects, group: str, *, shard_len: int) -> Commits:
    """Every commit of a group, each checked against its hash. Raises as ``read_commit``."""
    return _gather(objects, group, shard_len)[0]


def pack_commits(objects: Objects, group: str, *, shard_len: int) -> None:
    """Write a pack of all commits of a group, where so many of them are not packed that it is worth it."""
    versions, packed = commit_versions(objects, group), _read_pack(objects, group)
    kept = sum(packed.versions.get(shard) == version for shard, version in versions.items()) if packed else 0
    if len(versions) - kept < max(PACK_FROM, kept // _GROWTH):
        return
    commits, versions = _gather(objects, group, shard_len)
    rows = parquet_bytes(commits.table)
    shards = {str(shard): [version, dict(commits.objects[shard])] for shard, version in versions.items()}
    digest = sha256(rows)
    before = list(objects.list(f"{PACKS}/{group}"))
    objects.put(pack_rows_key(group, digest), rows, point="pack-rows")
    objects.put(pack_key(group), seal({"rows": digest, "shards": shards}), point="pack")
    for key in before:
        if key not in (pack_key(group), pack_rows_key(group, digest)):
            objects.delete(key)


def stray_packs(objects: Objects, groups: Iterable[str]) -> dict[str, bool]:
    """Objects among the packs that no reader can use: True for those that are damaged, False for what was left behind
    by a writer that was killed, or belongs to no group."""
    found = dict.fromkeys(objects.list(PACKS), False)
    for group in groups:
        data = objects.get(pack_key(group))
        if data is None:
            continue
        try:
            rows = pack_rows_key(group, unseal(data)["rows"])
        except ValueError:
            found[pack_key(group)] = True
            continue
        if _read_pack(objects, group) is not None:
            found = {key: damaged for key, damaged in found.items() if key not in (pack_key(group), rows)}
        elif objects.get(pack_key(group)) == data:  # else a run has written another meanwhile
            found[pack_key(group)] = found[rows] = True
    return found


def _gather(objects: Objects, group: str, shard_len: int) -> tuple[Commits, dict[int, str]]:
    """All commits, and the versions that were read."""
    versions, pack = commit_versions(objects, group), _read_pack(objects, group)
    if pack is not None and pack.versions == versions:
        return Commits(pack.table.cast(SCHEMA), dict(sorted(pack.objects.items()))), versions
    fresh = [shard for shard, version in versions.items() if pack is None or pack.versions.get(shard) != version]
    single = _read_each(objects, group, fresh)
    # What was removed between the listing and the reading is not committed any more.
    versions = {shard: version for shard, version in versions.items() if shard in single or shard not in fresh}
    tables = [commit.table for commit in single.values()]
    by_shard = {shard: commit.objects for shard, commit in single.items()}
    if pack is not None:
        old = np.array([shard for shard in versions if shard not in single], np.int64)
        tables.append(take(pack.table, np.flatnonzero(np.isin(numbers(pack.table["slot"]) // shard_len, old))))
        by_shard |= {int(shard): dict(pack.objects[int(shard)]) for shard in old}
    empty = pa.Table.from_batches([], SCHEMA)
    table = pa.concat_tables([empty, *(table.cast(SCHEMA) for table in tables)]).combine_chunks()
    return Commits(table.sort_by("slot"), dict(sorted(by_shard.items()))), versions


def _read_each(objects: Objects, group: str, shards: list[int]) -> dict[int, Commit]:
    def read(shard: int) -> Commit | None:
        return read_commit(objects, group, shard)

    if is_remote(objects.url) and len(shards) > 1:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            found = list(pool.map(read, shards))
    else:
        found = [read(shard) for shard in shards]
    return {commit.shard: commit for commit in found if commit is not None}


def _read_pack(objects: Objects, group: str) -> Pack | None:
    """The pack of a group; None where there is none that is whole."""
    try:
        index = unseal(objects.get(pack_key(group)) or b"")
    except ValueError:
        return None
    rows = objects.get(pack_rows_key(group, index["rows"]))
    if rows is None or sha256(rows) != index["rows"]:
        return None
    shards = {int(shard): entry for shard, entry in index["shards"].items()}
    versions = {shard: entry[0] for shard, entry in shards.items()}
    return Pack(versions, {shard: entry[1] for shard, entry in shards.items()}, read_parquet(rows))
