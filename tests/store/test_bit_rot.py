"""One flipped byte anywhere in a store is found, named, and mended or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import stores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import FeatureStore, StoreError
from store.objects import LocalObjects
from store.verify import restore, verify_store


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine") / "s"
    stores.build(root)
    return root


def flip(path: Path, position: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_found_and_mended(pristine: Path, tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "s"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(pristine, root)
    objects = LocalObjects(root)
    good = verify_store(objects)
    assert good.digest is not None
    key = data.draw(st.sampled_from(sorted(objects.list())))
    flip(root / key, data.draw(st.floats(0, 1)), data.draw(st.integers(0, 7)))

    report = verify_store(objects)
    assert report.digest is None
    assert report.problems
    for problem in report.problems:
        if problem.shard is not None and "text" not in problem.group:
            assert set(problem.slots) == set(range(problem.shard * 4, min(10, problem.shard * 4 + 4)))

    damaged = restore(objects, report)
    for problem in damaged:  # what an extraction would compute again
        assert problem.shard is not None
    stores.build(root, shards=tuple(sorted({p.shard for p in damaged if p.shard is not None and p.slots})))
    assert verify_store(objects).digest == good.digest


def test_a_reader_refuses_a_damaged_array(pristine: Path, tmp_path: Path) -> None:
    for key in sorted(LocalObjects(pristine).list(f"{stores.CLIP.path}/cls")):
        if key.endswith("zarr.json"):
            continue
        for position in (0.0, 0.3, 0.9999, 1.0):
            root = tmp_path / "s"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(pristine, root)
            flip(root / key, position, 3)
            with pytest.raises(StoreError) as error:
                FeatureStore.open(root).load(arrays=("cls",))
            assert error.value.kind == "store-corrupt"


def test_a_reader_refuses_a_missing_array_and_a_damaged_commit(pristine: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(pristine, root)
    (root / stores.CLIP.path / "cls" / "c.1.0.0.0").unlink()
    with pytest.raises(StoreError, match="is missing"):
        FeatureStore.open(root).load(arrays=("cls",))
    flip(root / "_tables/commits" / stores.POSE.path / "1.parquet", 0.5, 0)
    with pytest.raises(StoreError, match="verify"):
        FeatureStore.open(root).load(arrays=("keypoints",))
