"""Files of poses written by hand from the formats' documents: every joint arrives at its own place, left is left."""

from __future__ import annotations

import importlib.util
import json
import pickle
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pose_files import (
    BODY_25,
    BOX,
    COCO,
    COCO_18,
    ELSEWHERE,
    HALPE_26,
    HEIGHT,
    POSE,
    WIDTH,
    clip,
    failure,
    flat,
    full_name,
    openpose,
)

from stages.pose import PoseConfig
from stages.pose.imports import open_source
from stages.pose.stage import PoseStage


def assert_pose_in_frame(path: Path, frame: int = 1) -> np.ndarray:
    """The pose is alone, in one of the three frames, and the arrays hold it in fractions; the boxes of that person."""
    stage = PoseStage(PoseConfig(backend="precomputed", config=str(path), num_frames=3, max_persons=2))
    stage.setup()
    output = stage([clip()])
    assert not output.failures
    keypoints = output.arrays["keypoints"][0]
    want = np.array([POSE[name] for name in COCO]) / (WIDTH, HEIGHT, 1)
    np.testing.assert_allclose(keypoints[frame, 0], want, atol=2e-3)
    assert np.count_nonzero(keypoints[frame, 0, COCO.index("right_wrist")]) == 0
    keypoints[frame, 0] = 0
    assert not keypoints.any()
    boxes: np.ndarray = output.arrays["boxes"][0, frame, 0]
    return boxes


def joints_of_mmpose(dataset: str) -> list[str]:
    """Names of joints, in order, of a dataset that the installed mmpose describes."""
    spec = importlib.util.find_spec("mmpose")
    if spec is None or spec.origin is None:
        pytest.skip("the extra mmpose is not installed")
    file = Path(spec.origin).parent / f".mim/configs/_base_/datasets/{dataset}.py"
    joints = runpy.run_path(str(file))["dataset_info"]["keypoint_info"]
    return [joints[number]["name"] for number in range(len(joints))]


def plain(names: list[str]) -> list[str]:
    """The same way of writing for every table: ``LBigToe`` and ``left_big_toe`` are ``leftbigtoe``."""
    return [full_name(name).replace("_", "") for name in names]


def test_the_tables_are_those_of_mmpose() -> None:
    assert joints_of_mmpose("coco") == COCO
    assert plain(COCO_18) == plain(joints_of_mmpose("coco_openpose"))
    assert plain(HALPE_26) == plain(joints_of_mmpose("halpe26"))
    for longer in ("halpe26", "halpe", "coco_wholebody"):
        assert joints_of_mmpose(longer)[:17] == COCO
    assert plain(joints_of_mmpose("halpe")[:26]) == plain(HALPE_26)
    # mmpose has no BODY_25; it is COCO-18 with the middle of the hips between wrists and hips, and then the feet.
    body, feet = joints_of_mmpose("coco_openpose"), joints_of_mmpose("coco_wholebody_openpose")[18:24]
    assert plain(BODY_25) == plain([*body[:8], "mid_hip", *body[8:], *feet])


# mmaction2: tools/data/skeleton/README.md


@pytest.mark.parametrize("skeleton", ["coco", "coco_openpose", "halpe26", "coco_wholebody", "halpe"])
def test_mmaction_dense(tmp_path: Path, skeleton: str) -> None:
    """keypoint [M, T, V, 2] in pixels of img_shape (height, width), here twice the video's; keypoint_score apart."""
    joints = np.array([POSE.get(name, ELSEWHERE) for name in joints_of_mmpose(skeleton)])
    keypoint, score = np.zeros((2, 6, len(joints), 2), np.float16), np.zeros((2, 6, len(joints)), np.float16)
    keypoint[1, 2] = 2 * joints[:, :2]
    score[1, 2] = joints[:, 2]
    entry = {"frame_dir": "v", "label": 3, "img_shape": (480, 640), "original_shape": (480, 640), "total_frames": 6}
    entry |= {"keypoint": keypoint, "keypoint_score": score}
    path = tmp_path / "hmdb51_2d.pkl"
    path.write_bytes(pickle.dumps({"split": {"train1": ["v"]}, "annotations": [entry]}))
    assert_pose_in_frame(path)


def test_mmaction_rows(tmp_path: Path) -> None:
    """Kinetics: keypoint [n, V, 3], a row a person and frame, frames from 1; another video shows the counting."""
    person = np.array([[POSE[name] for name in COCO]], np.float16)
    entry = {"frame_dir": "v", "img_shape": (240, 320), "original_shape": (240, 320), "total_frames": 6, "label": 0}
    entry |= {"frame_inds": np.array([3]), "box_score": np.array([0.75], np.float16), "keypoint": person}
    last = {**entry, "frame_dir": "w", "frame_inds": np.array([6])}
    path = tmp_path / "k400_2d.pkl"
    path.write_bytes(pickle.dumps({"split": {"train": ["v", "w"]}, "annotations": [entry, last]}))
    assert assert_pose_in_frame(path)[4] == 0.75


# OpenPose: doc/02_output.md


@pytest.mark.parametrize("names", [BODY_25, COCO_18], ids=["BODY_25", "COCO-18"])
@pytest.mark.parametrize("scale", [(1, 1), (1 / WIDTH, 1 / HEIGHT)], ids=["pixels", "fractions"])
def test_openpose(tmp_path: Path, names: list[str], scale: tuple[float, float]) -> None:
    assert_pose_in_frame(openpose(tmp_path / "poses", flat(names, scale)))


# AlphaPose: docs/output.md


@pytest.mark.parametrize("skeleton", ["coco", "halpe26", "coco_wholebody", "halpe"])
def test_alphapose(tmp_path: Path, skeleton: str) -> None:
    """Frames of a video count from 0; "box" is x, y, width, height; "score" is no probability."""
    values = [v for name in joints_of_mmpose(skeleton) for v in POSE.get(name, ELSEWHERE)]
    row = {"image_id": "2.jpg", "category_id": 1, "keypoints": values, "score": 2.9, "idx": [1]}
    row["box"] = [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]
    path = tmp_path / "v" / "alphapose-results.json"
    path.parent.mkdir()
    path.write_text(json.dumps([row]))
    box = assert_pose_in_frame(path)
    np.testing.assert_allclose(box[:4], np.array(BOX) / (WIDTH, HEIGHT, WIDTH, HEIGHT), rtol=1e-6)
    assert 0 < box[4] <= 1


# COCO: cocodataset.org, "Results Format", keypoint detection


def test_coco_results(tmp_path: Path) -> None:
    """image_id stands in the list of images beside, whose files are numbered from 0; pixels of 640 x 480."""
    images = [{"id": 70 + n, "file_name": f"v/{n:06d}.jpg", "width": 640, "height": 480} for n in range(6)]
    values = [v for name in COCO for v in (2 * POSE[name][0], 2 * POSE[name][1], POSE[name][2])]
    row = {"image_id": 72, "category_id": 1, "keypoints": values, "score": 0.8}
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses/images.json").write_text(json.dumps({"images": images}))
    (tmp_path / "poses/results.json").write_text(json.dumps([row]))
    assert_pose_in_frame(tmp_path / "poses")


# Our own Parquet, as docs/pose.md has it


def test_parquet(tmp_path: Path) -> None:
    values = [v for name in COCO for v in (POSE[name][0] / WIDTH, POSE[name][1] / HEIGHT, POSE[name][2])]
    box = [BOX[0] / WIDTH, BOX[1] / HEIGHT, BOX[2] / WIDTH, BOX[3] / HEIGHT, 0.5]
    row = {"video_id": "v", "frame": 2, "person": 0, "keypoints": values, "box": box}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "poses.parquet")
    np.testing.assert_allclose(assert_pose_in_frame(tmp_path / "poses.parquet"), box, rtol=1e-6)


# ViLP's heatmaps: <video>/img_<number from 1>.npy, one array [h, w] a frame


def test_heatmap_files(tmp_path: Path) -> None:
    folder = tmp_path / "maps" / "v"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        values = np.zeros((46, 82), np.float32)
        values[number, 2 * number] = 1  # down and to the right: turned over, it would show
        np.save(folder / f"img_{number:05d}.npy", values)
    source = open_source(str(tmp_path / "maps"))
    source.open()
    found = source.read("v")
    assert found.covered.tolist() == [0, 1, 2, 3, 4, 5]
    for frame in range(6):
        assert np.argwhere(found.load(frame)).tolist() == [[frame + 1, 2 * frame + 2]]


def test_poses_of_another_video_are_not_taken(tmp_path: Path) -> None:
    poses = openpose(tmp_path / "poses", flat(BODY_25))
    assert "no entry of poses" in failure(poses, clip("w")).message
    assert "have no entry in poses" in failure(poses, clip(decodable=60)).message
    assert "goes on to frame 5" in failure(poses, clip(decodable=3)).message
