"""``datasets``: what can be had, and words for what cannot."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Vilp


def test_list_names_archives_and_licences(run: Vilp) -> None:
    found = json.loads(run("datasets", "list", "--json").out)["datasets"]
    assert (found["hmdb51"]["videos"], found["ucf101"]["classes"]) == (6766, 101)
    assert found["ucf101"]["present"] == 0
    assert "vilp-pipe datasets prepare hmdb51 --root data/hmdb51" in run("datasets", "list").out


def test_errors_are_one_line(run: Vilp, tmp_path: Path) -> None:
    outcome = run("datasets", "prepare", "hmdb52")
    assert outcome.code == 2
    assert "hmdb51, ucf101" in outcome.line
    outcome = run("datasets", "prepare", "hmdb51", "--from", "nowhere")
    assert outcome.code == 1
    assert "--from is nowhere" in outcome.line
    assert not (tmp_path / "data").exists()
