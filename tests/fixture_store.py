"""Makes the small store under ``tests/fixtures/`` that later versions have to go on reading.

``python tests/fixture_store.py`` writes it anew, and prints the digest for ``tests/store/test_old_stores.py``. Only
while a format version is not released: after that a version's fixture stays as it is for ever, and a new version adds
its own beside it. The one of version 1 was written before commits covered their hashes, and serves to read such.
Values are made up, as in ``tests/stores.py``.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import stores

from store.commits import OK, PARTIAL, QUARANTINED, CommitRow
from store.layout import HEARTBEATS, LEASE, VERSION
from store.lease import WHOLE, hold
from store.local import LOCK, LocalObjects
from store.objects import Objects
from store.plan import Plan, write_plan
from store.schema import ArraySpec, Modality
from store.verify import verify_store
from store.writer import add_modality, create_store, write_metadata, write_shard, write_text_set

HERE = Path(__file__).resolve().parent
FIXTURE = HERE / "fixtures" / f"store-v{VERSION}"
SHARD_LEN = 4

FRAMES = Modality(
    "frames",
    "t4-pyav",
    {"num_frames": 4, "sampling": "floor(i * n / T)", "decoder": "pyav"},
    {"index": ArraySpec((4,), "int32", ("frame",)), "pts": ArraySpec((4,), "float64", ("frame",))},
)
CLIP = dataclasses.replace(stores.CLIP, record={**stores.CLIP.record, "frames": dict(FRAMES.record)})
POSE = Modality(
    "pose",
    "made-up",
    {"num_frames": 4, "frames": dict(FRAMES.record)},
    {
        "keypoints": ArraySpec((4, 1, 17, 3), "float32", ("pose_frame", "person", "joint", "coordinate")),
        "boxes": ArraySpec((4, 1, 5), "float32", ("pose_frame", "person", "coordinate")),
    },
)
TEXT = dataclasses.replace(stores.TEXT, parent=CLIP.path)

# Slots 0 to 5, then an update: slots 6 and 7 stay empty. Pose has no features of the last shard yet.
FIRST, SHARDS = 6, {FRAMES.path: 3, CLIP.path: 3, POSE.path: 2}
STATUSES = {1: PARTIAL, 2: QUARANTINED}
NAMES = {0: "ä b;#.avi", 8: "new\n'quoted'.mp4"}


def rows_of(slots: list[int]) -> list[CommitRow]:
    """What became of the videos: slot 1 is partial, slot 2 is quarantined."""
    return [
        CommitRow(
            slot,
            STATUSES.get(slot, OK),
            error_kind="decoder-crash" if slot == 2 else "",
            error_message="the decoder died" if slot == 2 else "",
            source_sha256=f"{slot:064x}",
            fps=25.0,
            frames=0 if slot == 2 else 30 - slot,
            claimed=100 if slot == 1 else 30,
            width=320,
            height=240,
        )
        for slot in slots
    ]


def values(modality: Modality, slots: list[int]) -> dict[str, np.ndarray]:
    """Features of some slots; integers are small and positive."""
    found = stores.values(modality, slots)
    return {name: abs(array) if array.dtype.kind == "i" else array for name, array in found.items()}


def plans() -> tuple[Plan, Plan]:
    """The plan as it was made, and as an update left it."""
    whole = stores.plan(FIRST + 2, SHARD_LEN)
    slots = [*range(FIRST), 8, 9]
    paths = [f"class {slot % 2}/{NAMES.get(slot, f'v{slot}.avi')}" for slot in slots]
    videos = whole.videos
    for name, column in (("slot", pa.array(slots, pa.int32())), ("path", pa.array(paths))):
        videos = videos.set_column(videos.column_names.index(name), videos.schema.field(name), column)
    second = dataclasses.replace(whole, videos=videos)
    return dataclasses.replace(second, videos=videos.slice(0, FIRST)), second


def fill(objects: Objects, plan: Plan, modality: Modality, shards: list[int]) -> None:
    """Write and commit shards of a modality, into objects that a lease guards."""
    for shard in shards:
        slots = plan.slots_of(shard)
        write_shard(objects, modality, shard, SHARD_LEN, values(modality, slots), rows_of(slots))


def build(objects: Objects) -> Objects:
    """The store: made, filled, updated, filled again."""
    first, second = plans()
    create_store(objects, first)
    with hold(objects, WHOLE) as lease:
        ours = lease.guard(objects)
        for modality in (FRAMES, CLIP, POSE):
            add_modality(ours, first, modality, {"dataset": "folder"}, {"threads": 1})
            fill(ours, first, modality, [0, 1])
        add_modality(ours, first, TEXT, {}, {})
        write_text_set(ours, TEXT, {name: array[0] for name, array in values(TEXT, [0]).items()})
        write_plan(ours, second)
        write_metadata(ours, second)
        for modality in (FRAMES, CLIP):
            fill(ours, second, modality, [2])
    return objects


def main() -> None:
    shutil.rmtree(FIXTURE, ignore_errors=True)
    objects = LocalObjects(FIXTURE)
    build(objects)
    for key in (LEASE, LOCK, *objects.list(HEARTBEATS)):  # who wrote it is no part of the format
        objects.delete(key)
    objects.prune(HEARTBEATS)
    size = sum(objects.size(key) or 0 for key in objects.list())
    print(f"{FIXTURE}: {len(list(objects.list()))} objects, {size} bytes, digest {verify_store(objects).digest}")


if __name__ == "__main__":
    main()
