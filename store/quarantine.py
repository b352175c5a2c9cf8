"""The quarantine report: one Parquet file that says which videos have no features, why, and how to try them again.

It is made from the commits, which stay the truth, whenever a run ends. Its name is the beginning of its own hash, so
that a flipped byte shows, and two parts of a run that write it at once cannot mix.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from store.columns import numbers, take
from store.commits import QUARANTINED
from store.layout import QUARANTINE
from store.objects import Objects
from store.packs import Commits
from store.plan import Plan, parquet_bytes
from store.printable import command
from store.sealed import sha256

SCHEMA = pa.schema(
    [
        *[("video_id", pa.string()), ("path", pa.string()), ("group", pa.string())],
        *[("kind", pa.string()), ("message", pa.string()), ("source_sha256", pa.string())],
        *[("slot", pa.int32()), ("retry", pa.string())],
    ]
)

UNMATCHED = "pose-unmatched"


def retry_command(url: str) -> str:
    """What computes the quarantined videos of a store again, and nothing else."""
    return command("extract", "--store", url, "--retry-quarantined")


def next_steps(url: str, kinds: Collection[str]) -> list[str]:
    """Lines on what can be done about a store's quarantined videos, which are of these error kinds."""
    lines = []
    if set(kinds) != {UNMATCHED}:
        lines.append(f"to try these again: {retry_command(url)}")
    if UNMATCHED in kinds:
        lines.append(
            f"those that are {UNMATCHED} stay so until the file of poses is mended; then extract with it again, which "
            "fills a group of its own"
        )
    return lines


def quarantined(plan: Plan, commits: dict[str, Commits], url: str) -> pa.Table:
    """One row (``SCHEMA``) for every video that a group (by path) has quarantined, by group and slot."""
    tables = []
    for group, found in sorted(commits.items()):
        rows = take(found.table, np.flatnonzero(found.mask("status", QUARANTINED)))
        videos = plan.at(numbers(rows["slot"]), "video_id", "path")
        columns = {
            "video_id": videos["video_id"],
            "path": videos["path"],
            "group": pa.repeat(group, rows.num_rows),
            "kind": rows["error_kind"],
            "message": rows["error_message"],
            "source_sha256": rows["source_sha256"],
            "slot": rows["slot"].cast(pa.int32()),
            "retry": pa.repeat(retry_command(url), rows.num_rows),
        }
        tables.append(pa.table(columns, schema=SCHEMA))
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def write_report(objects: Objects, table: pa.Table) -> str | None:
    """Make ``table`` the report of a store; returns its key. Where nothing is quarantined no report is kept: None."""
    data = parquet_bytes(table.combine_chunks())
    key = f"{QUARANTINE}/{sha256(data)[:16]}.parquet" if table.num_rows else None
    before = list(objects.list(QUARANTINE))
    if key is not None and objects.get(key) != data:
        objects.put(key, data, point="quarantine")
    for old in before:
        if old != key:
            objects.delete(old)
    return key


def damaged_reports(objects: Objects) -> list[str]:
    """Keys of reports that are not as they were written."""
    return [key for key in objects.list(QUARANTINE) if key != _own_name(objects.get(key))]


def _own_name(data: bytes | None) -> str | None:
    return None if data is None else f"{QUARANTINE}/{sha256(data)[:16]}.parquet"
