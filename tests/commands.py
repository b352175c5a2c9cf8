"""What a command of the command line printed and returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def one_line(outcome: Outcome) -> str:
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert outcome.out == ""
    return lines[0]
