"""A signal ends a run with Ray cleanly: the exit code says so, no process of the run stays, and it can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faults
import psutil
import pytest
from videos import numbered_frames, write_video

from store.local import LocalObjects
from store.verify import verify_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("jump", "run"):
        (root / name).mkdir()
        for number in range(4):
            write_video(root / name / f"{number}.mp4", numbered_frames(5 + number, 32, 32))
    return root


def start(videos: Path, store: Path, *options: str) -> subprocess.Popen[str]:
    """An extraction in a process group of its own, as a shell starts one."""
    settings = ["extract", "--dataset", "folder", "--root", str(videos), "--store", str(store), "--shard-len", "2"]
    pose = ["--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--frames", "2", "--pose-frames", "4"]
    return subprocess.Popen(
        [sys.executable, "-c", "from cli.main import run; run()", *settings, *pose, "--engine", "ray", *options],
        env={**os.environ, "PYTHONPATH": faults.python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], what: Callable[[], object]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def workers(pid: int) -> list[psutil.Process]:
    """Actors among the descendants of a process, by the titles that Ray gives them."""
    found = []
    for child in descendants(pid):
        try:
            found += [child] if child.cmdline()[0].startswith(("ray::Decoder", "ray::Encoder", "ray::Writer")) else []
        except (psutil.NoSuchProcess, IndexError):
            continue
    return found


def commits(store: Path) -> list[Path]:
    return list(store.glob("_tables/commits/pose/*/*.parquet"))


@pytest.mark.parametrize("moment", ["ray starts", "workers start", "work is done"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_cleanly(
    videos: Path, tmp_path: Path, number: signal.Signals, code: int, moment: str
) -> None:
    store = tmp_path / "s"
    # A decoder that hangs on the videos of ``run`` holds the run in its middle.
    process = start(videos, store, "--decoder", "poison:stuck")
    moments = {
        "ray starts": lambda: len(descendants(process.pid)) > 1,
        "workers start": lambda: workers(process.pid),
        "work is done": lambda: commits(store),
    }
    wait_for(process, moments[moment])
    left = descendants(process.pid)
    assert left
    # A terminal sends the interrupt to all processes of the group.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert "received" not in err  # a handler of Ray's, which aborts what does not end in seconds
    assert "To go on: vilp-pipe extract --dataset folder" in err
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
    resumed = start(videos, store, "--decoder", "poison:stuck", "--limit", "4")
    out, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, err
    report = verify_store(LocalObjects(store))
    assert (report.committed, report.corrupt) == (4, 0)


def test_a_signal_leaves_nothing_on_a_cluster(videos: Path, tmp_path: Path) -> None:
    """The cluster stays, and is used again; what the run had on it does not."""
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "env_vars": {"PYTHONPATH": faults.python_path()}},
    )
    try:
        address = ["--decoder", "poison:stuck", "--ray-address", cluster.address]
        process = start(videos, tmp_path / "s", *address)
        wait_for(process, lambda: commits(tmp_path / "s"))
        left = workers(os.getpid())
        assert left
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        _, alive = psutil.wait_procs(left, timeout=30)
        assert alive == []
        again = start(videos, tmp_path / "s", *address, "--limit", "4")
        _, err = again.communicate(timeout=100)
        assert again.returncode == 0, err
    finally:
        cluster.shutdown()
