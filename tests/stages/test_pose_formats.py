"""Files of poses written by hand from the formats' documentation: every joint arrives at its own place, left is left.

The tables here are typed out from the documentation, and share nothing with those of ``stages.pose``.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.pose import PoseConfig
from stages.pose.imports import open_source
from stages.pose.precomputed import PrecomputedEstimator
from stages.pose.stage import PoseStage
from stages.types import Clip, DecodedVideo, VideoFailure, VideoRef

WIDTH, HEIGHT = 320, 240


def table(names: str) -> list[str]:
    """Names of joints in the order of a skeleton."""
    return names.split()


# COCO's person_keypoints annotations, "keypoints" of category 1.
COCO = table(
    """
nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle
"""
)
# OpenPose, doc/02_output.md, "Pose Output Format (BODY_25)" and "(COCO)".
BODY_25 = table(
    """
Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle REye
LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel
"""
)
COCO_18 = table(
    """
Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle REye LEye
REar LEar
"""
)
# AlphaPose, docs/output.md: Halpe 26 keypoints.
HALPE_26 = table(
    """
Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee RKnee LAnkle
RAnkle Head Neck Hip LBigToe RBigToe LSmallToe RSmallToe LHeel RHeel
"""
)

# Somebody who stands askew, in pixels of 320 x 240: no joint mirrors another, and every confidence is its own.
POSE: dict[str, tuple[float, float, float]] = {
    "nose": (150, 40, 0.99),
    "left_eye": (156, 35, 0.93),
    "right_eye": (145, 36, 0.91),
    "left_ear": (163, 39, 0.71),
    "right_ear": (139, 41, 0.69),
    "left_shoulder": (180, 70, 0.97),
    "right_shoulder": (120, 78, 0.95),
    "left_elbow": (214, 52, 0.83),
    "right_elbow": (104, 112, 0.81),
    "left_wrist": (236, 20, 0.77),
    "right_wrist": (0, 0, 0),  # not seen
    "left_hip": (170, 138, 0.89),
    "right_hip": (132, 141, 0.87),
    "left_knee": (190, 176, 0.65),
    "right_knee": (126, 186, 0.63),
    "left_ankle": (228, 190, 0.59),
    "right_ankle": (118, 230, 0.57),
}
# What COCO does not know lies far off: taken for a joint, it would show.
ELSEWHERE = (5.0, 5.0, 0.5)
BOX = (100, 10, 240, 236)  # x1, y1, x2, y2


def clip(video_id: str = "v", *, decodable: int = 6) -> Clip:
    """Three frames, 0, 2 and 4 of six, stored half as large as the source."""
    indices = (np.arange(3) * decodable // 3).astype(np.int32)
    pictures = np.zeros((3, HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    video = DecodedVideo(pictures, indices, indices / 25, decodable, decodable, 25.0, WIDTH, HEIGHT)
    return Clip(VideoRef(0, video_id, video_id), video)


def full_name(short: str) -> str:
    side = {"L": "left_", "R": "right_"}.get(short[0] if short[1].isupper() else "", "")
    return (side + short[1:] if side else short).lower()


def flat(names: list[str], scale: tuple[float, float] = (1, 1)) -> list[float]:
    """x, y, confidence of the pose in the order of a skeleton, as JSON has them."""
    joints = [POSE.get(full_name(name), ELSEWHERE) for name in names]
    return [value for x, y, c in joints for value in (x * scale[0], y * scale[1], c)]


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


def failure(path: Path, video: Clip) -> VideoFailure:
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(path)))
    estimator.setup()
    (found,) = estimator([video])
    assert isinstance(found, VideoFailure)
    assert found.kind == "pose-unmatched"
    return found


def test_the_tables_are_those_of_the_documents() -> None:
    assert [len(names) for names in (COCO, BODY_25, COCO_18, HALPE_26)] == [17, 25, 18, 26]
    for names in (BODY_25, COCO_18, HALPE_26):
        assert set(COCO) <= {full_name(name) for name in names}


# mmaction2: tools/data/skeleton/README.md


def test_mmaction_dense(tmp_path: Path) -> None:
    """keypoint [M, T, V, 2] in pixels of img_shape (height, width), here twice the video's; keypoint_score apart."""
    keypoint, score = np.zeros((2, 6, 17, 2), np.float16), np.zeros((2, 6, 17), np.float16)
    keypoint[1, 2] = [(2 * POSE[name][0], 2 * POSE[name][1]) for name in COCO]
    score[1, 2] = [POSE[name][2] for name in COCO]
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


def openpose(root: Path, values: list[float], *, frame: int = 2, frames: int = 6) -> Path:
    for number in range(frames):
        people = [{"person_id": [-1], "pose_keypoints_2d": values, "face_keypoints_2d": []}] * (number == frame)
        root.mkdir(exist_ok=True)
        (root / f"v_{number:012d}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    return root


@pytest.mark.parametrize("names", [BODY_25, COCO_18], ids=["BODY_25", "COCO-18"])
@pytest.mark.parametrize("scale", [(1, 1), (1 / WIDTH, 1 / HEIGHT)], ids=["pixels", "fractions"])
def test_openpose(tmp_path: Path, names: list[str], scale: tuple[float, float]) -> None:
    assert_pose_in_frame(openpose(tmp_path / "poses", flat(names, scale)))


# AlphaPose: docs/output.md


@pytest.mark.parametrize("names", [COCO, HALPE_26], ids=["COCO", "Halpe"])
def test_alphapose(tmp_path: Path, names: list[str]) -> None:
    """Frames of a video count from 0; "box" is x, y, width, height; "score" is no probability."""
    values = [v for n in names for v in POSE.get(n, ())] if names is COCO else flat(names)
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
