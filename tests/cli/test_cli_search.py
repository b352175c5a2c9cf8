"""``search``: one JSON object, lines for people, a page, and words for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import stores
from command_line import Outcome, Run


def one_line(outcome: Outcome) -> str:
    lines = outcome.err.strip().splitlines()
    assert (len(lines), outcome.out) == (1, ""), outcome
    return lines[0]


def test_neighbours_as_lines_and_as_json(run: Run, tmp_path: Path) -> None:
    stores.build(tmp_path / "stores" / "mine")
    found = json.loads(run("search", "--like", "v3", "--top", "4", "--json").out)
    assert len(found["hits"]) == 4
    assert found["searched"] == 10
    lines = run("search", "--like", "v3", "--top", "4").out.splitlines()
    assert [line.split()[2] for line in lines] == [hit["video_id"] for hit in found["hits"]]


def test_errors_are_one_line(run: Run, tmp_path: Path) -> None:
    stores.build(tmp_path / "stores" / "mine")
    for arguments, words in (([], "give a text"), (["--like", "v99"], "'v99'"), (["a", "--by", "x"], "video, frame")):
        outcome = run("search", *arguments)
        assert outcome.code == 2
        assert words in one_line(outcome)
