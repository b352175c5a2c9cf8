"""How many lanes, of which chunks, a machine gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from extractions import small_config
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.sizing import LANE_CHUNKS, Sizing, cpus, machine_memory
from pipeline.graph import make_graph

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@given(
    memory=st.integers(1, 1 << 40) | st.none(),
    chunk=st.integers(1, 1 << 30),
    video=st.integers(1, 1 << 30),
    cpus=st.integers(1, 512),
    machine=st.integers(1 << 20, 1 << 45),
)
def test_frames_of_all_lanes_fit(memory: int | None, chunk: int, video: int, cpus: int, machine: int) -> None:
    sizing = Sizing(memory, chunk, video, 0)
    lanes = sizing.lanes(cpus, machine)
    bound = machine // 4 if memory is None else memory
    assert 1 <= lanes <= max(2, cpus // 2)
    assert lanes == 1 or lanes * LANE_CHUNKS * max(chunk, video) <= bound
    # Not one lane less than what fits.
    assert lanes == max(2, cpus // 2) or (lanes + 1) * LANE_CHUNKS * max(chunk, video) > bound


def test_the_object_store_holds_all_lanes_and_at_most_a_third_of_the_memory() -> None:
    sizing = Sizing(None, chunk_bytes=1 << 28, video_bytes=1 << 20, unit_bytes=1 << 27)
    assert sizing.object_bytes(2, 1 << 40) == 2 * (LANE_CHUNKS << 28) + 4 * (1 << 27)
    assert sizing.object_bytes(100, 9 << 30) == 3 << 30
    assert Sizing(None, 1, 1, 1).object_bytes(1, 1 << 40) == 1 << 30


def test_chunks_shrink_to_the_memory(small_videos: Path, tmp_path: Path) -> None:
    config = small_config(small_videos, tmp_path / "s", memory=100 << 20)
    sizing = Sizing.of(config, make_graph(config, small_videos))
    assert sizing.chunk_bytes == 25 << 20  # and not 64 MB, of which a lane holds four
    assert sizing.video_bytes == 4 * 480 * 3 * 480 * 16 // 9
    assert sizing.unit_bytes == 2 * (4 * 4 + 4 * 8 + 2 * 4 * (64 + 49 * 64 + 49 * 128))
    assert sizing.warnings == []
    config = small_config(small_videos, tmp_path / "s", memory=1 << 20)
    (line,) = Sizing.of(config, make_graph(config, small_videos)).warnings
    assert line.startswith("memory is 1048576 bytes, but frames of large videos take up to 19660800 in one lane")
    config = small_config(small_videos, tmp_path / "s")
    assert Sizing.of(config, make_graph(config, small_videos)).chunk_bytes == min(64 << 20, machine_memory() // 16)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"memory.max": "1000\n"}, 1000),
        ("0::/jobs/7\n", {"jobs/7/memory.max": "max\n", "jobs/memory.max": "3000\n"}, 3000),
        ("0::/jobs/7\n", {"jobs/7/memory.max": "2000\n", "jobs/memory.max": "3000\n"}, 2000),
        ("3:cpu:/\n2:memory:/jobs/7\n", {"memory/jobs/7/memory.limit_in_bytes": "2000\n"}, 2000),
        # In a container the path is the host's, and what is seen is the container's own top.
        ("2:cpu,memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "2000\n"}, 2000),
        ("2:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
    ],
)
def test_memory_is_what_the_control_group_allows(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    control_groups(tmp_path, groups, limits)
    assert machine_memory(tmp_path) == expected


def control_groups(root: Path, groups: str, limits: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/jobs/7\n", {"jobs/7/cpu.max": "max 100000\n", "jobs/cpu.max": "300000 100000\n"}, 3),
        (
            "4:cpu,cpuacct:/docker/abc\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_cpus_are_what_the_control_group_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    control_groups(tmp_path, groups, limits)
    assert cpus(tmp_path) == expected


def test_memory_is_the_machines_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert machine_memory(tmp_path) == MACHINE
