"""Stores that earlier versions wrote are read, checked and extended; ``tests/fixture_store.py`` made them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import fixture_store
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from store import FeatureStore
from store.lease import WHOLE, hold
from store.local import LocalObjects
from store.plan import read_plan, write_plan
from store.verify import verify_store
from store.writer import write_metadata

# By folder under ``fixtures``: what the version that wrote it computed. Never adjusted to what this version computes.
DIGESTS = {"store-v1": "ed8d0f74aaecc1849af59dc03269cc0a66238c75f8b70a1d3ca2f19b81703843"}
CLS_OF_SLOT_8 = [0.85693359375, -0.763671875, -0.9384765625, -0.457763671875, 0.45361328125, 1.943359375]


@pytest.fixture(params=sorted(DIGESTS))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> LocalObjects:
    """As it was written then."""
    shutil.copytree(fixture_store.HERE / "fixtures" / request.param, tmp_path / request.param)
    return LocalObjects(tmp_path / request.param)


def test_commits_of_the_first_stores_do_not_cover_their_hashes_and_are_read(old: LocalObjects, tmp_path: Path) -> None:
    """Commits of today hold a hash of the lines that vouch for the arrays; readers take both."""
    new = fixture_store.build(LocalObjects(tmp_path / "new"))

    def covered(objects: LocalObjects) -> bool:
        commits = {key for key in objects.list("_tables/commits") if key.endswith(".parquet")}
        return {b"arrays" in pq.read_metadata(objects.path(key)).metadata for key in commits} == {True}

    assert (covered(old), covered(new)) == (False, True)
    assert verify_store(old).digest == verify_store(new).digest


def test_every_fixture_has_its_digest() -> None:
    assert {path.name for path in (fixture_store.HERE / "fixtures").glob("store-*")} == set(DIGESTS)
    assert fixture_store.FIXTURE.name in DIGESTS


def test_an_old_store_verifies(old: LocalObjects) -> None:
    report = verify_store(old)
    assert report.problems == ()
    assert report.digest == DIGESTS[Path(old.url).name]
    counts = (report.planned, report.committed, report.partial, report.quarantined, report.corrupt)
    assert counts == (8, 6, 1, 1, 0)


def test_an_old_store_gives_its_values(old: LocalObjects) -> None:
    store = FeatureStore.open(old.url)
    features = store.load(arrays=("cls", "value"))
    assert features.slots.tolist() == [0, 1, 3, 4, 5, 8, 9]
    assert features["cls"][5, 0, 0].tolist() == CLS_OF_SLOT_8
    expected = fixture_store.values(fixture_store.CLIP, features.slots.tolist())
    np.testing.assert_array_equal(features["value"].numpy(), expected["value"])
    assert store.load(arrays=("keypoints", "boxes")).slots.tolist() == [0, 1, 3, 4, 5]
    assert store.videos["path"].to_pylist()[-2:] == ["class 0/new\n'quoted'.mp4", "class 1/v9.avi"]
    assert store.status(store.group("clip"))["error_kind"][2].as_py() == "decoder-crash"
    assert store.text().class_names == ("a", "b")
    raw = zarr.open_array(str(Path(old.url) / store.group("clip").path / "cls"), mode="r")[:]
    assert np.isnan(raw[[2, 6, 7]]).all()


def test_an_old_store_is_extended(old: LocalObjects) -> None:
    plan = read_plan(old)
    added = {**plan.videos.slice(7, 1).to_pylist()[0], "slot": 12, "video_id": "v12", "path": "class 0/v12.avi"}
    videos = pa.concat_tables([plan.videos, pa.Table.from_pylist([added], schema=plan.videos.schema)])
    grown = dataclasses.replace(plan, videos=videos)
    with hold(old, WHOLE) as lease:
        ours = lease.guard(old)
        write_plan(ours, grown)
        write_metadata(ours, grown)
        for modality, shards in ((fixture_store.FRAMES, [3]), (fixture_store.CLIP, [3]), (fixture_store.POSE, [2, 3])):
            fixture_store.fill(ours, grown, modality, shards)
    report = verify_store(old)
    assert report.problems == ()
    assert (report.planned, report.committed) == (9, 9)
    store = FeatureStore.open(old.url)
    assert store.load().slots.tolist() == [0, 1, 3, 4, 5, 8, 9, 12]
    assert store.load(slots=[8], arrays=("cls",))["cls"][0, 0, 0].tolist() == CLS_OF_SLOT_8


def test_the_script_that_made_it_still_makes_the_same_values(tmp_path: Path) -> None:
    assert verify_store(fixture_store.build(LocalObjects(tmp_path / "s"))).digest == DIGESTS[fixture_store.FIXTURE.name]
