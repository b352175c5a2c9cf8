"""Small made-up stores for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from store.commits import OK, PARTIAL, QUARANTINED, CommitRow
from store.lease import Part, hold
from store.local import LocalObjects
from store.objects import Objects
from store.plan import MISSING_SCHEMA, Plan, videos_schema
from store.schema import ArraySpec, Modality
from store.writer import add_modality, create_store, write_shard, write_text_set

FRAMES, POSE_FRAMES, WIDTH, GRID = 4, 12, 6, 2

CLIP = Modality(
    "clip",
    "made-up",
    {"num_frames": FRAMES, "views": ["center"], "model": "none"},
    {
        "cls": ArraySpec((1, FRAMES, WIDTH), "float16", ("view", "frame", "channel")),
        "value": ArraySpec((1, FRAMES, GRID, GRID, WIDTH), "float16", ("view", "frame", "row", "column", "channel")),
    },
)
POSE = Modality(
    "pose",
    "made-up",
    {"num_frames": POSE_FRAMES},
    {
        "keypoints": ArraySpec((POSE_FRAMES, 2, 17, 3), "float32", ("pose_frame", "person", "joint", "xyc")),
        "boxes": ArraySpec((POSE_FRAMES, 2, 5), "float32", ("pose_frame", "person", "xyxys")),
    },
)
TEXT = Modality(
    "text",
    "plain",
    {"class_names": ["a", "b"], "templates": ["{}"], "logit_scale": 100.0, "logit_bias": 0.0},
    {
        "class_embeddings": ArraySpec((1, 2, WIDTH), "float32", ("template", "class", "channel")),
        "word_embeddings": ArraySpec((1, 2, 3, WIDTH), "float32", ("template", "class", "token", "channel")),
        "token_kinds": ArraySpec((1, 2, 3), "int8", ("template", "class", "token")),
    },
    parent=CLIP.path,
)


def plan(videos: int = 10, shard_len: int = 4) -> Plan:
    """Videos ``v0``... of two classes in turn; the first of three always in the test half of split 1."""
    rows = [
        {
            "slot": slot,
            "video_id": f"v{slot}",
            "path": f"class {slot % 2}/v{slot}.avi",
            "label": slot % 2,
            "class_name": "ab"[slot % 2],
            "source": f"source {slot // 2}",
            "split1": "test" if slot % 3 == 0 else "train",
            "start": None,
            "end": None,
            "bytes": 100 + slot,
            "mtime_ns": 0,
        }
        for slot in range(videos)
    ]
    missing = pa.Table.from_pylist([{"path": "class 0/gone.avi", "reason": "missing"}], schema=MISSING_SCHEMA)
    return Plan(
        "made-up",
        ("a", "b"),
        1,
        shard_len,
        pa.Table.from_pylist(rows, schema=videos_schema(1)),
        missing,
        "none",
        videos + 1,
    )


def values(modality: Modality, slots: list[int]) -> dict[str, np.ndarray]:
    """Features of some slots, a function of the slot alone."""
    arrays = {}
    for name, spec in modality.arrays.items():
        rows = [np.random.default_rng([slot, len(name)]).normal(size=spec.shape) for slot in slots]
        arrays[name] = np.stack(rows).astype(spec.dtype)
    return arrays


def rows_of(slots: list[int], statuses: dict[int, str] | None = None) -> list[CommitRow]:
    statuses = statuses or {}
    return [
        CommitRow(
            slot,
            statuses.get(slot, OK),
            error_kind="decode-failed" if statuses.get(slot) == QUARANTINED else "",
            frames=30,
            width=320,
            height=240,
            fps=25.0,
        )
        for slot in slots
    ]


def build(
    root: Path,
    *,
    modalities: tuple[Modality, ...] = (CLIP, POSE),
    shards: tuple[int, ...] | None = None,
    statuses: dict[int, str] | None = None,
    the_plan: Plan | None = None,
) -> LocalObjects:
    """A store with the given shards committed (all of them by default); slot 1 is partial unless told otherwise."""
    objects = LocalObjects(root)
    fill(objects, the_plan or plan(), modalities, shards=shards, statuses=statuses)
    return objects


def fill(
    objects: Objects,
    the_plan: Plan,
    modalities: tuple[Modality, ...],
    *,
    shards: tuple[int, ...] | None = None,
    statuses: dict[int, str] | None = None,
) -> None:
    """As ``build``, for objects anywhere."""
    statuses = {1: PARTIAL} if statuses is None else statuses
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        made = create_store(ours, the_plan)
        for modality in modalities:
            add_modality(ours, made, modality, {"backend": modality.name}, {"threads": 1})
            for shard in range(made.num_shards) if shards is None else shards:
                slots = made.slots_of(shard)
                arrays = values(modality, slots)
                write_shard(ours, modality, shard, made.shard_len, arrays, rows_of(slots, statuses))
        if CLIP in modalities:
            add_modality(ours, made, TEXT, {}, {})
            write_text_set(ours, TEXT, {n: a[0] for n, a in values(TEXT, [0]).items()})
