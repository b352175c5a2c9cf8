"""``datasets``: what can be had, and words for what cannot."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Outcome, Run


def one_line(outcome: Outcome) -> str:
    lines = outcome.err.strip().splitlines()
    assert (len(lines), outcome.out) == (1, ""), outcome
    return lines[0]


def test_list_names_archives_and_licences(run: Run) -> None:
    found = json.loads(run("datasets", "list", "--json").out)["datasets"]
    assert (found["hmdb51"]["videos"], found["ucf101"]["classes"]) == (6766, 101)
    assert found["ucf101"]["present"] == 0
    assert "vilp-pipe datasets prepare hmdb51 --root data/hmdb51" in run("datasets", "list").out


def test_errors_are_one_line(run: Run, tmp_path: Path) -> None:
    outcome = run("datasets", "prepare", "hmdb52")
    assert outcome.code == 2
    assert "hmdb51, ucf101" in one_line(outcome)
    outcome = run("datasets", "prepare", "hmdb51", "--from", "nowhere")
    assert outcome.code == 1
    assert "--from is nowhere" in one_line(outcome)
    assert not (tmp_path / "data").exists()
