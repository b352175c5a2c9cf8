"""What the crash tests share: videos, the store of an undisturbed run, and a process that reads all the time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import python_path
from runs import make_videos, plain_config
from watcher import Watcher

from pipeline.extraction import extract
from store.local import LocalObjects
from store.verify import Report, verify_store


@pytest.fixture(autouse=True)
def _everywhere(workers_find_the_tests: None) -> None:
    """No test here has to ask for it."""


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def undisturbed_store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "s"
    extract(plain_config(videos, store))
    return store


@pytest.fixture(scope="session")
def undisturbed(undisturbed_store: Path) -> Report:
    report = verify_store(LocalObjects(undisturbed_store))
    assert report.digest
    assert report.committed == 6
    return report


@pytest.fixture(scope="session")
def watcher(undisturbed_store: Path) -> Iterator[Watcher]:
    made = Watcher(undisturbed_store, {**os.environ, "PYTHONPATH": python_path()})
    yield made
    made.close()
