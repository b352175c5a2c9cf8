"""What is in a store, and whether its videos are still those that it was made from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from store.commits import PARTIAL, QUARANTINED, committed_shards
from store.errors import MissingError, UsageError
from store.groups import Group, differences
from store.lease import living
from store.objects import Objects, open_objects
from store.quarantine import next_steps
from store.reader import FeatureStore


def find_store(store: str | None) -> str:
    """The named store, or the only one under ``stores/``. Raises ``UsageError`` that lists them where there are
    several."""
    if store is not None:
        return store
    found = sorted(path.parent.parent for path in Path("stores").glob("*/_tables/store.json"))
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise MissingError("no store under stores/; make one with: vilp-pipe extract --dataset synthetic")
    raise UsageError(f"store is not given and stores/ has several; choose with --store: {', '.join(map(str, found))}")


def store_status(url: str) -> dict[str, Any]:
    """What a store holds, what is left to do, who works on it now, and what is quarantined, as plain JSON values. Reads
    only, so it may be asked at any time and from any machine.

    ``groups`` counts videos: ``committed``, of them ``partial`` and ``quarantined``, and ``left``. ``done`` are those
    that every group has committed. ``texts`` are the text sets of CLIP models, with whether they are committed.
    ``settings`` tell a group from others of its kind, and a text set from others of its model. ``running`` names the
    runs that are alive, with the seconds since each last showed it. ``next_steps`` are lines on what to do about what
    is quarantined.
    """
    store = FeatureStore.open(url)
    objects = open_objects(url)
    groups, done = [], [np.empty(0, np.int64)]
    settings = _settings(store.groups.values())
    texts = [
        {"path": path, "committed": bool(committed_shards(objects, path)), "settings": settings.get(path, {})}
        for path, group in store.groups.items()
        if not group.modality.per_video
    ]
    for path, group in store.groups.items():
        if not group.modality.per_video:
            continue
        commits = store.commits(group)
        bad = int(commits.mask("status", QUARANTINED).sum())
        done.append(commits.slots)
        groups.append(
            {
                "path": path,
                "committed": commits.table.num_rows,
                "partial": int(commits.mask("status", PARTIAL).sum()),
                "quarantined": bad,
                "left": len(store.plan.slots) - commits.table.num_rows,
                "settings": settings.get(path, {}),
                "bytes": (commits.table.num_rows - bad) * sum(spec.nbytes for spec in group.modality.arrays.values()),
            }
        )
    quarantined = store.quarantined()
    facts = ("host", "pid", "since", "part", "silent_seconds")
    return {
        "store": store.url,
        "dataset": store.dataset_name,
        "planned": len(store.plan.slots),
        "done": len(functools.reduce(np.intersect1d, done[1:] or done)),
        "shards": store.plan.num_shards,
        "missing": store.plan.num_missing,
        "unlisted": store.plan.num_unlisted,
        "groups": groups,
        "texts": texts,
        "running": [{name: holder[name] for name in facts} for holder in living(objects)],
        "quarantined": quarantined.select(["video_id", "group", "kind", "message"]).to_pylist(),
        "next_steps": next_steps(quarantined),
    }


def _settings(groups: Iterable[Group]) -> dict[str, dict[str, str]]:
    """What tells a group from the others of its kind (and CLIP model), by path. Nobody chooses among groups of
    frames."""
    kinds: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.modality.kind != "frames":
            kinds.setdefault((group.modality.kind, group.modality.parent), []).append(group)
    found = ((alike, differences(alike)) for alike in kinds.values())
    return {group.path: words for alike, told in found for group, words in zip(alike, told, strict=True)}


def changed_sources(objects: Objects) -> list[str]:
    """A line for every video that is gone or has other contents than when its features were computed."""
    from pipeline.datasets import load_dataset
    from pipeline.plan import dataset_seed

    store = FeatureStore.open(objects.url)
    source = store.plan.source
    seed = dataset_seed(objects, 0)
    root = load_dataset(source["dataset"], source["root"], splits_dir=source["splits"], seed=seed).root
    paths = store.plan.lookup("slot", "path")
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
