"""The command line, called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cli.main import run as entry_point


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error; fails where there are more, or where anything is on standard output."""
        lines = self.err.strip().splitlines()
        assert (len(lines), self.out) == (1, ""), self
        return lines[0]

    @property
    def error(self) -> str:
        """The one line that begins with ``error``, where nothing is on standard output."""
        lines = [line for line in self.err.strip().splitlines() if line.startswith("error")]
        assert (len(lines), self.out) == (1, ""), self
        return lines[0]


Vilp = Callable[..., Outcome]


@pytest.fixture
def vilp(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Vilp:
    """``vilp-pipe`` in this process."""
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr("cli.main._collect_seldom", lambda: None)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vilp-pipe", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            entry_point()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Outcome(code, *capfd.readouterr())

    return call
