"""Writing a shard: arrays first, then the commit that makes them visible."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from store.commits import QUARANTINED, CommitRow, corrupt, read_commit, remove_commit, write_commit
from store.errors import StoreError
from store.groups import Group, add_group, write_metadata
from store.layout import STORE, array_key
from store.objects import Objects
from store.plan import Plan, read_plan, require_no_strangers, write_plan
from store.schema import Modality
from store.sealed import get_sealed, sha256
from store.shards import RowBuffers, encode_chunk, encode_shard, read_rows


def check_place(objects: Objects) -> None:
    """Raise ``StoreError`` unless a store can be made or continued here, before anything is written.

    The tables of a half-made store of a killed run may be completed; anything else in the directory is somebody's.
    """
    if get_sealed(objects, STORE) is not None:
        read_plan(objects)
    else:
        require_no_strangers(objects)


def create_store(objects: Objects, plan: Plan) -> Plan:
    """Make a store for a plan, or return the plan of the store that is there. Raises as ``check_place``."""
    check_place(objects)
    if get_sealed(objects, STORE) is None:
        write_plan(objects, plan)
    plan = read_plan(objects)
    write_metadata(objects, plan)
    return plan


def add_modality(
    objects: Objects, plan: Plan, modality: Modality, recipe: Mapping[str, Any], environment: Mapping[str, Any]
) -> Group:
    """Add the group of a modality to a store; what is there already stays untouched."""
    group = add_group(objects, plan, modality, recipe, environment)
    write_metadata(objects, plan)
    return group


def write_shard(
    objects: Objects,
    modality: Modality,
    shard: int,
    shard_len: int,
    arrays: Mapping[str, np.ndarray],
    rows: Sequence[CommitRow],
    metadata: Mapping[str, str] | None = None,
    expected: Collection[int] = (),
) -> list[CommitRow]:
    """Write and commit one shard of a modality, into objects that a lease guards.

    ``arrays`` have one row for each of ``rows``, in slot order. Rows with non-finite values are never stored: such a
    video is quarantined as ``non-finite``. Where the shard is committed already, rows of videos that are not among
    ``rows`` stay as they are: the commit is removed, the shard written and committed again. Returns the new rows as
    committed. ``expected`` are the slots that the planner saw committed: where one of them is gone by now (a writer was
    killed between removing the commit and writing it), nothing is committed, so that a resume computes the whole shard.
    Raises ``StoreError`` for that, and what the guard raises where another run has taken over.
    """
    rows, arrays = _quarantine_non_finite(rows, arrays)
    kept, kept_arrays = _committed_rows(objects, modality, shard, shard_len, {row.slot for row in rows})
    lost = set(expected) - {row.slot for row in [*kept, *rows]}
    if lost:
        raise StoreError(
            f"{len(lost)} committed videos of shard {shard} of {modality.path} were lost when a writer was killed; "
            "run the same command again to compute them",
            kind="store-mismatch",
        )
    remove_commit(objects, modality.path, shard)
    hashes = {}
    for name, spec in modality.arrays.items():
        whole = np.full((shard_len, *spec.shape), spec.fill, dtype=spec.dtype)
        whole[[row.slot - shard * shard_len for row in rows]] = arrays[name]
        whole[[row.slot - shard * shard_len for row in kept]] = kept_arrays[name]
        hashes.update(_put_array(objects, modality, name, shard, encode_shard(spec, whole)))
    everything = sorted([*kept, *rows], key=lambda row: row.slot)
    write_commit(objects, modality.path, shard, everything, hashes, metadata or {})
    return list(rows)


def write_text_set(objects: Objects, modality: Modality, arrays: Mapping[str, np.ndarray]) -> None:
    """Write and commit the arrays of a text set, whole, into objects that a lease guards."""
    hashes = {}
    for name, spec in modality.arrays.items():
        hashes.update(_put_array(objects, modality, name, 0, encode_chunk(spec, arrays[name])))
    write_commit(objects, modality.path, 0, [], hashes, {})


def _committed_rows(
    objects: Objects, modality: Modality, shard: int, shard_len: int, replaced: set[int]
) -> tuple[list[CommitRow], dict[str, np.ndarray]]:
    """What a shard holds of videos that are not about to be replaced."""
    commit = read_commit(objects, modality.path, shard)
    rows = [CommitRow(**row) for row in commit.rows if row["slot"] not in replaced] if commit else []
    arrays = {}
    for name, spec in modality.arrays.items():
        arrays[name] = np.full((len(rows), *spec.shape), spec.fill, dtype=spec.dtype)
        key = array_key(modality.path, name, shard, len(spec.shape) + 1)
        if commit is not None and key not in commit.objects and any(row.status != QUARANTINED for row in rows):
            raise corrupt(objects, f"the hashes of {objects.describe(key)} are damaged")
        if commit is not None and rows and key in commit.objects:
            positions = [row.slot - shard * shard_len for row in rows]
            with objects.open(key) as blob:
                read_rows(blob, spec, shard_len, positions, RowBuffers(arrays[name]), range(len(rows)))
    return rows, arrays


def _put_array(objects: Objects, modality: Modality, name: str, shard: int, data: bytes | None) -> dict[str, str]:
    """Write an array's object; returns its hash by key, nothing where all values are fill and no object is kept."""
    spec = modality.arrays[name]
    key = array_key(modality.path, name, shard, len(spec.shape) + modality.per_video)
    if data is None:
        objects.delete(key)
        return {}
    objects.put(key, data, point="array")
    return {key: sha256(data)}


def _quarantine_non_finite(
    rows: Sequence[CommitRow], arrays: Mapping[str, np.ndarray]
) -> tuple[list[CommitRow], dict[str, np.ndarray]]:
    kept, fixed = [], dict(arrays)
    for position, row in enumerate(rows):
        bad = [n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a[position]).all()]
        if row.status == QUARANTINED or not bad:
            kept.append(row)
            continue
        message = f"{', '.join(bad)} holds values that are not finite"
        kept.append(dataclasses.replace(row, status=QUARANTINED, error_kind="non-finite", error_message=message))
    for name, values in arrays.items():
        fill = np.nan if values.dtype.kind == "f" else -1
        quarantined = [position for position, row in enumerate(kept) if row.status == QUARANTINED]
        if quarantined:
            fixed[name] = values.copy()
            fixed[name][quarantined] = fill
    return kept, fixed
