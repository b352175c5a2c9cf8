"""``extract --dry-run``: what it says is what happens, and nothing happens."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from extractions import pose_config, small_config
from videos import numbered_frames, write_video

from pipeline.datasets import synthetic
from pipeline.extraction import extract
from pipeline.forecast import forecast
from store import MissingError, StoreError
from store.local import LocalObjects


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_nothing_is_made(small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(small_videos)
    planned = forecast(small_config(small_videos, tmp_path / "stores" / "s"))
    assert (planned.planned, planned.to_do, planned.shards) == (7, 7, 4)
    assert planned.bytes == 7 * (4 * 64 * 2 + 4 * 49 * 64 * 2 + 4 * 49 * 128 * 2 + 4 * 4 + 4 * 8)
    assert list(tmp_path.iterdir()) == []
    assert snapshot(small_videos) == before


def test_a_store_stays_as_it_is(small_videos: Path, tmp_path: Path) -> None:
    config = pose_config(small_videos, tmp_path / "s")
    extract(dataclasses.replace(config, limit=3))
    before = snapshot(tmp_path)
    planned = forecast(config)
    assert (planned.planned, planned.to_do, planned.shards) == (7, 4, 3)
    assert snapshot(tmp_path) == before


def test_what_is_said_is_what_is_done(small_videos: Path, tmp_path: Path) -> None:
    config = small_config(small_videos, tmp_path / "s")
    planned = forecast(config)
    summary = extract(config)
    assert [group.path for group in planned.groups] == summary.groups
    assert planned.to_do == summary.executed
    objects = LocalObjects(tmp_path / "s")
    written = sum(objects.size(key) or 0 for key in objects.list() if "/c." in key and "/text/" not in key)
    # Two videos are broken, so less is written; and every row has a checksum, every shard an index.
    assert 5 / 7 * planned.bytes <= written <= planned.bytes
    again = forecast(config)
    assert (again.to_do, again.shards, again.bytes, again.probe, again.seconds) == (0, 0, 0, None, None)
    assert forecast(dataclasses.replace(config, retry_quarantined=True)).to_do == 1


def test_parts_and_limits(small_videos: Path, tmp_path: Path) -> None:
    config = pose_config(small_videos, tmp_path / "s")
    assert forecast(dataclasses.replace(config, limit=3), measure=False).to_do == 3
    parts = [forecast(dataclasses.replace(config, part=type(config.part)(i, 2)), measure=False) for i in (0, 1)]
    assert [part.to_do for part in parts] == [4, 3]


def test_videos_that_came_and_went(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    config = pose_config(root, tmp_path / "s")
    extract(config)
    (root / "jump & run" / "d.mp4").unlink()
    write_video(root / "jump & run" / "new.mp4", numbered_frames(8, 32, 32))
    planned = forecast(config)
    assert (planned.new, planned.gone, planned.to_do) == (1, 1, 0)
    assert forecast(dataclasses.replace(config, update=True)).to_do == 1


def test_the_time_is_measured(small_videos: Path, tmp_path: Path) -> None:
    planned = forecast(small_config(small_videos, tmp_path / "s", pose="plain_pose:PlainEstimator", pose_frames=8))
    assert planned.probe is not None
    assert planned.seconds is not None
    assert list(planned.probe.stage_seconds) == ["decode", "clip", "pose"]
    assert all(seconds > 0 for seconds in planned.probe.stage_seconds.values())
    assert planned.probe.videos >= 2
    assert planned.probe.peak_bytes > 50 << 20
    least = 7 * max(planned.probe.stage_seconds[name] for name in ("clip", "pose"))
    assert least < planned.seconds[0] <= planned.seconds[1]


def test_where_no_video_decodes_it_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / "broken.mp4").write_bytes(b"not a video")
    planned = forecast(pose_config(tmp_path / "videos", tmp_path / "s"))
    assert (planned.to_do, planned.probe, planned.seconds) == (2, None, None)
    assert "none of 2 videos that were tried decodes" in planned.notes[0]


def test_the_synthetic_set_is_not_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pose_config(tmp_path / "data", tmp_path / "s", dataset="synthetic", pose="precomputed")
    rendered = []
    render = synthetic.render.render_video
    monkeypatch.setattr(synthetic.render, "render_video", lambda *given: rendered.append(given) or render(*given))
    planned = forecast(config)
    assert (planned.planned, planned.to_do, planned.missing) == (252, 252, 0)
    assert planned.probe is not None
    assert len(rendered) == planned.probe.videos == 2
    assert list(tmp_path.iterdir()) == []


def test_a_sample_of_the_synthetic_set_is_part_of_the_whole(tmp_path: Path) -> None:
    """So the groups that a forecast names are those that the run fills."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    synthetic.render_dataset(whole, config=synthetic.TINY)
    names = [video.video_id for video in synthetic.load(whole).videos][:2]
    part.mkdir()
    synthetic.render_sample(part, config=synthetic.TINY)
    synthetic.render_sample(part, config=synthetic.TINY, video_ids=names)
    found = {path: content for path, (_, content) in snapshot(part).items()}
    assert {path: snapshot(whole)[path][1] for path in found} == found
    assert len([path for path in found if path.startswith("videos/")]) == 2


def test_errors_are_those_of_extract(small_videos: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="--det-weights"):
        forecast(small_config(small_videos, tmp_path / "s", pose="onnx", pose_frames=8))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="is not empty"):
        forecast(pose_config(small_videos, tmp_path / "mine"))
