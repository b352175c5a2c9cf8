"""The quarantine report: one Parquet file that says which videos have no features, why, and how to try them again.

It is made from the commits, which stay the truth, whenever a run ends. Its name is the beginning of its own hash, so
that a flipped byte shows, and two parts of a run that write it at once cannot mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.columns import numbers, take
from store.commits import QUARANTINED
from store.groups import Group
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


# Settings of a recipe that decide which group a run fills, and what runs compute without a word about it.
_SETTINGS = (
    *("frames", "pose_frames", "views", "tokens", "clip", "clip_pretrained", "pose", "det_weights", "pose_weights"),
    *("pose_config", "heatmap", "video", "video_pretrained", "video_clips", "posefeat", "posefeat_split"),
    *("posefeat_annotations", "templates", "decoder", "precision", "device", "seed"),
)
_ALL = {"clip", "pose", "video", "text"}


def retry_command(url: str, recipe: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What computes the quarantined videos of a group again, and nothing else: ``recipe`` is the group's, and ``first``
    that of the store's first run, whose settings hold where none are given, but for files of another estimator."""
    words = []
    if recipe.get("pose") != first.get("pose"):
        first = {**first, "det_weights": None, "pose_weights": None, "pose_config": None}
    elif recipe.get("pose_config") != first.get("pose_config"):
        first = {**first, "det_weights": None, "pose_weights": None}
    if set(recipe.get("modalities", _ALL)) != _ALL:
        words += ["--modality", ",".join(recipe["modalities"])]
    for name in _SETTINGS:
        value = recipe.get(name)
        if value is not None and value != first.get(name):
            option = f"--{name.replace('_', '-')}"
            if name == "posefeat":
                words += [word for path in value for word in (option, path)]
            else:
                joined = ("|" if name == "templates" else ",").join(value) if isinstance(value, list) else str(value)
                words += [option, joined]
    return command("extract", "--store", url, *words, "--retry-quarantined")


def next_steps(table: pa.Table) -> list[str]:
    """Lines on what can be done about quarantined videos (``SCHEMA``): each command that tries some of them again."""
    unmatched = pc.equal(table["kind"], UNMATCHED)
    again = pc.unique(table["retry"].filter(pc.invert(unmatched))).to_pylist()
    lines = [f"to try these again: {retry}" for retry in again]
    if pc.any(unmatched).as_py():
        lines.append(
            f"those that are {UNMATCHED} stay so until the file of poses is mended; then extract with it again, which "
            "fills a group of its own"
        )
    return lines


def quarantined(plan: Plan, groups: Iterable[tuple[Group, Commits]], url: str) -> pa.Table:
    """One row (``SCHEMA``) for every video that a group has quarantined, by path of the group and slot."""
    tables = []
    for group, commits in sorted(groups, key=lambda pair: pair[0].path):
        rows = take(commits.table, np.flatnonzero(commits.mask("status", QUARANTINED)))
        videos = plan.at(numbers(rows["slot"]), "video_id", "path")
        columns = {
            "video_id": videos["video_id"],
            "path": videos["path"],
            "group": pa.repeat(group.path, rows.num_rows),
            "kind": rows["error_kind"],
            "message": rows["error_message"],
            "source_sha256": rows["source_sha256"],
            "slot": rows["slot"].cast(pa.int32()),
            "retry": pa.repeat(retry_command(url, group.recipe, plan.source), rows.num_rows),
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
