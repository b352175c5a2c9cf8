"""The pose stage: one seam (``base``), its backends, persons followed through a clip (``tracking``), and the stage."""

from stages.pose.base import Persons, PoseConfig, PoseEstimator
from stages.pose.coco import COCO_JOINTS, COCO_LIMBS, COCO_SIGMAS, COCO_SWAP, NUM_JOINTS

__all__ = [
    "COCO_JOINTS",
    "COCO_LIMBS",
    "COCO_SIGMAS",
    "COCO_SWAP",
    "NUM_JOINTS",
    "Persons",
    "PoseConfig",
    "PoseEstimator",
]
