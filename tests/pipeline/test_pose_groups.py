"""Pose groups of a store: added one after the other, resumed, counted; and heatmaps made of poses that are there."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stores
from commands import Vilp
from extractions import pose_config, small_config

from pipeline.config import ExtractConfig, resolve
from pipeline.extraction import extract
from pipeline.head.checkpoint import read_run
from pipeline.head.evaluate import train_head
from pipeline.inspection import inspect_videos, some_videos
from pipeline.report.facts import gather
from pipeline.status import store_status
from pipeline.studies.seen import look
from store import FeatureStore, UsageError
from store.local import LocalObjects
from store.verify import verify_store

PLAIN = {"pose": "plain_pose:PlainEstimator", "pose_frames": 8}


@pytest.fixture(scope="module")
def with_pose(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("pose") / "store"
    extract(small_config(small_videos, store, **PLAIN))
    return store


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def groups(store: Path, kind: str) -> list[str]:
    return [path for path, group in FeatureStore.open(store).groups.items() if group.modality.kind == kind]


def test_heatmaps_made_later_of_stored_poses(small_videos: Path, with_pose: Path, tmp_path: Path) -> None:
    """A second pose group beside the first, whose files stay as they are, with the numbers of a run that makes both."""
    before = files(with_pose)
    (first,) = groups(with_pose, "pose")
    later = {"pose": "precomputed", "pose_config": str(with_pose / first), "heatmap": "joints", "modalities": ["pose"]}
    config = resolve(str(with_pose), later)
    assert (config.pose_frames, config.clip) == (8, "tiny")  # as the first run had it
    extract(config, only_shards=[0])
    assert [row["left"] for row in store_status(str(with_pose))["groups"] if "precomputed" in row["path"]] == [5]
    extract(config)
    added = files(with_pose)
    passing = ("_tables/lease", "_tables/heartbeats", "_tables/quarantine", "_tables/configs", "zarr.json")
    kept = {name: data for name, data in before.items() if not name.startswith(passing)}
    assert {name: added[name] for name in kept} == kept
    ours = [name for name in set(added) - set(before) if not name.startswith(passing)]
    assert [name for name in ours if "pose/precomputed" not in name] == []

    (second,) = set(groups(with_pose, "pose")) - {first}
    rows = {row["path"]: row for row in store_status(str(with_pose))["groups"]}
    assert rows[second]["committed"] == rows[first]["committed"] == 7
    assert rows[second]["quarantined"] == rows[first]["quarantined"] == 1
    assert rows[second]["left"] == 0

    together = tmp_path / "together"
    extract(small_config(small_videos, together, **PLAIN, heatmap="joints"))
    direct, stored = FeatureStore.open(together), FeatureStore.open(with_pose)
    want = direct.load(arrays=("cls", "keypoints", "boxes", "heatmap_clip"))
    found = stored.load(arrays=("cls", "keypoints", "boxes", "heatmap_clip"), pose=second.partition("/")[2])
    assert want["heatmap_clip"].shape == (6, 1, 4, 64)
    for name in want.tensors:
        np.testing.assert_array_equal(found[name], want[name])
    assert not verify_store(LocalObjects(with_pose)).problems
    # What was computed is not computed again.
    assert extract(config).executed == 0


@pytest.fixture(scope="module")
def two(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two pose groups, the second with heatmaps of the first shard alone, and runs with and without
    pose."""
    folder = tmp_path_factory.mktemp("two")
    config = small_config(small_videos, folder / "store", **PLAIN)
    extract(config)
    train = {"frames": 2, "epochs": 1, "device": "cpu"}
    train_head(folder / "store", head="pvcs", out=folder / "pvcs", **train)
    added = dataclasses.replace(config, heatmap="joints", modalities=("pose",), strict=True)
    assert extract(added, only_shards=[0]).warnings == []  # only what was asked for is new
    train_head(folder / "store", head="vcs", out=folder / "vcs", **train)
    return folder


def test_a_run_without_pose_needs_no_pose_group(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of in whole, with pictures without skeletons; a run with pose is drawn with its own."""
    store, drawn = FeatureStore.open(two / "store"), []
    monkeypatch.setattr("pipeline.inspection.draw_strips", lambda made, out: drawn.append(list(made)))
    last = store.videos["video_id"].to_pylist()[-1]  # of a shard that the second group lacks
    for run, skeletons in (("vcs", False), ("pvcs", True)):
        facts = gather(read_run(two / run), store, examples=2)
        assert facts.examples
        assert facts.notes == ()
        assert len(some_videos(store, 100, run=two / run)) == 2
        inspect_videos(store, [last], tmp_path / "i.png", run=two / run)
        (strip,) = drawn.pop()
        assert (strip.keypoints is not None) == skeletons
    inspect_videos(store, [last], tmp_path / "i.png", run=two / "vcs", pose=read_run(two / "pvcs").selection.pose)
    assert drawn.pop()[0].keypoints is not None


def test_a_run_without_pose_is_reported_where_the_only_poses_are_of_some_videos(
    small_videos: Path, tmp_path: Path
) -> None:
    config = small_config(small_videos, tmp_path / "s", **PLAIN)
    extract(dataclasses.replace(config, modalities=("clip", "text")))
    extract(dataclasses.replace(config, modalities=("pose",)), only_shards=[0])
    run = train_head(tmp_path / "s", head="vcs", frames=2, epochs=1, device="cpu", out=tmp_path / "run")
    assert gather(run, FeatureStore.open(tmp_path / "s"), examples=2).examples


def test_groups_are_told_apart_by_their_settings(two: Path, tmp_path: Path, vilp: Vilp) -> None:
    """Where one has to be named, which is said before anything is done, and in the status."""
    store = FeatureStore.open(two / "store")
    first = read_run(two / "pvcs").selection.pose
    (second,) = {name.removeprefix("pose/") for name in groups(two / "store", "pose")} - {first}
    offered = [f"{first} (heatmap none)", f"{second} (heatmap joints)"]
    for command in (
        ("export", "--store", two / "store", "--out", tmp_path / "out"),
        ("export", "--store", two / "store", "--out", tmp_path / "out", "--pose", "plain"),
        ("inspect", "--store", two / "store", "--random", 1, "--out", tmp_path / "i.png"),
    ):
        error = vilp(*command).error
        assert error.startswith("error: several pose groups fit; choose one with --pose: ")
        assert sorted(error.rpartition(": ")[2].split(", ")) == sorted(offered)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="choose one with --pose: "):
        store.load()
    assert store.load(pose=second).slots.tolist() == [1]  # the other video of its only shard is broken

    lines = vilp("status", "--store", two / "store").out.splitlines()
    told = {line.split()[0]: after for line, after in itertools.pairwise(lines) if line.startswith("  pose/")}
    assert told == {f"pose/{first}": "    heatmap none", f"pose/{second}": "    heatmap joints"}
    rows = json.loads(vilp("status", "--store", two / "store", "--json").out)["groups"]
    settings = {row["path"]: row["settings"] for row in rows}
    assert settings[f"pose/{second}"] == {"heatmap": "joints"}
    assert [words for path, words in settings.items() if not path.startswith("pose/")] == [{}, {}, {}]


def test_poses_that_cannot_be_read_leave_the_store_as_it_is(with_pose: Path, tmp_path: Path) -> None:
    before = set(files(with_pose))
    (tmp_path / "poses.pkl").write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "made").encode() + b"'\ntR.")
    with pytest.raises(UsageError, match=r"poses\.pkl wants os\.mkdir and is not read"):
        extract(
            resolve(
                str(with_pose),
                {"pose": "precomputed", "pose_config": str(tmp_path / "poses.pkl"), "modalities": ["pose"]},
            )
        )
    assert set(files(with_pose)) == before
    assert not (tmp_path / "made").exists()


@pytest.fixture
def some_poses(tmp_path: Path) -> Path:
    """Poses of the small videos, but for one that has none, one with somebody after its end, and one in pixels."""
    keypoints = [0.25, 0.5, 0.75] * 17
    row = {"frame": 0, "person": 0, "keypoints": keypoints, "box": [0.2, 0.4, 0.3, 0.6, 0.9]}
    changes = {
        "wave (left)/b #2;": {"frame": 40},
        "wave (left)/c": {"keypoints": [8.0, 16.0, 0.75] * 17},
        "jump & run/d": {},
        "jump & run/e": {},
        "jump & run/cut": {},
    }
    rows = [{"video_id": video_id, **row, **change} for video_id, change in changes.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "some.parquet")
    return tmp_path / "some.parquet"


UNMATCHED = {
    "wave (left)/a": "no entry of some.parquet has this video_id; its first is 'jump & run/cut'",
    "wave (left)/b #2;": "some.parquet has somebody in frame 40, the video ends with frame 5",
    "wave (left)/c": "100% of the joints in some.parquet lie outside of 0 to 1, the farthest at (8, 16): they are "
    "those of a picture of another size, or of another video",
}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, ("d.onnx", "p.onnx", "a")),
        ({"pose": "onnx", "pose_config": "a"}, ("d.onnx", "p.onnx", "a")),
        ({"pose": "mmpose"}, (None, None, None)),
        ({"pose": "mmpose", "det_weights": "d.pth", "pose_config": "a"}, ("d.pth", None, "a")),
        ({"pose_config": "b"}, (None, None, "b")),
    ],
)
def test_another_estimator_does_not_take_the_weights_of_the_first_run(
    tmp_path: Path, given: dict[str, str], kept: tuple[str | None, ...]
) -> None:
    first = small_config(
        tmp_path,
        tmp_path / "s",
        pose="onnx",
        det_weights="d.onnx",
        pose_weights="p.onnx",
        pose_config="a",
        pose_frames=8,
    )
    stores.build(tmp_path / "s", the_plan=dataclasses.replace(stores.plan(), source=first.recipe()))
    config = resolve(str(tmp_path / "s"), given)
    assert (config.det_weights, config.pose_weights, config.pose_config) == kept


def test_unmatched_videos_are_reported(small_videos: Path, some_poses: Path, tmp_path: Path) -> None:
    """In the summary of the run, in the status of the store, and in its quarantine report; the others are there."""
    store = tmp_path / "store"
    summary = extract(pose_config(small_videos, store, pose="precomputed", pose_config=str(some_poses)))
    assert summary.quarantined == {"not-a-video": 1, "pose-unmatched": 3}
    assert summary.done == 3
    unmatched = {row["video_id"]: row["message"] for row in summary.failures if row["kind"] == "pose-unmatched"}
    assert unmatched == UNMATCHED

    found = store_status(str(store))
    (group,) = [row for row in found["groups"] if row["path"].startswith("pose/")]
    assert (group["committed"], group["quarantined"], group["left"]) == (7, 4, 0)
    rows = [row for row in found["quarantined"] if row["kind"] == "pose-unmatched"]
    assert {row["video_id"]: row["message"] for row in rows} == UNMATCHED
    assert {row["group"] for row in rows} == {group["path"]}

    assert summary.quarantine is not None
    report = pq.read_table(summary.quarantine).to_pylist()
    assert {row["video_id"]: row["message"] for row in report if row["kind"] == "pose-unmatched"} == UNMATCHED
    assert all("--retry-quarantined" in row["retry"] for row in report)

    features = FeatureStore.open(store).load(arrays=("keypoints",))
    assert len(features["keypoints"]) == 3
    np.testing.assert_allclose(features["keypoints"][:, 0, 0, 0], np.tile([0.25, 0.5, 0.75], (3, 1)))


def test_a_video_is_named_alike_by_runs_that_name_the_root_differently(
    small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vilp: Vilp
) -> None:
    """The first by a relative path, the second by the store's recipe."""
    monkeypatch.chdir(small_videos.parent)
    store = tmp_path / "store"
    extract(pose_config(Path(small_videos.name), store, limit=1))
    extract(resolve(str(store), {"pose": "plain_pose:PlainEstimator", "pose_frames": 8, "modalities": ["pose"]}))
    broken = small_videos / "jump & run" / "broken.mp4"
    (line,) = [line for line in vilp("status", "--store", store).out.splitlines() if "  quarantined: " in line]
    assert f"{str(broken)!r} is not a video" in line
    assert "(in 4 groups)" in line


def test_the_report_tries_again_every_group_that_was_added_later(
    small_videos: Path, tmp_path: Path, vilp: Vilp
) -> None:
    """Its commands are all that it takes, once the video is mended."""
    root, store = tmp_path / "videos", tmp_path / "a store"
    shutil.copytree(small_videos, root)
    extract(small_config(root, store, pose="none"))
    summary = extract(resolve(str(store), {**PLAIN, "modalities": ["pose"]}))
    shutil.copyfile(root / "jump & run" / "d.mp4", root / "jump & run" / "broken.mp4")
    assert summary.quarantine is not None
    commands = {row["retry"] for row in pq.read_table(summary.quarantine).to_pylist()}
    told = [line.removeprefix("to try these again: ") for line in summary.next_steps]
    assert set(told) == commands
    assert len(commands) == 2
    shown = vilp("status", "--store", store).out.splitlines()
    assert [line.strip() for line in shown if "to try these again" in line] == summary.next_steps
    for words in map(shlex.split, told):
        assert vilp(*words[1:]).code == 0
    assert store_status(str(store))["quarantined"] == []


def test_unmatched_videos_are_reported_on_the_command_line(
    small_videos: Path, some_poses: Path, tmp_path: Path, vilp: Vilp
) -> None:
    store = tmp_path / "store"
    command = ["extract", "--dataset", "folder", "--root", small_videos, "--store", store, "--engine", "inline"]
    command += ["--modality", "pose", "--frames", 2, "--pose-frames", 4]
    command += ["--pose", "precomputed", "--pose-config", some_poses]
    done = vilp(*command)
    assert done.code == 0, done.err
    table = " ".join(done.err.replace("│", " ").split())  # the console breaks lines where it likes
    assert "not-a-video 1, pose-unmatched 3" in table
    for video_id, message in UNMATCHED.items():
        assert f"{video_id}: {message}" in table
    report = next((store / "_tables/quarantine").iterdir())
    assert f"all that are quarantined: {report}" in done.err
    assert "--retry-quarantined" in done.err

    lines = vilp("status", "--store", store).out.splitlines()
    for video_id, message in UNMATCHED.items():
        assert f"  quarantined: {video_id}: pose-unmatched: {message}" in lines
    found = json.loads(vilp("status", "--store", store, "--json").out)
    rows = [row for row in found["quarantined"] if row["kind"] == "pose-unmatched"]
    assert {row["video_id"]: row["message"] for row in rows} == UNMATCHED

    again = json.loads(vilp(*command, "--json", "--retry-quarantined").out)
    assert again["quarantined"] == {"not-a-video": 1, "pose-unmatched": 3}


def test_frames_of_pose_are_more_and_hold_those_of_clip(with_pose: Path) -> None:
    store = FeatureStore.open(with_pose)
    index = {
        group.modality.record["num_frames"]: store.rows(group, "index", store.usable([group]))
        for group in store.groups.values()
        if group.modality.kind == "frames"
    }
    assert set(index) == {4, 8}
    features = store.load(arrays=("cls", "keypoints"), frames=4, pose="plain")
    assert features.pose_frames is not None
    np.testing.assert_array_equal(index[8][:, features.pose_frames.numpy()], index[4])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="the extra mmpose is not installed")
def test_mmpose_is_added_to_a_store(small_videos: Path, with_pose: Path, tmp_path: Path, vilp: Vilp) -> None:
    """By the command of the docs, in two goes: a new group beside the others, whose files stay as they are, of the same
    frames, and with the numbers of a run in one go."""
    before = files(with_pose)
    models = "rtmdet_nano_320-8xb32_coco-person,rtmpose-t_8xb256-420e_coco-256x192"
    flags = {"pose": "mmpose", "pose_config": models, "det_weights": "none", "pose_weights": "none"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    extract(resolve(str(with_pose), {**flags, "modalities": ["pose"], "device": "cpu"}), only_shards=[0, 2])
    status = {row["path"]: row for row in store_status(str(with_pose))["groups"]}
    (path,) = (path for path in status if path.startswith("pose/mmpose-rtmpose-t"))
    assert (status[path]["committed"], status[path]["left"]) == (4, 3)
    done = vilp("extract", "--store", with_pose, "--modality", "pose", "--device", "cpu", "--json", *options)
    assert done.code == 0, done.err
    assert json.loads(done.out)["executed"] == 3
    rows = vilp("status", "--store", with_pose).out.splitlines()
    counts = {line.split()[0]: line.split()[1:5] for line in rows if line.startswith("  pose/")}
    assert counts[path] == ["7", "1", "1", "0"]  # committed, partial, quarantined, left

    passing = ("_tables/lease", "_tables/heartbeats", "_tables/quarantine", "_tables/configs", "zarr.json")
    added = files(with_pose)
    kept = {name: data for name, data in before.items() if not name.startswith(passing)}
    assert {name: added[name] for name in kept} == kept

    at_once = tmp_path / "at-once"
    extract(small_config(small_videos, at_once, pose_frames=8, device="cpu", **flags))
    want, stored = FeatureStore.open(at_once).load(arrays=("cls", "keypoints", "boxes")), FeatureStore.open(with_pose)
    found = stored.load(arrays=("cls", "keypoints", "boxes"), pose=path.partition("/")[2])
    assert found.video_ids == want.video_ids
    for name in want.tensors:
        np.testing.assert_array_equal(found[name], want[name])
    assert (found["boxes"][..., 4] > 0).any()
    assert not verify_store(LocalObjects(with_pose)).problems


@pytest.mark.slow
def test_people_are_found_in_real_clips(shared: Path, tmp_path: Path) -> None:
    """UCF101 clips: somebody in most frames of most classes; divers and swimmers are missed most often."""
    weights = shared / "weights"
    config = ExtractConfig(
        dataset="ucf101",
        root=str(shared / "data/ucf101-mini"),
        store=str(tmp_path / "store"),
        frames=4,
        pose_frames=4,
        clip="tiny",
        clip_pretrained="none",
        tokens=(),
        engine="inline",
        pose="onnx",
        det_weights=str(weights / "rtmdet_nano_person/end2end.onnx"),
        pose_weights=str(weights / "movenet_lightning/movenet_lightning_int8_dequantized.onnx"),
    )
    extract(config)
    store = FeatureStore.open(tmp_path / "store")
    group = store.group("pose")
    seen = look(store, group, store.usable([group]))
    assert seen.detection_rate > 0.85
    assert np.median(list(seen.by_class.values())) > 0.95
    assert min(seen.by_class.values()) < 0.8
    assert 0.85 < seen.inside["center"] < 0.97  # what the centre crop of a wide frame cuts off is not nothing


def test_heatmaps_without_pose_are_refused() -> None:
    with pytest.raises(UsageError, match="heatmap is 'joints' but no pose is extracted"):
        ExtractConfig(pose="none", heatmap="joints")
    with pytest.raises(UsageError, match="heatmap is 'dots'; allowed: none, joints, limbs"):
        ExtractConfig(heatmap="dots")
