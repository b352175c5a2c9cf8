"""Commits: a shard of a modality exists for readers if and only if its commit exists.

A commit is a small Parquet file with one row a video, put after the arrays that it vouches for are durable. Beside it
lie the hashes of the commit and of those arrays, in the format of ``sha256sum``, so that ``sha256sum -c`` checks a
shard with no tool of ours; and the commit holds the hash of the lines of the arrays, so that each covers the other. The
order on the disk is always: arrays, hashes, commit; and on removal: commit, hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from store.errors import StoreError
from store.layout import COMMITS, checksum_key, commit_key
from store.objects import Objects
from store.plan import parquet_bytes, read_parquet
from store.printable import command
from store.sealed import sha256

# What a commit says of a video beside its message and how long it took: what a digest covers.
FACTS = ("slot", "status", "error_kind", "source_sha256", "fps", "frames", "claimed", "width", "height")

OK, PARTIAL, QUARANTINED = "ok", "partial", "quarantined"
# In a commit's metadata: SHA-256 of the lines of its arrays, as they stand in the list of hashes.
_LINES = "arrays"


@dataclass(frozen=True)
class CommitRow:
    """What became of one video in one modality.

    ``status`` is ``ok``, ``partial`` (far fewer frames decode than the file claims) or ``quarantined`` (no features;
    the error kind and message say why). Times are in seconds. ``frames`` counts those that decode; ``claimed`` those
    that the file claims, -1 where it does not say. Width and height are those of the upright source frame.
    """

    slot: int
    status: str
    error_kind: str = ""
    error_message: str = ""
    source_sha256: str = ""
    fps: float = 0.0
    frames: int = 0
    claimed: int = -1
    width: int = 0
    height: int = 0
    decode_seconds: float = 0.0
    stage_seconds: float = 0.0


_TYPES = {"int": pa.int64(), "str": pa.string(), "float": pa.float64()}
SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(CommitRow)])


def write_commit(
    objects: Objects,
    group: str,
    shard: int,
    rows: Sequence[CommitRow],
    arrays: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Commit a shard whose arrays are durable. ``arrays`` maps the keys of their objects to SHA-256 hashes."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    facts = {"format": "vilp-commit", _LINES: sha256(checksum_text(arrays)), **metadata}
    data = parquet_bytes(table.replace_schema_metadata(facts))
    hashes = {**arrays, commit_key(group, shard): sha256(data)}
    objects.put(checksum_key(group, shard), checksum_text(hashes), point="checksums")
    objects.put(commit_key(group, shard), data, point="commit")


def remove_commit(objects: Objects, group: str, shard: int) -> None:
    """Make a shard invisible, before it is written again."""
    objects.delete(commit_key(group, shard))
    objects.delete(checksum_key(group, shard))


def committed_shards(objects: Objects, group: str) -> list[int]:
    """Numbers of the committed shards of a group, ascending."""
    names = objects.scan(f"{COMMITS}/{group}").objects
    return sorted(int(name.removesuffix(".parquet")) for name in names if name.endswith(".parquet"))


def unfinished_checksums(objects: Objects, group: str) -> list[str]:
    """Keys of hashes beside which no commit lies: a writer was killed just before it put it or after it removed it, or
    the commit was lost."""
    names = objects.scan(f"{COMMITS}/{group}").objects
    shards = [name.removesuffix(".sha256") for name in names if name.endswith(".sha256")]
    return [checksum_key(group, int(shard)) for shard in shards if f"{shard}.parquet" not in names]


@dataclass(frozen=True)
class Commit:
    """A commit as read: its bytes and those of its list of hashes, one row a video, and the SHA-256 of every object
    that it vouches for, by key."""

    shard: int
    data: bytes
    sums: bytes
    table: pa.Table
    objects: dict[str, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()


def read_commit(objects: Objects, group: str, shard: int) -> Commit | None:
    """Read and check a commit; None where there is none.

    Raises ``StoreError`` (``store-corrupt``) where a byte of it is not as it was written.
    """
    key = commit_key(group, shard)
    seen = objects.get(key)
    while seen is not None:
        sums = objects.get(checksum_key(group, shard))
        hashes = _parse_checksums(sums or b"")
        if checksum_text(hashes) == sums and hashes.pop(key, None) == sha256(seen):
            commit = Commit(shard, seen, sums, read_parquet(seen), hashes)
            # Commits of the first stores do not cover their lines.
            if commit.table.schema.metadata.get(_LINES.encode()) in (None, sha256(checksum_text(hashes)).encode()):
                return commit
        # A writer may have replaced the two between our two looks; what stays as it is is damaged.
        before, seen = seen, objects.get(key)
        if seen == before and objects.get(checksum_key(group, shard)) == sums:
            raise corrupt(objects, f"commit {objects.describe(key)} is damaged")
    return None


def corrupt(objects: Objects, what: str) -> StoreError:
    """The error for something of a store that is not as it was written, with the command that mends it."""
    return StoreError(f"{what}; run: {command('verify', '--store', objects.url, '--repair')}", kind="store-corrupt")


def checksum_text(hashes: Mapping[str, str]) -> bytes:
    """Hash by key in the format of ``sha256sum``, sorted by key."""
    return "".join(f"{digest}  {key}\n" for key, digest in sorted(hashes.items())).encode()


def _parse_checksums(data: bytes) -> dict[str, str]:
    """Hash by key from a file of ``sha256sum``; lines that are not of its form are passed over."""
    pairs = (line.split("  ", 1) for line in data.decode("utf-8", "replace").splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
