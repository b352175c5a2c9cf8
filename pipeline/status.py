"""What is in a store, and whether its videos are still those that it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from store.commits import PARTIAL, QUARANTINED
from store.errors import MissingError, UsageError
from store.lease import living
from store.objects import Objects, open_objects
from store.plan import read_plan
from store.reader import FeatureStore


def find_store(store: str | None, *, stores: Path = Path("stores")) -> str:
    """The named store, or the only one under ``stores/``. Raises ``UsageError`` that lists them where there are
    several."""
    if store is not None:
        return store
    found = sorted(path.parent.parent for path in stores.glob("*/_tables/store.json"))
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise MissingError(f"no store under {stores}/; make one with: vilp-pipe extract --dataset synthetic")
    raise UsageError(f"store is not given and {stores}/ has several; choose with --store: {', '.join(map(str, found))}")


def video_ids(objects: Objects) -> dict[int, str]:
    """Video id of every slot of a store."""
    videos = read_plan(objects).videos
    return dict(zip(videos["slot"].to_pylist(), videos["video_id"].to_pylist(), strict=True))


def store_status(url: str) -> dict[str, Any]:
    """Coverage of every group, live runs and quarantined videos, as plain JSON values."""
    store = FeatureStore.open(url)
    objects = open_objects(url)
    ids = video_ids(objects)
    groups, quarantined = [], []
    for path, group in store.groups.items():
        if not group.modality.per_video:
            continue
        commits = store.commits(group)
        bad = commits.table.filter(pa.array(commits.mask("status", QUARANTINED))).to_pylist()
        quarantined += [
            {"video_id": ids[row["slot"]], "group": path, "kind": row["error_kind"], "message": row["error_message"]}
            for row in bad
        ]
        groups.append(
            {
                "path": path,
                "committed": commits.table.num_rows,
                "partial": int(commits.mask("status", PARTIAL).sum()),
                "quarantined": len(bad),
                "left": len(ids) - commits.table.num_rows,
                "bytes": sum(objects.size(key) or 0 for shard in commits.objects.values() for key in shard),
            }
        )
    reasons = store.plan.missing["reason"].to_pylist()
    running = [{name: holder[name] for name in ("host", "pid", "since", "part")} for holder in living(objects)]
    return {
        "store": store.url,
        "dataset": store.dataset_name,
        "planned": len(ids),
        "shards": store.plan.num_shards,
        "missing": reasons.count("missing"),
        "unlisted": reasons.count("unlisted"),
        "groups": groups,
        "running": running,
        "quarantined": quarantined,
    }


def changed_sources(objects: Objects) -> list[str]:
    """A line for every video that is gone or has other contents than when its features were computed."""
    from pipeline.datasets import load_dataset

    store = FeatureStore.open(objects.url)
    source = store.plan.source
    root = load_dataset(source["dataset"], source["root"], splits_dir=source["splits"]).root
    paths = dict(zip(store.videos["slot"].to_pylist(), store.videos["path"].to_pylist(), strict=True))
    recorded = {
        row["slot"]: row["source_sha256"]
        for group in store.groups.values()
        if group.modality.per_video
        for row in store.status(group).select(["slot", "source_sha256"]).to_pylist()
        if row["source_sha256"]
    }
    lines = []
    for slot, digest in sorted(recorded.items()):
        path = root / paths[slot]
        if not path.is_file():
            lines.append(f"{path} is gone")
        elif _sha256(path) != digest:
            lines.append(f"{path} has other contents than when its features were computed")
    return lines


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
