"""What is made from the commits of a store, and may be thrown away: packs, and the quarantine report."""

from __future__ import annotations

import pyarrow as pa

from store.groups import read_groups
from store.objects import Objects
from store.packs import pack_commits
from store.plan import read_plan
from store.quarantine import write_report
from store.reader import FeatureStore


def refresh(objects: Objects) -> tuple[str | None, pa.Table]:
    """Bring packs and the quarantine report up to date, for the holder of a lease; returns the key of the report, None
    where nothing is quarantined, and its rows."""
    plan, groups = read_plan(objects), read_groups(objects)
    for path, group in groups.items():
        if group.modality.per_video:
            pack_commits(objects, path, shard_len=plan.shard_len)
    table = FeatureStore(objects, plan, groups).quarantined()
    return write_report(objects, table), table
