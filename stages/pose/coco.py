"""The 17 joints of COCO keypoints: their order, limbs, sides and spreads."""

from __future__ import annotations

COCO_JOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

# Pairs of joints to draw a limb between: legs, trunk, arms, head.
COCO_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12)),
    *((11, 12), (5, 11), (6, 12), (5, 6)),
    *((5, 7), (7, 9), (6, 8), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)

# ``keypoints[..., COCO_SWAP, :]`` exchanges left and right: together with x -> 1 - x it mirrors a person.
COCO_SWAP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

# Standard deviation of each joint's annotation as a fraction of the person's scale (COCO keypoint evaluation): k_i.
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)

NUM_JOINTS = len(COCO_JOINTS)
