"""Somebody's pose in the order of every skeleton, and files of it as other tools write them.

The tables are typed out from the documents of these tools, and share nothing with those of ``stages.pose``;
``tests/stages/test_pose_formats.py`` holds them against mmpose's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stages.pose import PoseConfig
from stages.pose.precomputed import PrecomputedEstimator
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
# OpenPose, src/openpose/pose/poseParameters.cpp: POSE_BODY_25_BODY_PARTS and POSE_COCO_BODY_PARTS.
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
# AlphaPose, docs/output.md, and the README of Halpe-FullBody: 26 body keypoints.
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


def openpose(root: Path, values: list[float], *, frame: int = 2, frames: int = 6) -> Path:
    for number in range(frames):
        people = [{"person_id": [-1], "pose_keypoints_2d": values, "face_keypoints_2d": []}] * (number == frame)
        root.mkdir(exist_ok=True)
        (root / f"v_{number:012d}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    return root


def failure(path: Path, video: Clip) -> VideoFailure:
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(path)))
    estimator.setup()
    (found,) = estimator([video])
    assert isinstance(found, VideoFailure)
    assert found.kind == "pose-unmatched"
    return found
