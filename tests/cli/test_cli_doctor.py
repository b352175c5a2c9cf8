"""``doctor`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Vilp
from runs import make_videos


def test_doctor(run: Vilp, tmp_path: Path) -> None:
    make_videos(tmp_path / "videos")
    plan = ["--dataset", "folder", "--root", "videos", "--engine", "inline", "--pose", "none"]
    shown = run("doctor", *plan, "--clip", "tiny", "--clip-pretrained", "none")
    assert shown.code == 0, shown
    lines = shown.out.splitlines()
    assert lines[0].startswith("ok    python           3.")
    assert any(line.startswith("ok    videos           6 of 6 videos to do") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    broken = run("doctor", *plan, "--clip", "tiny", "--clip-pretrained", "gone.pt", "--json")
    assert broken.code == 1
    found = json.loads(broken.out)
    assert not found["ok"]
    assert [check["name"] for check in found["checks"] if check["status"] == "fail"] == ["clip weights"]
    assert broken.err.strip().splitlines()[-1] == "error: clip weights: see above for what to do"


def test_a_wrong_dataset_is_said_before_anything_is_looked_at(run: Vilp) -> None:
    shown = run("doctor", "--dataset", "hmbd51")
    assert (shown.code, shown.out) == (2, "")
    assert shown.line == (
        "error: dataset is 'hmbd51'; allowed: ucf101, hmdb51, folder, manifest, synthetic; did you mean hmdb51?"
    )
