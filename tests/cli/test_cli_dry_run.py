"""``extract --dry-run`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Vilp
from runs import arguments, make_videos


def test_the_plan_is_printed_and_nothing_made(run: Vilp, tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos")
    given = [*arguments(videos, tmp_path / "s"), "--dry-run"]
    found = json.loads(run(*given, "--json").out)
    assert (found["to_do"], found["shards"], [group["videos"] for group in found["groups"]]) == (6, 3, [6, 6])
    shown = run(*given)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[1] == "videos: 6 in the plan, 6 to do in 3 shards"
    assert lines[2].startswith("disk: 21.3 KB; ")  # 6 x (816 + 80 + 12) x 4 bytes
    assert any(line.startswith("  measured on 2 of the videos in ") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
