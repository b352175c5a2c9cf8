"""Killed at any step that touches the disk and run again, an extraction ends with the digest of an undisturbed run, and
a reader that looks all the time sees only whole shards."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from commands import Vilp
from runs import arguments, digest, first_commit, run, start
from watcher import Watcher

from store.local import LocalObjects
from store.verify import Report, verify_store

WRITES = (
    *("plan-copy", "plan", "plan-table-copy", "plan-table", "group-copy", "group", "metadata"),
    *("array", "checksums", "commit", "lease", "heartbeat"),
)
POINTS = [f"{write}-{step}" for write in WRITES for step in ("written", "flushed", "renamed")]
LATER = ["array-flushed:3", "array-renamed:5", "checksums-renamed:2", "commit-flushed:3", "commit-renamed:2"]
QUICK = {"plan-renamed", "plan-table-flushed", "metadata-written", "array-renamed:5", "commit-flushed:3"}


@pytest.mark.parametrize(
    "point", [point if point in QUICK else pytest.param(point, marks=pytest.mark.slow) for point in POINTS + LATER]
)
def test_killed_at_a_step_and_run_again(
    videos: Path, undisturbed: Report, watcher: Watcher, vilp: Vilp, tmp_path: Path, point: str
) -> None:
    store = tmp_path / "s"
    with watcher.watching(store):
        killed = run(*arguments(videos, store), VILP_FAILPOINT=point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
        again = vilp(*arguments(videos, store))
        assert again.code == 0, again.err
        assert digest(store) == undisturbed.digest
    end_without_leftovers(vilp, store, undisturbed)


def end_without_leftovers(vilp: Vilp, store: Path, undisturbed: Report) -> None:
    """After ``verify --repair`` the store holds what an undisturbed one holds, and no temporary file."""
    repaired = vilp("verify", "--store", store, "--repair", "--json")
    found = json.loads(repaired.out)
    assert (repaired.code, found["digest"], found["leftovers"]) == (0, undisturbed.digest, [])
    assert not list(store.rglob(".tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_cleanly(videos: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    store = tmp_path / "s"
    # A decoder that hangs on the fourth video holds the run in its middle.
    process = start(*arguments(videos, store, "--decoder", "poison:stuck"))
    first_commit(process, store)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "To go on: vilp-pipe extract --dataset folder" in err
    report = verify_store(LocalObjects(store))
    assert report.committed >= 2
    assert report.corrupt == 0
