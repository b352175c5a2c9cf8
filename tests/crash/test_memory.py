"""Memory: with a CLIP that is ten times slower than decoding, what a run holds does not depend on how many videos there
are, and its frames in flight stay within ``--memory``.

Measured is the resident memory of the whole process tree without counting anything twice: private pages, shares of
mapped files, and each piece of shared memory once (the frames that decoding processes share with their parents, and
Ray's object store).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import psutil
import pytest

from pipeline.engines.sizing import LANE_CHUNKS

WIDE = (853, 480)  # what a 1080p frame is shrunk to
FRAMES = 16
VIDEO_BYTES = FRAMES * 3 * WIDE[0] * WIDE[1]
# Heaps, caches and batches under way, that are no frames in flight.
SLACK = 150 << 20


def make_videos(root: Path, count: int, size: tuple[int, int]) -> Path:
    (root / "class").mkdir(parents=True)
    for number in range(count):
        (root / "class" / f"{number}.mp4").write_text(f"{size[0]} {size[1]}")
    return root


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process tree: what is in it, and what of that is Ray's object store."""

    tree: int = 0
    store: int = 0


def resident(pid: int) -> Memory:
    """Private memory and shares of mapped files (PSS) of a process and all below it, and their shared memory, every
    object of it once: segments of frames, and the store."""
    private, shared, store = 0, {}, 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return Memory()
    for process in processes:
        folder = Path(f"/proc/{process.pid}")
        try:
            lines = [line.split() for line in (folder / "smaps_rollup").read_text().splitlines()]
            private += sum(int(line[1]) << 10 for line in lines if line[0] in ("Pss_Anon:", "Pss_File:"))
            for descriptor in (folder / "fd").iterdir():
                target = os.readlink(descriptor)
                if target.startswith(("/memfd:", "/dev/shm/")):
                    status = os.stat(descriptor)
                    shared[status.st_dev, status.st_ino] = 512 * status.st_blocks
                    if "plasma" in target:
                        store = 512 * status.st_blocks
        except OSError:  # it has ended meanwhile
            continue
    return Memory(private + sum(shared.values()), store)


def measure(root: Path, store: Path, cpus: int = 2, **settings: Any) -> Memory:
    """Run an extraction and watch its memory: the largest that was seen."""
    settings = {"root": str(root), "store": str(store), "decoder": "heavy:decode", "frames": FRAMES, **settings}
    settings |= {"shard_len": 16, "tokens": ()}
    process = subprocess.Popen(
        [sys.executable, "-m", "heavy", json.dumps(settings), str(cpus)],
        env={**os.environ, "PYTHONPATH": faults.python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = Memory()
    while process.poll() is None:
        seen = resident(process.pid)
        peak = Memory(max(peak.tree, seen.tree), max(peak.store, seen.store))
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["done"] == summary["planned"] == len(list(root.glob("*/*.mp4")))
    return peak


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path, engine: str) -> None:
    """Of frames 630 MB are decoded, and then 2.5 GB, of which 160 MB may be in flight."""
    memory = 2 * LANE_CHUNKS * VIDEO_BYTES
    settings = {"engine": engine, "memory": memory, "chunk_bytes": VIDEO_BYTES}
    base = measure(make_videos(tmp_path / "small", 32, (8, 8)), tmp_path / "base", **settings)
    few = measure(make_videos(tmp_path / "few", 32, WIDE), tmp_path / "s1", **settings)
    many = measure(make_videos(tmp_path / "many", 128, WIDE), tmp_path / "s4", **settings)
    print(f"{engine}: base {base}, few {few}, many {many}")
    assert few.tree <= base.tree + memory + SLACK
    assert many.tree <= base.tree + memory + SLACK
    assert many.tree <= few.tree + SLACK
    assert many.store <= memory + (1 << 20)
    assert (few.store > 0) == (engine == "ray")


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_memory_that_does_not_hold_one_chunk(tmp_path: Path, engine: str) -> None:
    """One lane, and as little in it as one video needs."""
    settings = {"engine": engine, "memory": VIDEO_BYTES // 4}
    base = measure(make_videos(tmp_path / "small", 16, (8, 8)), tmp_path / "base", **settings)
    wide = measure(make_videos(tmp_path / "wide", 16, WIDE), tmp_path / "s", **settings)
    print(f"{engine}: base {base}, wide {wide}")
    assert wide.tree <= base.tree + LANE_CHUNKS * VIDEO_BYTES + SLACK
    assert wide.store <= LANE_CHUNKS * VIDEO_BYTES + (1 << 20)  # whole pages, and features


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_many_lanes_share_the_memory(tmp_path: Path, engine: str) -> None:
    """A machine of many CPUs would take 16 lanes, of which the memory holds four."""
    memory = 4 * LANE_CHUNKS * VIDEO_BYTES
    settings = {"engine": engine, "memory": memory, "chunk_bytes": 1 << 20, "cpus": 32}
    base = measure(make_videos(tmp_path / "small", 64, (8, 8)), tmp_path / "base", **settings)
    wide = measure(make_videos(tmp_path / "wide", 64, WIDE), tmp_path / "s", **settings)
    print(f"{engine}: base {base}, wide {wide}")
    assert wide.tree <= base.tree + memory + SLACK
    assert wide.store <= memory + (1 << 20)
