"""Deleting modalities and collecting what belongs to nothing, in a directory and in a bucket."""

from __future__ import annotations

import itertools
from pathlib import Path

import fixture_store
import pytest
import stores
from fixture_store import CLIP, FRAMES, POSE, TEXT
from s3server import S3Server

from store import FeatureStore, MissingError, StoreError, UsageError
from store.care import collect, delete_group, survey
from store.commits import committed_shards
from store.lease import Part, hold
from store.local import LocalObjects
from store.objects import Objects, open_objects
from store.plan import read_plan
from store.schema import KINDS, ArraySpec, Modality
from store.verify import verify_store
from store.writer import add_modality

_NUMBERS = itertools.count()


@pytest.fixture(params=["local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "local":
        return fixture_store.build(open_objects(tmp_path / "s"))
    server: S3Server = request.getfixturevalue("s3")
    return fixture_store.build(open_objects(server.url(f"care-{next(_NUMBERS)}")))


def of(objects: Objects, group: str) -> list[str]:
    """Keys of a group: arrays, metadata, definition, commits."""
    return [key for key in objects.list() if f"{group}/" in key]


def test_a_group_is_deleted_and_nothing_else_changes(objects: Objects) -> None:
    before = {key: objects.get(key) for key in objects.list()}
    planned = delete_group(objects, "pose/made", dry_run=True)
    assert {key: objects.get(key) for key in objects.list()} == before
    assert (planned.groups, planned.unused_frames) == ((POSE.path,), ())
    assert set(of(objects, POSE.path)) < set(planned.keys)
    assert delete_group(objects, "pose/made") == planned
    assert of(objects, POSE.path) == []
    report = verify_store(objects)
    assert (report.problems, report.committed, report.planned) == ((), 8, 8)
    assert survey(objects).orphans == ()
    changing = ("zarr.json", "_tables/lease.json", "_tables/quarantine/")
    kept = {key: objects.get(key) for key in objects.list() if not key.startswith(changing)}
    assert set(kept) == set(before) - set(planned.keys) - {"zarr.json", "_tables/lease.json"}
    assert all(before[key] == data for key, data in kept.items())
    with pytest.raises(MissingError, match="extract --modality pose"):
        FeatureStore.open(objects.url).load(arrays=("keypoints",))
    if isinstance(objects, LocalObjects):
        assert not (objects.root / "pose").exists()


def test_text_sets_go_with_their_clip_group(objects: Objects) -> None:
    assert delete_group(objects, TEXT.id).groups == (TEXT.path,)
    assert FeatureStore.open(objects.url).load(arrays=("cls",)).slots.tolist() == [0, 1, 3, 4, 5, 8, 9]
    assert verify_store(objects).problems == ()
    stores_text = fixture_store.build(objects)  # there again
    removal = delete_group(stores_text, CLIP.path)
    assert removal.groups == (TEXT.path, CLIP.path)
    assert removal.unused_frames == ()  # poses come from the same frames
    assert verify_store(objects).problems == ()
    assert not [key for key in objects.list() if "clip" in key]


def test_frames_that_features_come_from_stay_until_those_go(objects: Objects) -> None:
    with pytest.raises(UsageError, match=f"{CLIP.path}, {POSE.path} were computed from"):
        delete_group(objects, FRAMES.path)
    delete_group(objects, CLIP.path)
    assert delete_group(objects, POSE.path).unused_frames == (FRAMES.path,)
    delete_group(objects, "frames/t4")
    assert verify_store(objects).problems == ()
    assert FeatureStore.open(objects.url).groups == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_any_kind_is_deleted_and_its_remains_are_collected(tmp_path: Path, kind: str) -> None:
    objects = fixture_store.build(LocalObjects(tmp_path / "s"))
    arrays = {"features": ArraySpec((3,), "float32", ("channel",)), "known": ArraySpec((), "int8", ())}
    modality = Modality(kind, "any", {"of": kind}, arrays)
    digest = verify_store(objects).digest
    with hold(objects, Part()) as lease:
        ours, plan = lease.guard(objects), read_plan(objects)
        add_modality(ours, plan, modality, {}, {})
        fixture_store.fill(ours, plan, modality, [0])
    assert survey(objects).strangers == ()
    delete_group(objects, modality.path)
    assert of(objects, modality.path) == []
    assert verify_store(objects).digest == digest
    objects.put(f"{modality.path}/features/c.0.0", b"an array whose group is gone")
    assert [orphan.key for orphan in collect(objects).orphans] == [f"{modality.path}/features/c.0.0"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("made-up", UsageError, "does not name one group; choose one of: clip/.*, pose/"),
        ("", MissingError, "group is ''; this store has: clip/"),
        ("clip", MissingError, "group is 'clip'"),
        ("vit", MissingError, "group is 'vit'; this store has"),
        (".*", MissingError, "this store has"),
    ],
)
def test_a_name_that_picks_no_group_changes_nothing(
    tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    objects = fixture_store.build(LocalObjects(tmp_path / "s"))
    digest = verify_store(objects).digest
    with pytest.raises(error, match=words):
        delete_group(objects, name)
    assert verify_store(objects).digest == digest


def litter(objects: Objects) -> list[str]:
    """Everything that a store can be left with; returns the keys."""
    left = {
        f"{POSE.path}/boxes/c.2.0.0.0": b"an array whose commit never came",
        f"_tables/commits/{POSE.path}/2.sha256": b"its hashes",
        f"{CLIP.path}/gone/zarr.json": b"an array that the group has not",
        "clip/old-0123abcd/cls/c.0.0.0.0": b"a group whose definition is gone",
        "clip/old-0123abcd/zarr.json": b"{}",
        "_tables/packs/clip/old-0123abcd/pack.json": b"{}",
    }
    for key, data in left.items():
        objects.put(key, data)
    return sorted(left)


def test_what_belongs_to_nothing_is_collected(objects: Objects) -> None:
    digest = verify_store(objects).digest
    keys = litter(objects)
    mine = ["README.md", "clip/notes.txt", f"{CLIP.path}/cls/figure.png", "_tables/extra.json"]
    for key in mine:
        objects.put(key, b"mine")
    if isinstance(objects, LocalObjects):
        keys.append("clip/.tmp-c.0-1-ab")
        (objects.root / keys[-1]).write_bytes(b"half an ob")
    planned = collect(objects, dry_run=True)
    assert sorted(orphan.key for orphan in planned.orphans) == sorted(keys)
    assert sorted(planned.strangers) == sorted(mine)
    assert all(objects.get(key) is not None for key in keys)
    assert collect(objects) == planned
    assert [objects.get(key) for key in keys] == [None] * len(keys)
    assert [objects.get(key) for key in mine] == [b"mine"] * len(mine)
    report = verify_store(objects)
    assert (report.digest, report.problems) == (digest, ())
    assert collect(objects).orphans == ()


def test_commits_whose_definition_is_lost_are_left_alone(tmp_path: Path) -> None:
    objects = fixture_store.build(LocalObjects(tmp_path / "s"))
    lost = "pose/lost-0123abcd"
    for key in [key for key in objects.list() if POSE.path in key and "groups" not in key]:
        objects.put(key.replace(POSE.path, lost), objects.get(key) or b"")
    found = collect(objects)
    assert (found.orphans, found.lost_groups) == ((), (lost,))
    assert committed_shards(objects, lost) == [0, 1]
    assert delete_group(objects, lost).groups == (lost,)
    assert of(objects, lost) == []
    assert verify_store(objects).problems == ()


def test_care_waits_for_nobody_and_disturbs_nobody(tmp_path: Path) -> None:
    objects = fixture_store.build(LocalObjects(tmp_path / "s"))
    with hold(objects, Part(0, 2)):
        for change in (lambda: collect(objects), lambda: delete_group(objects, POSE.path)):
            with pytest.raises(StoreError, match="in use by process") as error:
                change()
            assert error.value.kind == "store-locked"
        assert collect(objects, dry_run=True).orphans == ()


def test_no_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    for change in (collect, lambda objects: delete_group(objects, "clip")):
        with pytest.raises(StoreError, match="no feature store"):
            change(LocalObjects(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_store_without_frames_groups(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s")
    assert delete_group(objects, stores.CLIP.id).unused_frames == ()
    assert verify_store(objects).problems == ()
