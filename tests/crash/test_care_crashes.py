"""Killed after any object that it writes or removes and run again, care for a store ends as if it had not been."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import fixture_store
import pytest
from fixture_store import CLIP, FRAMES, POSE
from s3server import S3Server

from store import MissingError
from store.care import collect, delete_group, survey
from store.groups import read_groups
from store.local import LocalObjects
from store.objects import Objects, open_objects
from store.transfer import copy_store, merge_stores
from store.verify import restore, verify_store

# Fresh processes that have all modules already: a kill costs some hundredths of a second.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["store.care", "store.transfer", "store.s3", "store.verify"])
POINTS = [
    *(f"{write}-{step}" for write in ("group-copy", "group", "metadata", "array", "checksums", "commit", "lease")
      for step in ("written", "flushed", "renamed")),
    *(f"{write}-renamed" for write in ("plan-copy", "plan", "plan-table-copy", "plan-table", "heartbeat")),
]  # fmt: skip
QUICK = ["plan-table-renamed", "group-renamed", "array-renamed:6", "checksums-renamed:9", "commit-flushed:8"]


def delete(url: str, other: str) -> None:
    delete_group(open_objects(url), CLIP.path)


def gc(url: str, other: str) -> None:
    collect(open_objects(url))


def copy(url: str, other: str) -> None:
    copy_store(open_objects(url), open_objects(other))


def merge(url: str, other: str) -> None:
    merge_stores([open_objects(url)], open_objects(other))


def _killed(
    environment: dict[str, str], point: str, count: int, call: Callable[[str, str], None], url: str, other: str
) -> None:
    from store import failpoints, parallel

    os.environ.update(environment)  # where a bucket is: the server that forks was started before it
    failpoints._NAME, failpoints._left = point, count
    parallel.AT_ONCE = 1  # so that the same object is the nth each time
    call(url, other)


def kill(point: str, count: int, call: Callable[[str, str], None], url: str, other: str) -> bool:
    """Run a call in a process that dies when a failpoint is reached for the nth time; False where it never is."""
    process = PROCESSES.Process(target=_killed, args=(dict(os.environ), point, count, call, url, other))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine") / "s"
    fixture_store.build(LocalObjects(root))
    return root


def see_only_whole_shards(objects: Objects) -> None:
    """Whatever moment the kill picked, no group has a commit whose arrays or hashes are wrong."""
    report = verify_store(objects)
    assert [problem for problem in report.problems if problem.shard is not None] == []


def settled(objects: Objects) -> None:
    """No problem, nothing left over."""
    found = survey(objects)
    restore(objects, verify_store(objects))  # removes temporary files
    assert verify_store(objects).problems == ()
    assert [orphan for orphan in found.orphans if orphan.group] == []


@pytest.mark.slow
@pytest.mark.parametrize("point", ["deleted", "metadata-renamed", "lease-renamed"])
def test_a_deletion_is_ended_by_the_same_command(pristine: Path, tmp_path: Path, point: str) -> None:
    """At every object that goes, and a kill after each."""
    count = next(n for n in itertools.count(1) if not killed_and_deleted_again(pristine, tmp_path / str(n), point, n))
    assert count > {"deleted": 25, "metadata-renamed": 1, "lease-renamed": 2}[point]


@pytest.mark.parametrize("count", [1, 9, 12, 25])  # in commits, in definitions, in arrays
def test_a_deletion_is_ended_by_the_same_command_here_and_there(pristine: Path, tmp_path: Path, count: int) -> None:
    assert killed_and_deleted_again(pristine, tmp_path / "s", "deleted", count)


def killed_and_deleted_again(pristine: Path, root: Path, point: str, count: int) -> bool:
    """Kill a deletion, run it again and compare; False where the failpoint was not reached so often."""
    shutil.copytree(pristine, root)
    objects = LocalObjects(root)
    if not kill(point, count, delete, str(root), ""):
        return False
    see_only_whole_shards(objects)
    try:
        delete_group(objects, CLIP.path)
    except MissingError:  # all was done
        assert point != "deleted" or count > 20
    assert [key for key in objects.list() if "clip/" in key] == []
    settled(objects)
    report = verify_store(objects)
    assert (report.committed, sorted(read_groups(objects))) == (6, [FRAMES.path, POSE.path])
    return True


@pytest.mark.slow
def test_a_collection_is_ended_by_the_same_command(pristine: Path, tmp_path: Path) -> None:
    for count in itertools.count(1):
        root = tmp_path / f"s{count}"
        shutil.copytree(pristine, root)
        objects = LocalObjects(root)
        for number in range(3):
            objects.put(f"clip/old-0123abcd/cls/c.{number}", b"x")
        objects.put("README.md", b"mine")
        if not kill("deleted", count, gc, str(root), ""):
            break
        collect(objects)
        settled(objects)
        assert objects.get("README.md") == b"mine"
    assert count == 5  # three objects, and the heartbeat of the lease


@pytest.mark.parametrize(
    ("point", "call"),
    [(point, copy) for point in QUICK]
    + [pytest.param(point, call, marks=pytest.mark.slow) for point in POINTS for call in (copy, merge)],
)
def test_a_transfer_is_ended_by_the_same_command(
    pristine: Path, tmp_path: Path, point: str, call: Callable[[str, str], None]
) -> None:
    name, _, count = point.partition(":")
    other = LocalObjects(tmp_path / "other")
    assert kill(name, int(count or 1), call, str(pristine), other.url), f"{point} was not reached"
    if list(other.root.glob("_tables/store*.json")):
        see_only_whole_shards(other)
    call(str(pristine), other.url)
    settled(other)
    assert verify_store(other).digest == verify_store(LocalObjects(pristine)).digest


def test_a_kill_while_a_store_is_merged_into_one_with_shards(pristine: Path, tmp_path: Path) -> None:
    digest = verify_store(LocalObjects(pristine)).digest
    for number, point in enumerate(("group-renamed", "array-flushed", "commit-flushed", "metadata-renamed")):
        root = tmp_path / str(number)
        shutil.copytree(pristine, root)
        other = LocalObjects(root)
        delete_group(other, POSE.path)
        assert kill(point, 1, merge, str(pristine), str(root))
        see_only_whole_shards(other)
        assert POSE.path in read_groups(other)
        merge(str(pristine), str(root))
        settled(other)
        assert verify_store(other).digest == digest


@pytest.mark.parametrize(
    ("point", "call"),
    [
        ("deleted:14", delete),
        ("array-renamed:4", copy),
        pytest.param("deleted:1", delete, marks=pytest.mark.slow),
        pytest.param("deleted:25", delete, marks=pytest.mark.slow),
        pytest.param("metadata-renamed:1", delete, marks=pytest.mark.slow),
        pytest.param("commit-written:3", copy, marks=pytest.mark.slow),
        pytest.param("plan-table-renamed:1", merge, marks=pytest.mark.slow),
    ],
)
def test_a_kill_in_a_bucket(
    s3: S3Server, pristine: Path, tmp_path: Path, point: str, call: Callable[[str, str], None]
) -> None:
    name, _, count = point.partition(":")
    objects, other = (open_objects(s3.url(f"{tmp_path.name}-{part}")) for part in "ab")
    copy_store(LocalObjects(pristine), objects)
    assert kill(name, int(count), call, objects.url, other.url)
    if call is delete:
        see_only_whole_shards(objects)
        delete_group(objects, CLIP.path)
        settled(objects)
        assert [key for key in objects.list() if "clip/" in key] == []
    else:
        call(objects.url, other.url)
        settled(other)
        assert verify_store(other).digest == verify_store(objects).digest
