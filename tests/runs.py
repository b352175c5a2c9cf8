"""Extractions with a pose estimator that needs neither weights nor torch: in this process a third of a second, as a
process a second and a half."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from videos import numbered_frames, write_video

from pipeline.config import ExtractConfig
from store.local import LocalObjects
from store.verify import verify_store

TESTS = Path(__file__).resolve().parent
SHARD_LEN = 2


def make_videos(root: Path, each: int = 3) -> Path:
    """Small videos of two classes, ``each`` of one; the folder ``root``."""
    for name in ("jump", "run"):
        (root / name).mkdir(parents=True)
        for number in range(each):
            write_video(root / name / f"{number}.mp4", numbered_frames(5 + number, 32, 32))
    return root


def plain_config(videos: Path, store: Path | str, **changes: object) -> ExtractConfig:
    settings: dict[str, object] = {
        "dataset": "folder",
        "root": str(videos),
        "store": str(store),
        "shard_len": SHARD_LEN,
        "modalities": ("pose",),
        "pose": "plain_pose:PlainEstimator",
        "frames": 2,
        "pose_frames": 4,
        "engine": "inline",
    }
    return ExtractConfig(**{**settings, **changes})  # type: ignore[arg-type]


def arguments(videos: Path, store: Path | str, *options: str) -> list[str]:
    """The same extraction on the command line."""
    settings = ["extract", "--dataset", "folder", "--root", str(videos), "--store", str(store)]
    pose = ["--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--frames", "2", "--pose-frames", "4"]
    return [*settings, "--shard-len", str(SHARD_LEN), *pose, "--engine", "inline", *options]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """``vilp-pipe`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cli.main import run; run()", *arguments],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``vilp-pipe`` as a process, to its end."""
    process = start(*arguments, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def first_commit(process: subprocess.Popen[str], store: Path) -> None:
    """Wait until a shard is committed; fails when the process ends before."""
    while not list(store.glob("_tables/commits/pose/*/*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def digest(store: Path) -> str:
    found = verify_store(LocalObjects(store)).digest
    assert found is not None
    return found
