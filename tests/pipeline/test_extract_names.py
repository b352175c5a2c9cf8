"""Names of videos are names: whatever they say, that file is decoded, and no other is read, made or run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from extractions import pose_config
from videos import numbered_frames, write_video

from pipeline.extraction import extract
from store import FeatureStore

NAMES = [
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned #",
    "x' \"& touch pwned",
    "concat:other.avi|other.avi",
    "file:other",
    "http:x",
    "pipe:0",
    "-i other",
    "--help",
    "%03d",
    "~root",
    "*",
    "[0-9]",
    "new\nline",
    "a\ttab",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp",
    "\x9b31m",
]
BROKEN = ["broken\nline", "broken\x1b[31m", "broken$(touch pwned)"]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str) -> None:
    root, here = tmp_path / "videos", tmp_path / "here"
    for folder in (root / "a" / "deep", root / "b", here):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    video = write_video(root / "a" / "plain.avi", numbered_frames(12, 64, 48), codec="mpeg4")
    # Where a name is taken for an address of another file, its pictures differ, or there are none.
    write_video(here / "other.avi", numbered_frames(3, 96, 64), codec="mpeg4")
    for name in NAMES:
        shutil.copyfile(video, root / "a" / "deep" / f"{name}.avi")
    for name in BROKEN:
        (root / "b" / f"{name}.avi").write_text("no video")
    summary = extract(pose_config(root, tmp_path / "s", decoder=decoder, shard_len=8))

    assert summary.done == len(NAMES) + 1
    assert summary.quarantined == {"not-a-video": len(BROKEN)}
    assert all(failure["message"].isprintable() for failure in summary.failures)
    found = FeatureStore.open(tmp_path / "s").load()
    assert {f"a/deep/{name}" for name in NAMES} < set(found.video_ids)
    keypoints = found["keypoints"].numpy()
    plain = keypoints[found.video_ids.index("a/plain")]
    for video_id, row in zip(found.video_ids, keypoints, strict=True):
        np.testing.assert_array_equal(row, plain, err_msg=repr(video_id))
    assert [path.name for path in here.iterdir()] == ["other.avi"]
    assert not list(tmp_path.rglob("pwned"))
    written = [path.relative_to(tmp_path / "s").as_posix() for path in (tmp_path / "s").rglob("*")]
    assert all(re.fullmatch(r"[\w./-]+", name) for name in written)  # no name of a video names an object of the store
