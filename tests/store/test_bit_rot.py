"""One flipped byte anywhere in a store is found, named, and mended or refused."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stores
from commands import Vilp
from fixture_store import FIXTURE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import digest, make_videos, plain_config
from watcher import contents

from pipeline.extraction import extract
from store import FeatureStore, StoreError
from store.layout import CONFIGS, LEASE
from store.local import LocalObjects
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


def test_what_rots_or_is_mended_while_a_store_is_open_is_seen(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine, tmp_path / "s")
    dataset = FeatureStore.open(tmp_path / "s").dataset(arrays=("cls",))
    before = dataset[0]["cls"]
    shard = tmp_path / "s" / stores.CLIP.path / "cls" / "c.0.0.0.0"
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(StoreError, match="has a wrong checksum"):
        dataset[0]
    shard.write_bytes(whole)
    np.testing.assert_array_equal(dataset[0]["cls"], before)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an extraction whose videos are there, so that all of it can be computed again."""
    folder = tmp_path_factory.mktemp("real")
    extract(plain_config(make_videos(folder / "videos"), folder / "s"))
    return folder / "s"


def kinds(keys: list[str]) -> list[str]:
    """One key of each kind of object."""
    return list({re.sub(r"[0-9]+", "", key): key for key in keys}.values())


def damages(key: str, data: bytes) -> Iterator[bytes | None]:
    """First, middle, last and a drawn byte flipped; cut in its middle; gone (None)."""
    draw = random.Random(key)
    for position in dict.fromkeys((0, len(data) // 2, len(data) - 1, draw.randrange(len(data)))):
        yield data[:position] + bytes([data[position] ^ 1 << draw.randrange(8)]) + data[position + 1 :]
    yield data[: len(data) // 2]
    yield None


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_damage_to_a_real_store_is_named_refused_and_mended(
    real: Path, tmp_path: Path, vilp: Vilp, thorough: bool
) -> None:
    """Objects of every kind, or all of them: ``verify`` names the object, a reader raises or gives right values, and
    ``verify --repair`` brings the digest back and leaves everything else as it was."""
    root = tmp_path / "s"
    shutil.copytree(real, root)
    objects = LocalObjects(root)
    good, before = digest(root), {key: objects.get(key) or b"" for key in objects.list()}
    expected = contents(FeatureStore.open(root))
    keys = [key for key, data in before.items() if data]
    count = 0
    for key in keys if thorough else kinds(keys):
        for damaged in damages(key, before[key]):
            if damaged is None:
                (root / key).unlink()
                if is_spare(key) or is_commit(key):  # nothing is lost with these; for commits see below
                    shutil.copyfile(real / key, root / key)
                    continue
            else:
                (root / key).write_bytes(damaged)
            report = verify_store(objects)
            assert key in {problem.key for problem in report.problems} or key.endswith(".sha256"), (key, damaged)
            for problem in report.problems:
                assert problem.shard is None or problem.slots == (2 * problem.shard, 2 * problem.shard + 1)
            see_right_values_or_none(root, expected)
            count += 1
            if not thorough and count % 6:
                shutil.copyfile(real / key, root / key)
                continue
            mended = vilp("verify", "--store", root, "--repair", "--code", "plain_pose:PlainEstimator")
            assert mended.code == 0, (key, mended)
            assert digest(root) == good
            recomputed = {p.key for p in report.problems}
            changed = {name for name, data in before.items() if objects.get(name) != data}
            assert all(is_of_a_run(name) or name in recomputed or f"/{shard_of(key)}." in name for name in changed)
            shutil.rmtree(root)
            shutil.copytree(real, root)
    print(f"\n{count} damages")


def is_spare(key: str) -> bool:
    return key == LEASE or key.startswith(CONFIGS)


def is_commit(key: str) -> bool:
    return "/commits/" in key and key.endswith(".parquet")


def is_of_a_run(key: str) -> bool:
    return "lease" in key or "heartbeat" in key


def shard_of(key: str) -> str:
    """Number of the shard that an array's or a commit's object belongs to."""
    return re.sub(r"^c\.", "", Path(key).name).split(".")[0]


def see_right_values_or_none(root: Path, expected: dict[str, dict[str, np.ndarray]]) -> None:
    try:
        found = contents(FeatureStore.open(root))
    except StoreError as error:
        assert error.kind == "store-corrupt"  # noqa: PT017
        return
    for array, rows in found.items():
        for name, row in rows.items():
            np.testing.assert_array_equal(row, expected[array][name])


@pytest.mark.slow
def test_any_byte_of_a_real_store(real: Path, tmp_path: Path) -> None:
    """Every 13th byte of every object, one bit flipped: verified, and read."""
    root = tmp_path / "s"
    shutil.copytree(real, root)
    objects = LocalObjects(root)
    expected = contents(FeatureStore.open(root))
    draw, count = random.Random(13), 0
    for key in list(objects.list()):
        data = objects.get(key) or b""
        for position in range(draw.randrange(13), len(data), 13):
            (root / key).write_bytes(
                data[:position] + bytes([data[position] ^ 1 << draw.randrange(8)]) + data[position + 1 :]
            )
            assert verify_store(objects).problems, (key, position)
            if count % 8 == 0:
                see_right_values_or_none(root, expected)
            count += 1
        (root / key).write_bytes(data)
    print(f"\n{count} bytes flipped")


def test_a_commit_that_is_gone_shows(real: Path, tmp_path: Path) -> None:
    """It cannot be told from a shard whose writer was killed just before it committed: the shard counts as not
    extracted, and its hashes are named."""
    root = tmp_path / "s"
    shutil.copytree(real, root)
    next(root.glob("_tables/commits/pose/*/0.parquet")).unlink()
    report = verify_store(LocalObjects(root))
    (left,) = report.leftovers
    assert left.endswith("/0.sha256")
    assert report.committed < verify_store(LocalObjects(real)).committed


@pytest.mark.parametrize("store", ["today's", "of the first version"])
def test_a_damaged_line_of_hashes_does_not_pass_for_fill(real: Path, tmp_path: Path, store: str) -> None:
    """A commit covers the lines of its arrays. Those of the first stores do not: there an array that no line vouches
    for is one without values only where no video of its shard has any."""
    root, is_new = tmp_path / "s", store == "today's"
    shutil.copytree(real if is_new else FIXTURE, root)
    sums = next(root.glob("_tables/commits/pose/*/0.sha256"))
    sums.write_bytes(sums.read_bytes().replace(b"/keypoints/", b"/keypoinus/"))
    with pytest.raises(StoreError, match=r"commit .* is damaged" if is_new else r"hashes of .* are damaged") as error:
        FeatureStore.open(root).load(arrays=("keypoints",))
    assert error.value.kind == "store-corrupt"
    (problem,) = {problem.shard for problem in verify_store(LocalObjects(root)).problems}
    assert problem == 0


def test_lists_of_hashes_that_were_exchanged_are_noticed(real: Path, tmp_path: Path) -> None:
    """A list whose line of the commit is right, and which vouches for other bytes of an array: as after a writer that
    nobody kept out."""
    root = tmp_path / "s"
    shutil.copytree(real, root)
    sums = next(root.glob("_tables/commits/pose/*/0.sha256"))
    lines = sums.read_text().splitlines()
    forged = next(line for line in lines if "/keypoints/" in line)
    path = root / forged.split("  ")[1]
    flip(path, 0.5, 0)
    sums.write_text(sums.read_text().replace(forged.split()[0], hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(StoreError, match=r"commit .* is damaged"):
        FeatureStore.open(root).load(arrays=("keypoints",))
    assert {problem.shard for problem in verify_store(LocalObjects(root)).problems} == {0}
