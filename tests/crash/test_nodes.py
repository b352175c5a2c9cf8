"""Nodes that die, that join late, and that are not like the driver's: two or three nodes on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from extractions import small_config
from runs import digest

from pipeline.config import ExtractConfig
from pipeline.engines.lanes import WorkerLostError
from pipeline.extraction import extract
from pipeline.summary import Summary
from store import StoreError

ray_cluster = pytest.importorskip("ray.cluster_utils")
RayEngine: Any = pytest.importorskip("pipeline.engines.ray").RayEngine
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Nodes:
    """A cluster whose first node is the driver's."""

    def __init__(self, **environment: str) -> None:
        head = {"num_cpus": 2, "include_dashboard": False, **self.options("first", **environment)}
        self._cluster: Any = ray_cluster.Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address

    def options(self, name: str, **environment: str) -> dict[str, Any]:
        variables = {"NODE": name, "PYTHONPATH": faults.python_path(), **environment}
        return {"object_store_memory": 200 << 20, "env_vars": variables}

    def add(self, name: str, *, gpus: int = 0, **environment: str) -> Any:
        return self._cluster.add_node(num_cpus=2, num_gpus=gpus, **self.options(name, **environment))

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(FAULT_ONCE=str(tmp_path / "seen"))
    try:
        yield found
    finally:
        found.close()


def config(videos: Path, store: Path, decoder: str, address: str | None = None) -> ExtractConfig:
    engine = {"engine": "ray", "ray_address": address} if address else {}
    return small_config(videos, store, decoder=decoder, pose="faults:Estimator", pose_frames=8, shard_len=1, **engine)


@contextlib.contextmanager
def running(config: ExtractConfig) -> Iterator[Future[Summary]]:
    """An extraction in a thread: nodes can be started by the main one alone."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(extract, config)


def wait_for(path: Path, run: Future[Summary]) -> None:
    """Return when a file is there; fails when the run ends before."""
    while not path.exists():
        assert not run.done(), run.result()
        time.sleep(0.05)


def test_a_node_that_dies_costs_repetitions(small_videos: Path, tmp_path: Path, nodes: Nodes) -> None:
    """The whole node is killed while its lanes decode: their units are done elsewhere."""
    mark = tmp_path / "decoding"
    doomed = nodes.add("doomed", FAULT_ONCE=str(mark))
    with running(config(small_videos, tmp_path / "s", "faults:on_doomed_node", nodes.address)) as run:
        wait_for(mark, run)
        nodes.kill(doomed)
        summary = run.result()
    assert (summary.executed, summary.done) == (7, 6)
    assert summary.retried_units
    for retry in summary.retried_units:
        assert retry["times"] <= 2
        assert all(doomed.node_id[:8] in why for why in retry["why"]), retry
    extract(config(small_videos, tmp_path / "undisturbed", "faults:on_doomed_node"))
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")


def test_a_node_that_joins_late_is_used(
    small_videos: Path, tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be decoded before the late node has taken part."""
    seen = tmp_path / "seen"
    seen.mkdir()
    second = nodes.add("second", FAULT_ONCE=str(seen))
    assert second
    with running(config(small_videos, tmp_path / "s", "faults:on_late_node", nodes.address)) as run:
        wait_for(seen / "second", run)
        nodes.add("late", FAULT_ONCE=str(seen))
        summary = run.result()
    assert {path.name for path in seen.iterdir()} == {"first", "second", "late"}
    assert (summary.executed, summary.done, summary.retried_units) == (7, 6, [])
    monkeypatch.setenv("FAULT_ONCE", str(seen))
    extract(config(small_videos, tmp_path / "undisturbed", "faults:on_late_node"))
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")


def test_frames_go_to_the_nodes_with_gpus_and_outlive_one_of_them(
    small_videos: Path, tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes say that they have a GPU: they alone encode, for lanes everywhere, and one dies while it does."""
    mark = tmp_path / "encoding"
    faults.use_branches(monkeypatch, faults.HangingBranch)
    doomed = nodes.add("doomed", gpus=1, FAULT_ONCE=str(mark))
    nodes.add("healthy", gpus=1)
    with running(config(small_videos, tmp_path / "s", "pyav", nodes.address)) as run:
        wait_for(mark, run)
        nodes.kill(doomed)
        summary = run.result()
    assert (summary.executed, summary.done) == (7, 6)
    assert summary.retried_units
    monkeypatch.undo()
    extract(config(small_videos, tmp_path / "undisturbed", "pyav"))
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")


@pytest.mark.parametrize("difference", ["version", "instructions"])
def test_a_node_unlike_the_drivers_is_refused(
    small_videos: Path, tmp_path: Path, nodes: Nodes, difference: str
) -> None:
    other = nodes.add("other", **OTHERS[difference](tmp_path))
    with pytest.raises(StoreError) as error:
        extract(config(small_videos, tmp_path / "s", "pyav", nodes.address))
    assert error.value.kind == "store-mismatch"
    assert "\n" not in str(error.value)
    assert f"({other.node_id[:8]}) would compute other numbers than the driver: {SAYS[difference]}" in str(error.value)
    nodes.kill(other)
    extract(config(small_videos, tmp_path / "s", "pyav"))
    extract(config(small_videos, tmp_path / "undisturbed", "pyav"))
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")


def test_a_late_node_unlike_the_drivers_is_left_out(
    small_videos: Path, tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be decoded before it has tried to take part."""
    seen = tmp_path / "seen"
    seen.mkdir()
    set_up = RayEngine.set_up

    def watched(*arguments: Any) -> None:
        try:
            set_up(*arguments)
        except WorkerLostError:
            (seen / "late").touch()
            raise

    monkeypatch.setattr(RayEngine, "set_up", watched)
    with running(config(small_videos, tmp_path / "s", "faults:on_late_node", nodes.address)) as run:
        wait_for(seen / "first", run)
        other = nodes.add("other", FAULT_ONCE=str(seen), **_other_version(tmp_path))
        summary = run.result()
    assert {path.name for path in seen.iterdir()} == {"first", "late"}
    assert (summary.executed, summary.done) == (7, 6)
    (warning,) = summary.warnings
    assert f"({other.node_id[:8]}) would compute other numbers than the driver: {SAYS['version']}" in warning
    assert warning.endswith("; it joined late, and is left out")
    monkeypatch.setenv("FAULT_ONCE", str(seen))
    extract(config(small_videos, tmp_path / "undisturbed", "faults:on_late_node"))
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")


def _other_version(folder: Path) -> dict[str, str]:
    """A node on which another version of a package is installed, as far as the package's own record says."""
    record = folder / "packages" / "opencv_python_headless-4.0.1.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python-headless\nVersion: 4.0.1\n")
    return {"PYTHONPATH": f"{record.parent}:{faults.python_path()}"}


# Torch then takes the kernels of a plain CPU, whose numbers differ in their last bits.
OTHERS = {"version": _other_version, "instructions": lambda folder: {"ATEN_CPU_CAPABILITY": "default"}}
SAYS = {"version": "opencv-python-headless is 4.0.1 there, ", "instructions": "cpu_capability is "}
