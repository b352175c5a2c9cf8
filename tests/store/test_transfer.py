"""Copying and merging stores, between directories and buckets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import fixture_store
import pyarrow as pa
import pytest
import stores
from fixture_store import CLIP, FRAMES, POSE
from s3server import S3Server

import store.transfer
from store import FeatureStore, StoreError, UsageError
from store.care import delete_group
from store.commits import PARTIAL, QUARANTINED, Commit, committed_shards, remove_commit
from store.groups import read_groups
from store.layout import QUARANTINE
from store.lease import WHOLE, hold
from store.local import LocalObjects
from store.objects import Objects, open_objects
from store.plan import Plan, read_plan
from store.transfer import copy_store, merge_stores
from store.verify import verify_store
from store.writer import add_modality, create_store, write_shard

_NUMBERS = itertools.count()
Place = Callable[[str], Objects]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A fresh place of a kind: ``local`` or ``s3``."""

    def make(kind: str) -> Objects:
        if kind == "local":
            return open_objects(tmp_path / f"store-{next(_NUMBERS)}")
        server: S3Server = request.getfixturevalue("s3")
        return open_objects(server.url(f"transfer-{next(_NUMBERS)}"))

    return make


def contents(objects: Objects) -> dict[str, bytes | None]:
    """All that lies in a store but who holds it, and the report, which says where it lies."""
    return {key: objects.get(key) for key in objects.list() if not key.startswith(("_tables/lease", QUARANTINE))}


@pytest.mark.parametrize(("source", "destination"), [("local", "s3"), ("s3", "local"), ("local", "local")])
def test_a_copy_is_the_same_store(place: Place, source: str, destination: str) -> None:
    one = fixture_store.build(place(source))
    other = place(destination)
    seen: list[tuple[int, int]] = []
    done = copy_store(one, other, progress=lambda number, total: seen.append((number, total)))
    assert (done.shards, done.present, len(done.groups)) == (9, 0, 4)
    assert seen == [(number, 9) for number in range(10)]
    assert contents(other) == contents(one)
    assert verify_store(other).digest == verify_store(one).digest
    again = copy_store(one, other)
    assert (again.shards, again.present, again.groups) == (0, 9, ())


def test_a_copy_follows_its_source(place: Place) -> None:
    one, other = place("local"), place("local")
    root = Path(one.url)
    stores.build(root, shards=(0,))
    copy_store(one, other)
    stores.build(root, shards=(1, 2))
    assert copy_store(one, other).shards == 4
    assert verify_store(other).digest == verify_store(one).digest


def test_what_is_no_copy_is_not_copied_over(place: Place) -> None:
    one, other = place("local"), place("local")
    stores.build(Path(one.url), shards=(0,))
    stores.build(Path(other.url), shards=(1,))
    before = contents(other)
    with pytest.raises(StoreError, match=f"holds shard 1 of {stores.CLIP.path}, which .* does not") as error:
        copy_store(one, other)
    assert error.value.kind == "store-mismatch"
    assert contents(other) == before
    Path(one.url, "file").write_text("x")
    with pytest.raises(StoreError, match="holds no feature store"):
        copy_store(other, open_objects(Path(one.url) / "clip"))


@pytest.mark.parametrize("what", ["array", "commit"])
def test_damage_does_not_travel(place: Place, what: str) -> None:
    one, other = fixture_store.build(place("local")), place("local")
    array, commit = f"{POSE.path}/boxes/c.1.0.0.0", f"_tables/commits/{POSE.path}/1.parquet"
    key = array if what == "array" else commit
    one.put(key, (one.get(key) or b"")[:-1] + b"?")
    with pytest.raises(StoreError, match=r"damaged; run: vilp-pipe verify") as error:
        copy_store(one, other)
    assert error.value.kind == "store-corrupt"
    assert 1 not in committed_shards(other, POSE.path)
    if what == "commit":
        return  # as the source, the copy would have to be repaired first
    fixture_store_again = fixture_store.build(place("local"))
    one.put(key, fixture_store_again.get(key) or b"")
    copy_store(one, other)
    assert verify_store(other).digest == verify_store(one).digest


def part(
    objects: Objects, shards: tuple[int, ...], *, plan: Plan | None = None, statuses: dict | None = None
) -> Objects:
    return stores.build(Path(objects.url), shards=shards, the_plan=plan, statuses=statuses)


def test_parts_of_machines_without_a_common_disk_become_one_store(place: Place, tmp_path: Path) -> None:
    whole = stores.build(tmp_path / "whole")
    elsewhere = stores.plan()
    times = pa.array([7] * 10, pa.int64())
    number = elsewhere.videos.column_names.index("mtime_ns")
    elsewhere = dataclasses.replace(
        elsewhere, videos=elsewhere.videos.set_column(number, "mtime_ns", times), source={"root": "/elsewhere"}
    )
    parts = [part(place("local"), (0, 2)), part(place("local"), (1, 2), plan=elsewhere)]
    third = place("s3")
    create_store(third, stores.plan())
    third_shards = copy_store(parts[0], third)
    assert third_shards.shards == 5
    destination = place("local")
    done = merge_stores([parts[0], parts[1], third], destination)
    assert (done.shards, done.present) == (7, 0)
    assert verify_store(destination).digest == verify_store(whole).digest
    assert merge_stores(parts, destination).shards == 0
    # Into one of the parts, and a group that only one has.
    assert merge_stores([parts[1]], parts[0]).shards == 2
    assert verify_store(parts[0]).digest == verify_store(whole).digest
    assert read_plan(parts[0]).source == {}


def test_groups_that_the_destination_lacks_are_brought(place: Place, tmp_path: Path) -> None:
    stores.build(tmp_path / "clip", modalities=(stores.CLIP,))
    stores.build(tmp_path / "pose", modalities=(stores.POSE,))
    done = merge_stores([open_objects(tmp_path / "pose")], open_objects(tmp_path / "clip"))
    assert done.groups == (stores.POSE.path,)
    assert len(FeatureStore.open(tmp_path / "clip").load(arrays=("cls", "keypoints"))) == 10
    assert verify_store(open_objects(tmp_path / "clip")).digest == verify_store(stores.build(tmp_path / "both")).digest


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ({4: QUARANTINED}, "status of slot 4 is 'quarantined' and 'ok'"),
        ({4: PARTIAL}, "status of slot 4 is 'partial' and 'ok'"),
    ],
)
def test_a_shard_with_other_values_is_named_and_nothing_changes(place: Place, statuses: dict, words: str) -> None:
    one, other = part(place("local"), (0, 1)), part(place("local"), (1, 2), statuses={1: PARTIAL, **statuses})
    before = contents(one), contents(other)
    with pytest.raises(StoreError, match=f"shard 1 of {stores.CLIP.path} holds other values in .*{words}") as error:
        merge_stores([other], one)
    assert error.value.kind == "store-mismatch"
    fresh = place("local")
    with pytest.raises(StoreError, match="shard 1"):
        merge_stores([one, other], fresh)
    assert (contents(one), contents(other)) == before
    assert not Path(fresh.url).exists()


def test_other_bytes_are_other_values(place: Place) -> None:
    one, other = part(place("local"), (0,)), part(place("local"), (0,))
    with hold(other, WHOLE) as lease:
        arrays = stores.values(stores.CLIP, [0, 1, 2, 3])
        arrays["cls"][2, 0, 0, 0] += 1
        rows = stores.rows_of([0, 1, 2, 3], {1: PARTIAL})
        write_shard(lease.guard(other), stores.CLIP, 0, 4, arrays, rows)
    with pytest.raises(StoreError, match=f"the bytes of {stores.CLIP.path}/cls/c.0.0.0.0 differ"):
        merge_stores([other], one)


def test_shards_of_other_videos_are_not_put_together(place: Place) -> None:
    """As two runs with other limits leave them."""
    one, other = part(place("local"), (0,)), part(place("local"), (0,))
    for objects, slots in ((one, [0, 1]), (other, [0, 1, 2])):
        with hold(objects, WHOLE) as lease:
            ours = lease.guard(objects)
            remove_commit(ours, stores.CLIP.path, 0)
            write_shard(ours, stores.CLIP, 0, 4, stores.values(stores.CLIP, slots), stores.rows_of(slots))
    with pytest.raises(StoreError, match=r"holds other videos in .*slot 2 is in one of them alone, as after --limit"):
        merge_stores([other], one)


@pytest.mark.parametrize("gone", ["commit", "array"])
def test_a_deletion_beside_a_copy_ends_it_and_damages_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """The source is not held. What goes while it is copied is named as gone, and not as damaged."""
    one, other = part(place("local"), (0, 1, 2)), place("local")
    real, calls = store.transfer.read_commit, []

    def too_early(objects: Objects, group: str, shard: int) -> Commit | None:
        commit = real(objects, group, shard)
        if not calls:
            calls.append(shard)
            delete_group(one, stores.CLIP.path)
            return commit if gone == "array" else None
        return commit

    monkeypatch.setattr("store.transfer.read_commit", too_early)
    with pytest.raises(StoreError, match=r"was removed from .* while it was copied") as error:
        copy_store(one, other)
    assert error.value.kind == "store-mismatch"
    report = verify_store(other)
    assert [problem for problem in report.problems if problem.shard is not None] == []


def changed(**changes: object) -> Plan:
    plan = stores.plan()
    videos = changes.pop("videos", None)
    if isinstance(videos, dict):
        for name, values in videos.items():
            number = plan.videos.column_names.index(name)
            column = pa.array(values, plan.videos.schema.field(name).type)
            plan = dataclasses.replace(plan, videos=plan.videos.set_column(number, name, column))
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (changed(dataset="other"), "dataset is 'made-up' and 'other'"),
        (changed(class_names=("a", "c")), "class_names is"),
        (stores.plan(shard_len=5), "shard_len is 4 and 5"),
        (stores.plan(9), "the number of videos is 10 and 9"),
        (changed(videos={"path": ["x"] * 10}), "path of slot 0 is 'class 0/v0.avi' and 'x'"),
        (changed(videos={"bytes": [100, 101, 102, 1, *range(104, 110)]}), "bytes of slot 3 is 103 and 1"),
    ],
)
def test_different_plans_are_refused_by_their_first_difference(place: Place, plan: Plan, words: str) -> None:
    one, other = part(place("local"), (0,)), place("local")
    create_store(other, plan)
    before = contents(other)
    for call in (lambda: merge_stores([one], other), lambda: copy_store(one, other)):
        with pytest.raises(StoreError, match=words) as error:
            call()
        assert error.value.kind == "store-mismatch"
    fresh = place("local")
    with pytest.raises(StoreError, match=words):
        merge_stores([one, other], fresh)
    assert contents(other) == before
    assert not Path(fresh.url).exists()


def test_a_store_is_not_brought_into_itself(place: Place, tmp_path: Path) -> None:
    one = part(place("local"), (0,))
    (tmp_path / "link").symlink_to(one.url)
    with pytest.raises(UsageError, match="is named twice"):
        copy_store(one, open_objects(tmp_path / "link"))


def test_a_destination_in_use_is_left_alone(place: Place) -> None:
    one, other = part(place("local"), (0,)), place("local")
    create_store(other, stores.plan())
    with hold(other, WHOLE), pytest.raises(StoreError, match="in use"):
        merge_stores([one], other)
    assert read_groups(other) == {}


def test_the_definition_of_the_destination_stays(place: Place) -> None:
    one, other = fixture_store.build(place("local")), place("local")
    create_store(other, fixture_store.plans()[1])
    with hold(other, WHOLE) as lease:
        add_modality(lease.guard(other), fixture_store.plans()[1], FRAMES, {"dataset": "mine"}, {"threads": 9})
    assert merge_stores([one], other).shards == 9
    assert read_groups(other)[FRAMES.path].environment == {"threads": 9}
    assert read_groups(other)[CLIP.path].environment == {"threads": 1}
    assert verify_store(other).digest == verify_store(one).digest


def test_a_bucket_with_faults(s3: S3Server, tmp_path: Path) -> None:
    one, other = fixture_store.build(LocalObjects(tmp_path / "s")), open_objects(s3.url(f"faulty-{next(_NUMBERS)}"))
    s3.faults = lambda method, path, number: ("500", "cut", "cut-after")[number % 3] if number % 7 == 0 else None
    copy_store(one, other)
    s3.faults = lambda method, path, number: None
    assert verify_store(other).digest == verify_store(one).digest
    assert s3.injected
