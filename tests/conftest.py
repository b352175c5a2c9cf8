"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def find_shared() -> Path | None:
    """The folder with real clips, weights and golden files: ``$VILP_SHARED``, or ``../shared`` beside the project."""
    path = Path(os.environ.get("VILP_SHARED", PROJECT.parent / "shared"))
    return path.resolve() if path.is_dir() else None


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
