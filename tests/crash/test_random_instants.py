"""Killed at 40 random instants on Ray and resumed, an extraction ends with the digest of an undisturbed run.

Ray's workers outlive their driver by seconds, and still write. Half of the resumes begin at once, beside them, and are
safe by the lease; the others begin when all that the driver started is gone. Most runs share a cluster, which saves
half of the time; some start one of their own.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import Vilp
from runs import TESTS, arguments, digest, first_commit, make_videos, plain_config, run, start
from watcher import Watcher

from pipeline.extraction import extract

pytestmark = pytest.mark.slow

SEED = 2308
INSTANTS = 40
GONE_SECONDS = 90.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}


class Cluster:
    """A Ray cluster on this machine, with a temporary folder of its own."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
                *("--num-cpus=2", "--include-dashboard=false", "--object-store-memory=200000000"),
                *(f"--port={self.address.partition(':')[2]}", f"--temp-dir={folder}"),
            ],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def actors(self) -> list[psutil.Process]:
        """Processes of our actors, and all that they started."""
        return _with_children(
            process
            for process in psutil.Process(self._process.pid).children(recursive=True)
            if _name(process).startswith(("ray::Decoder", "ray::Encoder", "ray::Writer"))
        )

    def close(self) -> None:
        everybody = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        for process in everybody:
            process.kill()
        self._process.wait()
        psutil.wait_procs(everybody, timeout=GONE_SECONDS)


def _name(process: psutil.Process) -> str:
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


def _with_children(processes: Iterator[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # a short path
        made = Cluster(folder)
        yield made
        made.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("many"), each=12)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("whole") / "s"
    extract(plain_config(many, store))
    return store


@pytest.fixture(scope="module")
def reader(whole: Path) -> Iterator[Watcher]:
    made = Watcher(whole, ENVIRONMENT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pace(many: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """Seconds from the start of a run to its first commit, and from there to its end."""
    for attempt in ("warm", "s"):  # the first run waits for the cluster
        store = tmp_path_factory.mktemp("pace") / attempt
        began = time.monotonic()
        process = start(*arguments(many, store, "--engine", "ray", "--ray-address", cluster.address))
        first_commit(process, store)
        committed = time.monotonic()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return committed - began, time.monotonic() - committed


@pytest.mark.parametrize("number", range(INSTANTS))
def test_killed_at_an_instant_and_resumed(
    many: Path,
    whole: Path,
    reader: Watcher,
    cluster: Cluster,
    pace: tuple[float, float],
    vilp: Vilp,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: int,
) -> None:
    draw = random.Random(f"{SEED}-{number}")
    own, at_once, early = number % 5 == 0, number % 4 < 2, number % 8 < 4
    delay = draw.uniform(0, pace[0] if early else pace[1])
    store = tmp_path / "s"
    ray = ["--engine", "ray"] if own else ["--engine", "ray", "--ray-address", cluster.address]
    with reader.watching(store):
        process = start(*arguments(many, store, *ray))
        if not early:
            first_commit(process, store)
        time.sleep(delay)
        left = _with_children(iter([psutil.Process(process.pid)])) if own else cluster.actors()
        ended = process.poll() is not None
        process.kill()
        process.communicate()
        commits = len(list(store.glob("_tables/commits/pose/*/*.parquet")))
        if not at_once:
            _, alive = psutil.wait_procs(left, timeout=GONE_SECONDS)
            assert not alive, alive
        again = run(*arguments(many, store, *(ray if number % 3 else ())))
        assert again.returncode == 0, again.stderr
        psutil.wait_procs(left, timeout=GONE_SECONDS)
        assert digest(store) == digest(whole)
    fate = "ended before" if ended else f"killed at {commits} of 12 commits"
    with capfd.disabled():
        print(
            f"\nseed {SEED}, instant {number}: {delay:.2f} s after {'the start' if early else 'the first commit'}, "
            f"{'own' if own else 'shared'} cluster, {fate}, "
            f"{len(left)} processes left, resumed {'at once' if at_once else 'when they were gone'}"
        )
    repaired = vilp("verify", "--store", store, "--repair")
    assert repaired.code == 0, repaired.err
    assert not list(store.rglob(".tmp-*"))
