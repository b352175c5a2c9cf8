"""A packed copy of commits changes how long opening takes, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import stores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3server import S3Server

from store import FeatureStore
from store.commits import QUARANTINED, remove_commit
from store.layout import PACKS, pack_key
from store.lease import Part, hold
from store.objects import Objects, open_objects
from store.packs import Commits, commit_versions, pack_commits, read_commits, stray_packs
from store.verify import restore, verify_store
from store.writer import write_shard

PATH = stores.CLIP.path
SHARDS = 24


@pytest.fixture(autouse=True)
def _pack_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.packs.PACK_FROM", 2)


def plain(objects: Objects) -> Commits:
    """The commits, read one by one."""
    hidden = objects.get(pack_key(PATH))
    objects.delete(pack_key(PATH))
    commits = read_commits(objects, PATH, shard_len=4)
    if hidden is not None:
        objects.put(pack_key(PATH), hidden)
    return commits


def same(one: Commits, other: Commits) -> bool:
    return one.table.equals(other.table) and one.objects == other.objects


def commit(objects: Objects, shard: int, status: str = "ok") -> None:
    slots = list(range(4 * shard, 4 * shard + 4))
    rows = [dataclasses.replace(row, status=status) for row in stores.rows_of(slots)]
    write_shard(objects, stores.CLIP, shard, 4, stores.values(stores.CLIP, slots), rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["commit", "quarantine", "remove", "pack"]), st.integers(0, 5)), max_size=12
    )
)
def test_packed_or_not_the_commits_are_the_same(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    objects = stores.build(tmp_path_factory.mktemp("s"), modalities=(stores.CLIP,), shards=(), the_plan=stores.plan(24))
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        for step, shard in steps:
            if step == "pack":
                pack_commits(ours, PATH, shard_len=4)
            elif step == "remove":
                remove_commit(ours, PATH, shard)
            else:
                commit(ours, shard, QUARANTINED if step == "quarantine" else "ok")
            assert same(read_commits(objects, PATH, shard_len=4), plain(objects))
    assert verify_store(objects).problems == ()


def packed(root: Path) -> Objects:
    objects = stores.build(root)
    pack_commits(objects, PATH, shard_len=4)
    assert objects.get(pack_key(PATH)) is not None
    return objects


def test_a_pack_spares_the_single_commits(s3: S3Server) -> None:
    """Opening asks for the listing, the pack and what came after it, however many shards there are."""
    objects = open_objects(s3.url("packed"))
    plan = stores.plan(4 * SHARDS)
    stores.fill(objects, plan, (stores.CLIP,))
    pack_commits(objects, PATH, shard_len=4)
    before = len(s3.requests)
    commits = FeatureStore.open(objects.url).commits(FeatureStore.open(objects.url).group("clip"))
    assert commits.table.num_rows == 4 * SHARDS
    assert len(s3.requests) - before < SHARDS


def test_small_changes_do_not_write_a_pack_again(tmp_path: Path) -> None:
    objects = packed(tmp_path / "s")
    index = objects.get(pack_key(PATH))
    pack_commits(objects, PATH, shard_len=4)
    assert objects.get(pack_key(PATH)) == index


def test_a_new_pack_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    objects = packed(tmp_path / "s")
    index, keys = objects.get(pack_key(PATH)), set(objects.list(f"{PACKS}/{PATH}"))
    with hold(objects, Part()) as lease:
        for shard in (0, 1):
            commit(lease.guard(objects), shard, QUARANTINED)
    pack_commits(objects, PATH, shard_len=4)
    assert objects.get(pack_key(PATH)) not in (None, index)
    assert len(keys) == len(set(objects.list(f"{PACKS}/{PATH}"))) == 2
    assert stray_packs(objects, [PATH]) == {}
    assert same(read_commits(objects, PATH, shard_len=4), plain(objects))


def test_a_damaged_pack_is_found_and_harms_nobody(tmp_path: Path) -> None:
    objects = packed(tmp_path / "s")
    good = read_commits(objects, PATH, shard_len=4)
    digest = verify_store(objects).digest
    for key in list(objects.list(f"{PACKS}/{PATH}")):
        data = objects.get(key) or b""
        for position in (0, len(data) // 2, len(data) - 1):
            objects.put(key, data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            assert same(read_commits(objects, PATH, shard_len=4), good)
            report = verify_store(objects)
            assert (report.digest, {problem.shard for problem in report.problems}) == (None, {None})
        assert restore(objects, report) == []
        assert verify_store(objects).digest == digest
        pack_commits(objects, PATH, shard_len=4)


def test_what_a_killed_packer_left_is_cleared_away(tmp_path: Path) -> None:
    objects = packed(tmp_path / "s")
    objects.put(f"{PACKS}/{PATH}/0123456789abcdef.parquet", b"rows of a pack whose index was never written")
    report = verify_store(objects)
    assert report.digest is not None
    assert report.leftovers == (f"{PACKS}/{PATH}/0123456789abcdef.parquet",)
    restore(objects, report)
    assert stray_packs(objects, [PATH]) == {}
    assert verify_store(objects).leftovers == ()


def test_versions_follow_the_commits(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s")
    before = commit_versions(objects, PATH)
    with hold(objects, Part()) as lease:
        commit(lease.guard(objects), 1)
    after = commit_versions(objects, PATH)
    assert [shard for shard in before if before[shard] != after[shard]] == [1]


def test_masks_and_rows(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s", statuses={2: QUARANTINED})
    commits = read_commits(objects, PATH, shard_len=4)
    assert commits.slots[commits.mask("status", QUARANTINED)].tolist() == [2]
    assert commits.of(commits.slots[[5, 0]], "slot")["slot"].to_pylist() == [5, 0]
    assert isinstance(commits.table, pa.Table)
