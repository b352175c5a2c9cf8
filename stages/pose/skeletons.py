"""Skeletons of other tools as COCO's seventeen joints."""

from __future__ import annotations

import numpy as np

from stages.pose.coco import COCO_JOINTS, NUM_JOINTS
from store.errors import UsageError

_RIGHT_ARM = ("right_shoulder", "right_elbow", "right_wrist")
_LEFT_ARM = ("left_shoulder", "left_elbow", "left_wrist")
_RIGHT_LEG = ("right_hip", "right_knee", "right_ankle")
_LEFT_LEG = ("left_hip", "left_knee", "left_ankle")
_FACE = ("right_eye", "left_eye", "right_ear", "left_ear")

# OpenPose's two models of the body, in its order; their necks and hip centres have no counterpart in COCO.
OPENPOSE_18 = ("nose", "neck", *_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG, *_FACE)
_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))
BODY_25 = ("nose", "neck", *_RIGHT_ARM, *_LEFT_ARM, "mid_hip", *_RIGHT_LEG, *_LEFT_LEG, *_FACE, *_FEET)

# By number of joints. Halpe (26 and 136, AlphaPose) and COCO-WholeBody (133) begin with COCO's seventeen.
SKELETONS = {
    17: COCO_JOINTS,
    18: OPENPOSE_18,
    25: BODY_25,
    26: COCO_JOINTS,
    133: COCO_JOINTS,
    136: COCO_JOINTS,
}


def to_coco(keypoints: np.ndarray, *, allowed: tuple[int, ...], what: str) -> np.ndarray:
    """Keypoints [..., V, 3] (x, y, confidence) of a skeleton known by its number of joints V as [..., 17, 3].

    COCO joints that the skeleton lacks, and joints that are not finite, are zero: not seen. Confidence is held in 0..1.
    Raises ``UsageError``, naming ``what``, for a V that is not in ``allowed``.
    """
    count = keypoints.shape[-2]
    if count not in allowed:
        raise UsageError(f"{what} has {count} joints a person; allowed: {', '.join(map(str, allowed))}")
    names = SKELETONS[count]
    result = np.zeros((*keypoints.shape[:-2], NUM_JOINTS, 3))
    for joint, name in enumerate(COCO_JOINTS):
        if name in names:
            result[..., joint, :] = keypoints[..., names.index(name), :]
    seen = np.isfinite(result).all(-1) & (result[..., 2] > 0)
    result[~seen] = 0
    result[..., 2] = result[..., 2].clip(0, 1)
    return result


def boxes_of(keypoints: np.ndarray) -> np.ndarray:
    """Boxes [M, 5] around the joints that are seen of persons [M, 17, 3]; the score is their mean confidence."""
    seen = keypoints[..., 2] > 0
    low = np.where(seen[..., None], keypoints[..., :2], np.inf).min(1, initial=np.inf)
    high = np.where(seen[..., None], keypoints[..., :2], -np.inf).max(1, initial=-np.inf)
    score = keypoints[..., 2].sum(1) / np.maximum(seen.sum(1), 1)
    boxes = np.column_stack((low, high, score))
    return np.where(np.any(seen, axis=1, keepdims=True), boxes, 0.0)
