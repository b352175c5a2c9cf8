"""Killed at any step that touches the disk and run again, an extraction ends with the digest of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from videos import numbered_frames, write_video

from store import FeatureStore, MissingError, StoreError
from store.objects import LocalObjects
from store.verify import Report, verify_store

TESTS = Path(__file__).resolve().parent.parent
WRITES = (
    *("plan-copy", "plan", "plan-table-copy", "plan-table", "group-copy", "group", "metadata"),
    *("array", "checksums", "commit", "lease", "heartbeat"),
)
POINTS = [f"{write}-{step}" for write in WRITES for step in ("written", "flushed", "renamed")]
LATER = ["array-flushed:3", "array-renamed:5", "checksums-renamed:2", "commit-flushed:3", "commit-renamed:2"]
QUICK = {"plan-renamed", "plan-table-flushed", "metadata-written", "array-renamed:5", "commit-flushed:3"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("run", "jump"):
        (root / name).mkdir()
        for number in range(3):
            write_video(root / name / f"{number}.mp4", numbered_frames(5 + number, 32, 32))
    return root


def command(videos: Path, store: Path, *options: str) -> list[str]:
    """An extraction with a pose estimator that needs neither weights nor torch: a second and a half a run."""
    program = [sys.executable, "-c", "from cli.main import run; run()"]
    settings = ["extract", "--dataset", "folder", "--root", str(videos), "--store", str(store), "--shard-len", "2"]
    pose = ["--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--frames", "2", "--pose-frames", "4"]
    return [*program, *settings, *pose, "--engine", "inline", *options]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", **extra}


def run(videos: Path, store: Path, *options: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(videos, store, *options), env=environment(**extra), check=False, capture_output=True, text=True
    )


def start(videos: Path, store: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(videos, store, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    store = tmp_path_factory.mktemp("undisturbed") / "s"
    done = run(videos, store)
    assert done.returncode == 0, done.stderr
    report = verify_store(LocalObjects(store))
    assert report.digest
    assert report.committed == 6
    return report


@pytest.mark.parametrize(
    "point", [point if point in QUICK else pytest.param(point, marks=pytest.mark.slow) for point in POINTS + LATER]
)
def test_killed_at_a_step_and_run_again(videos: Path, undisturbed: Report, tmp_path: Path, point: str) -> None:
    store = tmp_path / "s"
    killed = run(videos, store, VILP_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
    see_only_whole_shards(store)
    again = run(videos, store)
    assert again.returncode == 0, again.stderr
    report = verify_store(LocalObjects(store))
    assert report.digest == undisturbed.digest
    repaired = subprocess.run(
        [sys.executable, "-c", "from cli.main import run; run()", "verify", "--store", store, "--repair", "--json"],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    found = json.loads(repaired.stdout)
    assert (repaired.returncode, found["digest"], found["leftovers"]) == (0, undisturbed.digest, [])


def see_only_whole_shards(store: Path) -> None:
    """Whatever moment the kill picked, a reader sees a number of whole shards with finite values, or no store yet."""
    if not list(store.glob("_tables/store*.json")):
        with pytest.raises(StoreError, match="no feature store") as error:
            FeatureStore.open(store)
        assert error.value.kind == "store-missing"
        return
    found = FeatureStore.open(store)
    if not any(group.modality.kind == "pose" for group in found.groups.values()):
        with pytest.raises(MissingError, match="extract --modality"):
            found.load()
        return
    features = found.load()
    assert len(features) % 2 == 0
    assert all(np.isfinite(tensor.numpy()).all() for tensor in features.tensors.values())


def first_commit(process: subprocess.Popen[str], store: Path) -> None:
    """Wait until a shard is committed; fails when the process ends before."""
    while not list(store.glob("_tables/commits/pose/*/*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_cleanly(
    videos: Path, undisturbed: Report, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    store = tmp_path / "s"
    # A decoder that hangs on the fourth video holds the run in its middle.
    process = start(videos, store, "--decoder", "poison:stuck")
    first_commit(process, store)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "To go on: vilp-pipe extract --dataset folder" in err
    report = verify_store(LocalObjects(store))
    assert report.committed >= 2
    assert report.corrupt == 0


@pytest.mark.slow
def test_a_killed_ray_driver_is_resumed_at_once(videos: Path, undisturbed: Report, tmp_path: Path) -> None:
    """Ray's workers outlive their driver by seconds, and still write; the lease keeps the new run safe from them."""
    store = tmp_path / "s"
    process = start(videos, store, "--engine", "ray")
    first_commit(process, store)
    process.kill()
    process.communicate()
    again = run(videos, store, "--engine", "ray")
    assert again.returncode == 0, again.stderr
    assert verify_store(LocalObjects(store)).digest == undisturbed.digest
