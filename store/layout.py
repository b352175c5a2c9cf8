"""Where things lie in a store (format version 1)."""

from __future__ import annotations

FORMAT = "vilp-store"
VERSION = 1

TABLES = "_tables"
ROOT_METADATA = "zarr.json"
STORE = f"{TABLES}/store.json"
VIDEOS = f"{TABLES}/videos.parquet"
MISSING = f"{TABLES}/missing.parquet"
GROUPS = f"{TABLES}/groups"
COMMITS = f"{TABLES}/commits"
PACKS = f"{TABLES}/packs"
QUARANTINE = f"{TABLES}/quarantine"
CONFIGS = f"{TABLES}/configs"
LEASE = f"{TABLES}/lease.json"
HEARTBEATS = f"{TABLES}/heartbeats"


def definition_key(group: str) -> str:
    """The sealed definition of a group such as ``clip/vit-b-32-1a2b3c4d``."""
    return f"{GROUPS}/{group}/group.json"


def commit_key(group: str, shard: int) -> str:
    """The Parquet file of a shard's commit, one row a video."""
    return f"{COMMITS}/{group}/{shard}.parquet"


def checksum_key(group: str, shard: int) -> str:
    """Hashes of a commit and of the array shards it vouches for, in the format of ``sha256sum``."""
    return f"{COMMITS}/{group}/{shard}.sha256"


def pack_key(group: str) -> str:
    """The sealed index of the packed copy of a group's commits."""
    return f"{PACKS}/{group}/pack.json"


def pack_rows_key(group: str, digest: str) -> str:
    """The rows of a pack, by their SHA-256."""
    return f"{PACKS}/{group}/{digest[:16]}.parquet"


def array_key(group: str, array: str, shard: int, ndim: int) -> str:
    """The one object that holds a shard of an array with ``ndim`` dimensions."""
    return f"{group}/{array}/c.{'.'.join([str(shard)] + ['0'] * (ndim - 1))}"
