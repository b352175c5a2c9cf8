"""Running commands in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import Outcome, Run

from cli.main import run as entry_point


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vilp-pipe", *arguments])
        code = 0
        try:
            entry_point()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call
