"""Running commands in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Vilp


@pytest.fixture
def run(vilp: Vilp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vilp:
    """``vilp-pipe`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return vilp
