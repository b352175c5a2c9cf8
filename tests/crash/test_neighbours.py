"""Several runs on one store: a second one is told who is there, parts share the work, and a run that is gone is
succeeded, whatever its writers still do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import late_writer
import psutil
import pytest
import stores
from commands import Vilp
from gate import OPTIONS, gate_of
from runs import TESTS, arguments, digest, first_commit, make_videos, plain_config, start

from pipeline.extraction import extract
from store import FeatureStore, StoreError
from store.commits import PARTIAL, QUARANTINED, committed_shards, read_commit
from store.layout import HEARTBEATS, LEASE
from store.lease import DEAD_AFTER_SECONDS, Part, hold, living
from store.local import LocalObjects
from store.sealed import seal, unseal
from store.verify import verify_store


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Videos whose decoder waits at a gate that is closed."""
    videos = make_videos(tmp_path / "videos")
    gate_of(videos).touch()
    yield videos
    gate_of(videos).unlink(missing_ok=True)


def undisturbed_digest(videos: Path, store: Path) -> str | None:
    extract(plain_config(videos, store, decoder="gate:decode"))
    return digest(store)


def test_a_second_run_is_told_who_is_there(gate: Path, vilp: Vilp, tmp_path: Path) -> None:
    store = tmp_path / "s"
    command = arguments(gate, store, *OPTIONS)
    first = start(*command)
    first_commit(first, store)
    second = vilp(*command)
    assert second.code == 1
    assert f"in use by process {first.pid} on " in second.line
    assert " since 20" in second.line
    running = json.loads(vilp("status", "--store", store, "--json").out)["running"]
    assert [(run["pid"], run["part"]) for run in running] == [(first.pid, "0-of-1")]
    assert vilp("verify", "--store", store).code == 0
    repair = vilp("verify", "--store", store, "--repair")
    assert repair.code == 0, repair.err  # nothing is damaged, so nothing is to be mended

    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate()
    assert first.returncode == 143, errors
    gate_of(gate).unlink()
    resumed = vilp(*command)
    assert resumed.code == 0, resumed.err
    assert digest(store) == undisturbed_digest(gate, tmp_path / "undisturbed")


def test_a_dead_holder_is_succeeded_with_a_new_epoch(gate: Path, vilp: Vilp, tmp_path: Path) -> None:
    store = tmp_path / "s"
    command = arguments(gate, store, *OPTIONS)
    first = start(*command)
    first_commit(first, store)
    first.kill()
    first.communicate()
    assert json.loads(vilp("status", "--store", store, "--json").out)["running"] == []
    epoch = unseal(LocalObjects(store).get(LEASE) or b"")["epoch"]
    gate_of(gate).unlink()
    assert vilp(*command).code == 0
    assert unseal(LocalObjects(store).get(LEASE) or b"")["epoch"] > epoch
    objects, group = LocalObjects(store), FeatureStore.open(store).group("pose").path
    commits = [read_commit(objects, group, shard) for shard in committed_shards(objects, group)]
    epochs = {commit.table.schema.metadata[b"epoch"] for commit in commits if commit is not None}
    assert len(epochs) == 2
    assert digest(store) == undisturbed_digest(gate, tmp_path / "undisturbed")


def test_a_holder_on_another_machine_is_dead_when_it_has_been_silent(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    with hold(objects, Part()):
        state = unseal(objects.get(LEASE) or b"")
        state["holders"]["0-of-1"] |= {"host": "another", "pid": 1, "token": "theirs"}
        elsewhere = seal(state)
    objects.put(LEASE, elsewhere)
    objects.put(f"{HEARTBEATS}/0-of-1.json", seal({"token": "theirs"}))
    with pytest.raises(StoreError, match="in use by process 1 on another since"), hold(objects, Part()):
        pass
    long_ago = time.time() - DEAD_AFTER_SECONDS - 1
    os.utime(objects.path(f"{HEARTBEATS}/0-of-1.json"), (long_ago, long_ago))
    assert living(objects) == []
    with hold(objects, Part()) as lease:
        assert lease.epoch == state["epoch"] + 1


def test_status_of_a_store_that_another_machine_writes(vilp: Vilp, tmp_path: Path) -> None:
    """It says what is done, missing, partial, quarantined and left, and who works on it, and writes nothing."""
    objects = stores.build(tmp_path / "s", shards=(0, 1), statuses={1: PARTIAL, 2: QUARANTINED})
    holder = {"host": "another", "boot": "x", "pid": 7, "started": "1", "token": "theirs", "since": "2026-01-01"}
    objects.put(LEASE, seal({"epoch": 9, "holders": {"0-of-2": holder}}))
    objects.put(f"{HEARTBEATS}/0-of-2.json", seal({"token": "theirs"}))
    before = {key: objects.get(key) for key in objects.list()}
    found = json.loads(vilp("status", "--store", objects.url, "--json").out)
    assert (found["planned"], found["done"], found["missing"], found["unlisted"]) == (10, 8, 1, 0)
    for group in found["groups"]:
        assert [group[name] for name in ("committed", "partial", "quarantined", "left")] == [8, 1, 1, 2]
    (run,) = found["running"]
    assert (run["host"], run["pid"], run["part"]) == ("another", 7, "0-of-2")
    assert run["silent_seconds"] < DEAD_AFTER_SECONDS
    assert "running: part 0-of-2, process 7 on another since" in vilp("status", "--store", objects.url).out
    assert {key: objects.get(key) for key in objects.list()} == before


def everything(root: Path) -> dict[str, bytes]:
    """Contents of all objects but leases and heartbeats, temporary files among them."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {key: data for key, data in found.items() if "lease" not in key and "heartbeat" not in key}


@pytest.mark.parametrize("point", ["array-written", "array-flushed", "checksums-flushed", "commit-flushed"])
def test_a_writer_that_was_stopped_changes_nothing_when_it_goes_on(tmp_path: Path, point: str) -> None:
    """Stopped before it holds the lock; its driver is killed; another run takes over and commits; then it goes on."""
    root = tmp_path / "s"
    writer = StoppedWriter(root, point)
    with hold(LocalObjects(root), Part()) as lease:
        late_writer.write(lease, root, 1.0)
        before = {key: data for key, data in everything(root).items() if ".tmp-" not in key}
        assert writer.go_on() == "stale-lease"
        assert everything(root) == before
    report = verify_store(LocalObjects(root))
    assert (report.problems, report.committed, report.leftovers) == ((), 4, ())


@pytest.mark.parametrize("point", ["array-renamed", "commit-renamed"])
def test_a_writer_that_was_stopped_while_it_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Nobody can take over between its look at the lease and the end of its write: who tries is told why, and may take
    over when the writer has gone on or is gone."""
    root = tmp_path / "s"
    writer = StoppedWriter(root, point)
    monkeypatch.setattr("store.local.LOCK_SECONDS", 0.2)
    with (
        pytest.raises(StoreError, match="stood still in the middle of a write") as error,
        hold(LocalObjects(root), Part()),
    ):
        pass
    assert error.value.kind == "store-locked"
    monkeypatch.undo()
    assert writer.go_on() == "committed"  # nobody has taken over, so it may finish
    with hold(LocalObjects(root), Part()) as lease:
        late_writer.write(lease, root, 1.0)
    report = verify_store(LocalObjects(root))
    assert (report.problems, report.committed, report.leftovers) == ((), 4, ())


class StoppedWriter:
    """A writer that stands still at a failpoint, and whose driver is dead."""

    def __init__(self, root: Path, point: str) -> None:
        self._result = root.with_name("result")
        driver = subprocess.Popen(
            [sys.executable, "-m", "late_writer", str(root), point, str(self._result)],
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        self._process = psutil.Process(int(driver.stdout.readline()))
        while self._process.status() != psutil.STATUS_STOPPED:
            assert driver.poll() is None
            time.sleep(0.01)
        driver.kill()
        driver.wait()

    def go_on(self) -> str:
        """Let it go on to its end, and say how that was: ``committed``, or the kind of the error."""
        self._process.send_signal(signal.SIGCONT)
        psutil.wait_procs([self._process], timeout=60)
        return self._result.read_text()


def test_parts_run_side_by_side(gate: Path, vilp: Vilp, tmp_path: Path) -> None:
    """Both parts make the plan at once, and hold their leases at once; nobody else gets in between."""
    store = tmp_path / "s"
    together(gate, vilp, store)
    expected = undisturbed_digest(gate, tmp_path / "undisturbed")
    assert digest(store) == expected


def test_parts_extend_a_plan_side_by_side(gate: Path, vilp: Vilp, tmp_path: Path) -> None:
    store, alone = tmp_path / "s", tmp_path / "alone"
    gate_of(gate).unlink()
    extract(plain_config(gate, store, decoder="gate:decode"))
    shutil.copytree(store, alone)
    for number in range(4):  # two shards, so that either part is held at the gate
        shutil.copy(gate / "run" / f"{number % 2}.mp4", gate / "run" / f"later {number}.mp4")
    gate_of(gate).touch()
    together(gate, vilp, store, "--update")
    extract(plain_config(gate, alone, decoder="gate:decode", update=True))
    assert verify_store(LocalObjects(store)).committed == 10
    assert digest(store) == digest(alone)


def together(videos: Path, vilp: Vilp, store: Path, *options: str) -> None:
    """Run two parts that both hold the store at one moment."""
    command = arguments(videos, store, *OPTIONS, *options)
    parts = [start(*command, "--part", f"{index}/2") for index in range(2)]
    try:
        while len([run for run in living(LocalObjects(store)) if "-of-2" in run["part"]]) < 2:
            assert all(part.poll() is None for part in parts), [part.communicate() for part in parts if part.returncode]
            time.sleep(0.01)
        for other in ((), ("--part", "0/2"), ("--part", "1/3")):
            refused = vilp(*command, *other)
            assert (refused.code, "in use by process" in refused.line) == (1, True)
    finally:
        gate_of(videos).unlink()
        ended = [part.communicate() for part in parts]
    assert [part.returncode for part in parts] == [0, 0], ended
