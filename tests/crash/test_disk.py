"""A disk that is full, read-only, or something else than expected: one line, no harm, and the run goes on later."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
import zarr
from commands import Outcome, Vilp
from runs import arguments, digest

from store import FeatureStore, StoreError
from store.local import LocalObjects
from store.sealed import put_twice, seal, unseal
from store.verify import Report, verify_store

PAGE = 4096


class Disk:
    """A small file system in memory, mounted at ``path``."""

    def __init__(self, path: Path, pages: int) -> None:
        self.path = path
        path.mkdir()
        made = self._mount("-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(path))
        if made.returncode:
            pytest.skip(f"this user may not mount a file system: {made.stderr.strip()}")

    def remount(self, option: str) -> None:
        assert self._mount("-o", f"remount,{option}", str(self.path)).returncode == 0

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=False)

    def _mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *options], check=False, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", pages=1)
    yield made
    made.close()


def last_line(outcome: Outcome) -> str:
    """The line that ends a failed command; there is no traceback, and nothing on standard output."""
    assert (outcome.code, outcome.out) == (1, ""), outcome
    assert "Traceback" not in outcome.err
    return outcome.err.strip().splitlines()[-1]


@pytest.mark.parametrize("pages", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_grows_by_pages(
    videos: Path, undisturbed: Report, disk: Disk, vilp: Vilp, tmp_path: Path, pages: int
) -> None:
    """A full disk at one write after the other: each time one line, nothing that was committed is lost, and the last
    run ends with the digest of an undisturbed one. Page by page this is every write that a run makes."""
    store, size, refused, committed = disk.path / "s", pages, [], 0
    while (outcome := vilp(*arguments(videos, store))).code != 0:
        line = last_line(outcome)
        assert line.startswith("error: cannot write "), outcome
        assert "No space left on device" in line
        refused.append(Path(line.split(":")[1].removeprefix(" cannot write ")).name)
        if list(store.glob("_tables/store*.json")):
            report = verify_store(LocalObjects(store))
            assert not [problem for problem in report.problems if problem.shard is not None]
            assert report.committed >= committed
            assert not list(LocalObjects(store).temporaries())
            committed = report.committed
        size += pages
        assert size < 1000
        disk.remount(f"size={size * PAGE}")
    assert digest(store) == undisturbed.digest
    if pages == 1:
        # Arrays of a shard, and shards, are written side by side, so which of them ends a run is chance.
        kinds = {re.sub(r"^c\..*|^\d+(?=\.)", "N", name) for name in refused}
        for name in ("store.json", "videos.parquet", "group.json", "N", "N.sha256", "N.parquet", "zarr.json"):
            assert name in kinds, refused


def test_a_store_that_may_only_be_read(
    videos: Path, undisturbed: Report, disk: Disk, vilp: Vilp, tmp_path: Path
) -> None:
    disk.remount(f"size={1000 * PAGE}")
    store = disk.path / "s"
    assert vilp(*arguments(videos, store, "--limit", "2")).code == 0
    disk.remount("ro")
    assert json.loads(vilp("status", "--store", store, "--json").out)["groups"][0]["committed"] == 2
    assert vilp("verify", "--store", store).code == 0
    assert vilp("verify", "--store", store, "--repair").code == 0
    assert len(FeatureStore.open(store).load()) == 2
    line = last_line(vilp(*arguments(videos, store)))
    assert "cannot write" in line
    assert "Read-only file system" in line
    with pytest.raises(StoreError) as error:
        stores.build(disk.path / "new" / "s")
    assert error.value.kind == "store-unwritable"
    disk.remount("rw")
    assert vilp(*arguments(videos, store)).code == 0
    assert digest(store) == undisturbed.digest


def commands(videos: Path, store: Path) -> Iterator[tuple[object, ...]]:
    """Every command that takes a store."""
    yield tuple(arguments(videos, store))
    yield ("status", "--store", store)
    yield ("verify", "--store", store)
    yield ("verify", "--store", store, "--repair")
    yield ("train-head", "--store", store, "--head", "mean")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_place_that_is_no_store(videos: Path, vilp: Vilp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    zarr.create_array(str(tmp_path / "zarr"), shape=(4,), dtype="f4")[:] = 1
    newer, other = (stores.build(tmp_path / name, shards=(0,)) for name in ("newer", "other"))
    facts = unseal(newer.get("_tables/store.json") or b"")
    put_twice(newer, "_tables/store.json", seal({**facts, "version": 2}), point="test")
    put_twice(other, "_tables/store.json", seal({**facts, "format": "another"}), point="test")
    expected = {
        "file": f"{tmp_path / 'file'} is a file",
        "file/below": f"{tmp_path / 'file'} is a file",
        "zarr": "holds no feature store; name another place with --store",
        "newer": "store version 2; this vilp-pipe reads version 1: install the vilp-pipe that wrote it",
        "other": "format 'another'; allowed: vilp-store",
    }
    before = contents(tmp_path)
    for name, words in expected.items():
        for command in commands(videos, tmp_path / name):
            outcome = vilp(*command)
            assert words in outcome.line, command
            assert outcome.code == 1
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    store = tmp_path / "s"
    objects = stores.build(store, shards=(0,))
    groups = store / "_tables" / "groups"
    groups.rename(tmp_path / "groups")
    groups.symlink_to(groups)  # too many levels of symbolic links: an error that root meets too
    for read in (lambda: list(objects.list("_tables/groups")), lambda: FeatureStore.open(store)):
        with pytest.raises(StoreError, match="cannot read") as error:
            read()
        assert error.value.kind == "store-unreadable"
