"""The environment is not the video: disks that go away, fail, crawl or hang, and memory that runs out condemn nothing.

The faults are real ones: mounts, a FUSE file system, a block device that is cut short, the kernel's memory limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from commands import Vilp
from disks import FaultyDisk, tmpfs, unmount
from extractions import limit_decoders, pose_config
from runs import digest
from videos import numbered_frames, write_video

import stages.decode.process
from pipeline.extraction import extract
from pipeline.forecast import forecast
from pipeline.progress import Progress
from stages.decode import BACKENDS, DecodeConfig, DecodeWorker, decode_video
from stages.types import VideoRef
from store import FeatureStore, RetryError, StoreError

VIDEOS = 24
ENGINES = ["inline", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("run", "jump"):
        (root / name).mkdir()
        for number in range(VIDEOS // 2):
            write_video(root / name / f"{name}{number}.mp4", numbered_frames(5 + number, 64, 48))
    return root


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    store = tmp_path_factory.mktemp("undisturbed") / "s"
    assert extract(pose_config(videos, store)).done == VIDEOS
    return digest(store)


def condemned(store: Path) -> list[str]:
    found = FeatureStore.open(store)
    return [
        row["error_kind"] for row in found.status(found.group("pose")).to_pylist() if row["status"] == "quarantined"
    ]


class Midway(Progress):
    """Does something once, when the first videos are through."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self._deed: Callable[[], object] | None = deed
        self._lock = threading.Lock()

    def advance(self, steps: int) -> None:
        with self._lock:
            deed, self._deed = self._deed, None
        if deed is not None:
            deed()


@pytest.mark.parametrize("engine", ENGINES)
def test_root_that_is_unmounted_in_mid_run(videos: Path, undisturbed: str, tmp_path: Path, engine: str) -> None:
    root, store = tmp_path / "root", tmp_path / "s"
    config = pose_config(root, store, engine=engine)
    with tmpfs(root):
        shutil.copytree(videos, root, dirs_exist_ok=True)
        with pytest.raises(RetryError, match="mount it again and run the same command") as caught:
            extract(config, progress=Midway(lambda: unmount(root)))
    assert caught.value.kind == "root-missing"
    assert list(root.iterdir()) == []
    assert condemned(store) == []
    with tmpfs(root):
        shutil.copytree(videos, root, dirs_exist_ok=True)
        extract(config)
    assert digest(store) == undisturbed


def test_disk_that_fails_altogether(videos: Path, undisturbed: str, tmp_path: Path) -> None:
    store = tmp_path / "s"
    with FaultyDisk(videos, tmp_path / "disk") as disk:
        config = pose_config(disk.root, store)
        with pytest.raises(StoreError, match=r"videos in a row could not be read.*Input/output error") as caught:
            extract(config, progress=Midway(lambda: disk.set_faults({"*": "eio"})))
        assert caught.value.kind == "too-many-failures"
        assert set(condemned(store)) <= {"io-error"}
        disk.set_faults({})
        extract(config)
    assert digest(store) == undisturbed


def test_disk_that_fails_in_places(videos: Path, undisturbed: str, tmp_path: Path) -> None:
    """Single videos on bad blocks are reported, and tried again by every run until they can be read."""
    store = tmp_path / "s"
    with FaultyDisk(videos, tmp_path / "disk") as disk:
        config = pose_config(disk.root, store)
        disk.set_faults({"run3.mp4": "eio", "jump7.mp4": "eio"})
        assert extract(config).quarantined == {"io-error": 2}
        still = extract(config)
        assert (still.executed, still.done) == (2, 0)
        disk.set_faults({})
        assert extract(config).done == 2
    assert digest(store) == undisturbed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shard_len", [2, VIDEOS])
def test_neighbours_on_bad_blocks_do_not_keep_the_others_waiting(
    videos: Path, tmp_path: Path, engine: str, shard_len: int
) -> None:
    """So many that each run stops for them: the next one does what is left, and comes to them last."""
    store = tmp_path / "s"
    with FaultyDisk(videos, tmp_path / "disk") as disk:
        config = pose_config(disk.root, store, engine=engine, shard_len=shard_len)
        disk.set_faults({f"jump{number}.mp4": "eio" for number in range(VIDEOS // 2)})
        for _ in range(2):
            with pytest.raises(StoreError, match=r"videos in a row could not be read") as caught:
                extract(config)
            assert caught.value.kind == "too-many-failures"
        assert condemned(store) == ["io-error"] * (VIDEOS // 2)
        assert len(FeatureStore.open(store).load()) == VIDEOS // 2
        disk.set_faults({})
        assert extract(config).done == VIDEOS // 2
    extract(pose_config(videos, tmp_path / "undisturbed", shard_len=shard_len))
    assert digest(store) == digest(tmp_path / "undisturbed")


@pytest.mark.parametrize("engine", ENGINES)
def test_videos_that_were_deleted_after_planning_are_left_out(
    videos: Path, undisturbed: str, tmp_path: Path, vilp: Vilp, engine: str
) -> None:
    """More of them in a row than a run suffers: they are missing, neither done nor quarantined."""
    root, store = tmp_path / "videos", tmp_path / "s"
    shutil.copytree(videos, root)
    config = pose_config(root, store, engine=engine)
    extract(dataclasses.replace(config, limit=1))
    kept = root.with_name("kept")
    kept.mkdir()
    gone = sorted((root / "jump").iterdir())[1:11]
    for path in gone:
        path.rename(kept / path.name)
    assert forecast(config, measure=False).to_do == VIDEOS - 11
    for _ in range(2):
        summary = extract(config)
        assert "10 videos of the plan are gone, the first 'jump/jump1'; they are left out" in " ".join(summary.warnings)
        assert (summary.missing, summary.quarantined, summary.quarantine) == (10, {}, None)
    assert len(FeatureStore.open(store).load()) == VIDEOS - 10
    assert "10 videos of lists or plan are not on disk" in vilp("status", "--store", store).out
    for path in gone:
        (kept / path.name).rename(path)
    last = extract(config)
    assert (last.done, last.missing, last.warnings) == (10, 0, [])
    assert digest(store) == undisturbed


def test_disk_that_goes_away(videos: Path, undisturbed: str, tmp_path: Path) -> None:
    """As a network disk whose server died: every access fails at once."""
    store, target = tmp_path / "s", tmp_path / "disk"
    with FaultyDisk(videos, target) as disk, pytest.raises(RetryError, match=r"root .* is gone"):
        extract(pose_config(target, store), progress=Midway(disk.die))
    assert condemned(store) == []
    with FaultyDisk(videos, target):
        extract(pose_config(target, store))
    assert digest(store) == undisturbed


@pytest.mark.parametrize("backend", BACKENDS)
def test_disk_that_goes_away_while_a_video_is_decoded(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    def too_late(*arguments: object) -> object:
        disk.die()
        return decode(*arguments)

    module = importlib.import_module(f"stages.decode.{backend}_backend")
    decode = module._decode
    monkeypatch.setattr(module, "_decode", too_late)
    with FaultyDisk(videos, tmp_path / "disk") as disk, pytest.raises(RetryError) as caught:
        decode_video(disk.root / "run" / "run0.mp4", backend=backend)
    assert caught.value.kind == "io-error"


@pytest.mark.parametrize("suffix", [".ts", ".flv"])
def test_failed_read_is_not_the_end_of_a_video_that_states_no_length(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "videos").mkdir()
    path = write_video(tmp_path / "videos" / f"x{suffix}", numbered_frames(120, 320, 240), bf=2)
    assert path.stat().st_size > 2 << 17  # more than one read
    with FaultyDisk(path.parent, tmp_path / "disk") as disk:
        disk.set_faults({"*": "eio later"})
        with pytest.raises(RetryError) as caught:
            decode_video(disk.root / path.name, 2)
    assert caught.value.kind == "io-error"


def test_reads_that_never_return(
    videos: Path, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that reads cannot even be killed; it is left behind, and the others go on."""
    monkeypatch.setattr(stages.decode.process, "_EXIT_S", 0.1)
    limit_decoders(monkeypatch, deadline_s=1.0)
    store, target = tmp_path / "s", tmp_path / "disk"
    with FaultyDisk(videos, target) as disk:
        disk.set_faults({"run3.mp4": "hang"})
        summary = extract(pose_config(target, store))
        assert (summary.done, summary.quarantined) == (VIDEOS - 1, {"timeout": 1})
    with FaultyDisk(videos, target):
        assert extract(pose_config(target, store)).done == 1
    assert digest(store) == undisturbed


def test_a_run_does_not_wait_for_reads_that_never_return(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.decode.process, "_EXIT_S", 0.1)
    with FaultyDisk(videos, tmp_path / "disk") as disk, DecodeWorker(DecodeConfig(num_frames=2)) as worker:
        disk.set_faults({"*": "hang"})
        worker.submit([VideoRef(0, "x", str(disk.root / "run" / "run0.mp4"))])
        disk.wait_for_a_read()
        worker.cancel()
        with pytest.raises(CancelledError):
            worker.result()


@pytest.mark.slow
def test_slow_disk_costs_time_only(tmp_path: Path) -> None:
    """Every read takes a part of the deadline, all of them together much more."""
    (tmp_path / "videos").mkdir()
    path = write_video(tmp_path / "videos" / "x.avi", numbered_frames(8, 320, 240), codec="rawvideo", pix_fmt="bgr24")
    assert path.stat().st_size > 10 << 17
    with FaultyDisk(path.parent, tmp_path / "disk") as disk:
        disk.set_faults({"*": 0.3})
        with DecodeWorker(DecodeConfig(num_frames=2, deadline_s=1.5)) as worker:
            outcome = worker([VideoRef(0, "x", str(disk.root / "x.avi"))]).results[0]
    assert outcome.failure is None
    assert outcome.seconds > 2 * 1.5


@contextlib.contextmanager
def block_device(image: Path, target: Path) -> Iterator[None]:
    target.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop,ro", image, target], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"loop devices are not allowed here, run as root to test this: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


@pytest.mark.skipif(shutil.which("mke2fs") is None, reason="mke2fs is not installed")
def test_block_device_that_is_cut_short(videos: Path, undisturbed: str, tmp_path: Path) -> None:
    image, store = tmp_path / "image", tmp_path / "s"
    command = ["mke2fs", "-q", "-t", "ext4", "-d", videos, image, "16M"]
    subprocess.run(command, check=True, capture_output=True)
    whole = image.read_bytes()
    config = pose_config(tmp_path / "disk", store)
    with block_device(image, tmp_path / "disk"), pytest.raises((StoreError, RetryError)) as caught:
        extract(config, progress=Midway(lambda: os.truncate(image, 4096)))
    assert caught.value.kind in ("too-many-failures", "root-missing")
    assert set(condemned(store)) <= {"io-error"}
    image.write_bytes(whole)
    with block_device(image, tmp_path / "disk"):
        extract(config)
    assert digest(store) == undisturbed


@contextlib.contextmanager
def memory_limit(megabytes: int) -> Iterator[Path]:
    """A control group of processes whose memory is limited."""
    parents = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    group = next(parent for parent in parents if parent.is_dir()) / f"vilp-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control groups for memory here, run as root to test this: {error}")
    try:
        limits = [group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()]
        if not limits:
            pytest.skip("no control groups for memory here: the memory controller is off")
        limits[0].write_text(str(megabytes << 20))
        yield group
    finally:
        group.rmdir()


def test_memory_that_runs_out(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills the decoder on one video; when there is memory again, the next run decodes it."""
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    (root / "run" / "run3.mp4").rename(root / "run" / "starve 3.mp4")
    settings = {"decoder": "poison:marked"}
    extract(pose_config(root, tmp_path / "undisturbed", **settings))
    config = pose_config(root, tmp_path / "s", **settings)
    with memory_limit(200) as group:
        monkeypatch.setenv("POISON_CGROUP", str(group))
        assert extract(config).quarantined == {"out-of-memory": 1}
        monkeypatch.delenv("POISON_CGROUP")
    assert extract(config).done == 1
    assert digest(tmp_path / "s") == digest(tmp_path / "undisturbed")
