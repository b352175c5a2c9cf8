"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3server
from browser import chromium  # noqa: F401
from commands import vilp  # noqa: F401
from faults import python_path
from hypothesis import settings
from shared_data import find_shared
from videos import numbered_frames, write_video

# How long an example takes says more about the machine than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real test data. Absent on a newcomer's machine: those tests are skipped; in CI its absence is a failure."""
    path = find_shared()
    if path is None:
        reason = "no shared test data: set VILP_SHARED to the folder that holds data/, weights/ and golden/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def small_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven files: five good ones of different lengths and sizes, ``broken.mp4`` that is text (as long as ``d.mp4``),
    ``cut.avi`` that ends in its middle."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("wave (left)", "jump & run"):
        (root / name).mkdir()
    shapes = {"a.mp4": (20, 64, 48), "b #2;.mp4": (6, 48, 64), "c.avi": (31, 64, 64)}
    for name, (count, width, height) in shapes.items():
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        write_video(root / "wave (left)" / name, numbered_frames(count, width, height), codec=codec)
    good = write_video(root / "jump & run" / "d.mp4", numbered_frames(16, 96, 64))
    write_video(root / "jump & run" / "e.mp4", numbered_frames(9, 64, 48), fps=10)
    (root / "jump & run" / "broken.mp4").write_bytes(b"not a video\n".ljust(good.stat().st_size))
    whole = write_video(root / "cut.avi", numbered_frames(60, 64, 48), codec="mpeg4")
    data = whole.read_bytes()
    whole.unlink()
    (root / "jump & run" / "cut.avi").write_bytes(data[: len(data) // 2])
    return root


@pytest.fixture
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Ray's workers, which import decoders and estimators that lie among the tests."""
    monkeypatch.setenv("PYTHONPATH", python_path())


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[s3server.S3Server]:
    with s3server.serve() as server:
        yield server


@pytest.fixture
def s3(_s3_server: s3server.S3Server) -> Iterator[s3server.S3Server]:
    """A real S3 server on loopback, found through the environment; it fails only when told to."""
    _s3_server.faults = lambda method, path, number: None
    with s3server.in_environment(_s3_server):
        yield _s3_server
    _s3_server.faults = lambda method, path, number: None
