"""The rendered set on disk: the same bytes every time, whole or not at all, and a truth that fits the pixels."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import av
import extractions
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import load_dataset
from pipeline.datasets.synthetic import TINY, SyntheticConfig, read_recipe, render, render_dataset
from pipeline.extraction import extract
from pipeline.forecast import forecast
from stages.pose.base import PoseConfig
from stages.pose.precomputed import PrecomputedEstimator
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import RetryError, UsageError
from store.reader import FeatureStore

L_ELBOW, R_ELBOW, L_WRIST, R_WRIST = 7, 8, 9, 10


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "set"
    render_dataset(root, config=TINY)
    return root


def digest(root: Path) -> str:
    return json.loads((root / "synthetic.json").read_text())["digest"]


def decode(path: Path) -> tuple[np.ndarray, set[int]]:
    """All frames, and the kinds of picture they were coded as."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), {int(frame.pict_type) for frame in frames}


def test_load(tiny):
    dataset = load_dataset("synthetic", tiny)
    assert dataset.class_names == TINY.classes
    assert dataset.num_splits == 3
    assert (len(dataset.videos), dataset.expected_videos, dataset.missing, dataset.unlisted) == (12, 12, (), ())
    assert Counter(video.class_name for video in dataset.videos) == dict.fromkeys(TINY.classes, 3)
    for split in range(3):
        subjects = {
            subset: {v.source for v in dataset.videos if v.splits[split] == subset} for subset in ("train", "test")
        }
        assert subjects["train"] | subjects["test"] == {"s00", "s01", "s02"}
        assert len(subjects["test"]) == 1
        assert not subjects["train"] & subjects["test"]
    assert {Path(video.path).suffix for video in dataset.videos} == {".mp4", ".avi"}


def test_load_renders_what_is_not_there(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("pipeline.datasets.synthetic.render.SyntheticConfig", lambda: TINY)
    monkeypatch.setenv("VILP_DATA", str(tmp_path))
    assert len(load_dataset("synthetic").videos) == 12
    assert digest(tmp_path / "synthetic") == digest(tiny)
    with pytest.raises(UsageError, match="of seed 0, asked for 1"):
        load_dataset("synthetic", seed=1)


def test_extract_renders_with_its_seed_and_keeps_it(tmp_path, monkeypatch):
    """Other random weights do not ask for other videos."""
    monkeypatch.setattr("pipeline.datasets.synthetic.render.SyntheticConfig", lambda: TINY)
    config = extractions.small_config(tmp_path / "set", tmp_path / "s", dataset="synthetic", limit=1, seed=1)
    assert forecast(config, measure=False).planned == 12
    extract(config)
    assert read_recipe(tmp_path / "set")["seed"] == 1
    more = dataclasses.replace(config, seed=2)
    assert forecast(more, measure=False).to_do == 1
    assert extract(more).done == 1
    assert len([path for path in FeatureStore.open(tmp_path / "s").groups if path.startswith("clip/")]) == 4
    with pytest.raises(UsageError, match="of seed 1, asked for 2"):
        extract(dataclasses.replace(more, store=str(tmp_path / "other")))


def test_same_bytes_from_one_process_and_from_several(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(render, "_VIDEOS_A_WORKER", 6)
    monkeypatch.setattr(render.os, "sched_getaffinity", lambda _: {0, 1})
    seen: list[tuple[int, int]] = []
    render_dataset(tmp_path / "b", config=TINY, progress=lambda *counts: seen.append(counts))
    assert digest(tmp_path / "b") == digest(tiny)
    assert seen[-1] == (12, 12)
    for path in tiny.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tiny)).read_bytes()


def test_a_worker_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "_VIDEOS_A_WORKER", 6)
    monkeypatch.setattr(render.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(render.sys, "executable", "/bin/false")
    with pytest.raises(RetryError, match="ended with status 1; run again"):
        render_dataset(tmp_path / "b", config=TINY)
    assert not (tmp_path / "b/synthetic.json").exists()


def test_another_seed_gives_other_videos(tmp_path, tiny):
    config = SyntheticConfig(**{**vars(TINY), "classes": TINY.classes[:2]})
    render_dataset(tmp_path / "c", seed=1, config=config)
    name = "videos/raise_arms/raise_arms_s00_c00"
    files = [next(root.glob(f"{name}.*")).read_bytes() for root in (tiny, tmp_path / "c")]
    assert files[0] != files[1]


def test_a_complete_set_is_left_alone(tiny, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    monkeypatch.setattr(render, "write_scripts", lambda *_: pytest.fail("nothing is to be rendered"))
    render_dataset(tiny, config=TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_an_interrupted_set_is_completed(tmp_path, monkeypatch, tiny):
    calls: list[object] = []
    whole = render.write_video

    def interrupted(path, *args):
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        whole(path, *args)

    monkeypatch.setattr(render, "write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "d", config=TINY)
    with pytest.raises(UsageError, match="another recipe"):
        render_dataset(tmp_path / "d", config=TINY, seed=5)
    render_dataset(tmp_path / "d", config=TINY)
    assert len(calls) == 4 + 9
    assert digest(tmp_path / "d") == digest(tiny)
    assert {p.relative_to(tmp_path / "d") for p in (tmp_path / "d").rglob("*")} == {
        p.relative_to(tiny) for p in tiny.rglob("*")
    }


def test_other_recipes_and_other_files_are_refused(tmp_path, tiny):
    with pytest.raises(UsageError, match="another recipe"):
        render_dataset(tiny)
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(UsageError, match="holds something else"):
        render_dataset(tmp_path)


def test_every_video_decodes_to_the_frames_of_the_truth(tiny):
    rows = pq.read_table(tiny / "annotations.parquet").to_pylist()
    for row in rows:
        frames, kinds = decode(tiny / row["path"])
        assert frames.shape == (row["num_frames"], row["height"], row["width"], 3)
        assert av.video.frame.PictureType.B in kinds
        assert len(row["phase"]) == row["num_frames"] >= 48
        assert 0 <= row["start_frame"] < row["end_frame"] <= row["num_frames"]
    truth = pq.read_table(tiny / "truth.parquet")
    assert truth.schema.names == ["video_id", "frame", "person", "keypoints", "box"]
    assert [str(kind) for kind in truth.schema.types[:3]] == ["string", "int32", "int32"]
    values = truth.to_pydict()
    keypoints, boxes = np.array(values["keypoints"]).reshape(-1, 17, 3), np.array(values["box"])
    assert set(np.unique(keypoints[..., 2])) <= {0.0, 0.5, 1.0}
    assert (boxes[:, 4] == 1).all()
    assert ((boxes[:, :4] >= 0) & (boxes[:, :4] <= 1)).all()
    inside = (keypoints[..., :2] >= boxes[:, None, :2]) & (keypoints[..., :2] <= boxes[:, None, 2:4])
    assert inside.all(-1)[keypoints[..., 2] > 0].all()


def test_truth_is_a_file_of_precomputed_poses(tmp_path):
    """Every frame has a row: one of person -1 where nobody is in view."""
    config = SyntheticConfig(
        classes=("on the beach", "wave"), num_subjects=3, clips=1, sizes=((160, 120),), nobody=0.4, away=0.4
    )
    render_dataset(tmp_path / "set", config=config)
    rows = pq.read_table(tmp_path / "set/annotations.parquet").to_pylist()
    truth = pq.read_table(tmp_path / "set/truth.parquet").to_pydict()
    persons: dict[tuple[str, int], list[int]] = {}
    for video_id, frame, person in zip(truth["video_id"], truth["frame"], truth["person"], strict=True):
        persons.setdefault((video_id, frame), []).append(person)
    assert set(persons) == {(row["video_id"], frame) for row in rows for frame in range(row["num_frames"])}
    assert {row["num_persons"] for row in rows} >= {0, 1}
    for row in rows:
        seen = [persons[row["video_id"], frame] for frame in range(row["num_frames"])]
        assert all(-1 not in people or people == [-1] for people in seen)
        assert (row["num_persons"] == 0) == all(people == [-1] for people in seen)
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(tmp_path / "set/truth.parquet")))
    estimator.setup()
    for slot, row in enumerate(rows):
        frames, _ = decode(tmp_path / "set" / row["path"])
        indices = np.arange(len(frames), dtype=np.int32)
        video = DecodedVideo(frames, indices, indices / 12.0, len(frames), len(frames), 12.0, 160, 120)
        (poses,) = estimator([Clip(VideoRef(slot, row["video_id"], row["path"]), video)])
        assert isinstance(poses, list)
        for frame, pose in enumerate(poses):
            assert pose.ids is not None
            assert [-1] * (not len(pose.ids)) + pose.ids.tolist() == persons[row["video_id"], frame]


def test_limbs_are_where_the_truth_says(tmp_path):
    """Decoded frames show skin at the wrists and the shirt at elbows in long sleeves, and not a little aside."""
    config = SyntheticConfig(
        classes=("raise arms", "kneel"), num_subjects=3, sizes=((320, 240),), second_person=0, occluded=0, away=0
    )
    render_dataset(tmp_path / "set", config=config)
    rows = pq.read_table(tmp_path / "set/annotations.parquet").to_pylist()
    truth = pq.read_table(tmp_path / "set/truth.parquet").to_pydict()
    points = {
        (video_id, frame): np.array(keypoints).reshape(17, 3)
        for video_id, frame, keypoints in zip(truth["video_id"], truth["frame"], truth["keypoints"], strict=True)
    }

    def found(shift: float) -> dict[str, float]:
        hits: dict[str, list[bool]] = {"wrist": [], "elbow": []}
        for row in rows:
            for number, frame in enumerate(decoded[row["video_id"]]):
                for joint in (L_ELBOW, R_ELBOW, L_WRIST, R_WRIST):
                    elbow = joint in (L_ELBOW, R_ELBOW)
                    x, y, seen = points[row["video_id"], number][joint]
                    if seen < 1 or (elbow and not row["long_sleeves"]):
                        continue
                    pixel = frame[int(y * 240), min(int((x + shift) * 320), 319)].astype(float)
                    colour = np.array(row["shirt_rgb" if elbow else "skin_rgb"], float)
                    shade = np.clip(pixel @ colour / (colour @ colour), 0.7, 1.05)  # limbs are shaded by depth
                    hits["elbow" if elbow else "wrist"].append(np.abs(pixel - shade * colour).max() < 32)
        return {name: float(np.mean(values)) for name, values in hits.items()}

    decoded = {row["video_id"]: decode(tmp_path / "set" / row["path"])[0] for row in rows}
    right, wrong = found(0.0), found(0.12)
    assert right["wrist"] > 0.95
    assert right["elbow"] > 0.95
    assert wrong["wrist"] < 0.5
    assert wrong["elbow"] < 0.5
