"""A pose estimator for tests that needs no weights and no torch: one person a frame, a function of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.pose.base import Persons, PoseConfig
from stages.pose.coco import NUM_JOINTS
from stages.types import Clip


class PlainEstimator:
    name = "plain"

    def __init__(self, config: PoseConfig) -> None:
        self.config = config

    def record(self) -> dict[str, Any]:
        return {"estimator": "plain"}

    def setup(self) -> None:
        pass

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons]]:
        return [[self._person(frame) for frame in clip.video.frames] for clip in clips]

    def _person(self, frame: np.ndarray) -> Persons:
        height, width = frame.shape[:2]
        keypoints = np.ones((1, NUM_JOINTS, 3), np.float32)
        keypoints[0, :, 0] = np.resize(frame[0, :, 0], NUM_JOINTS) / 255 * width
        keypoints[0, :, 1] = np.resize(frame[-1, :, 1], NUM_JOINTS) / 255 * height
        return Persons(keypoints, np.array([[0, 0, width, height, 1]], np.float32))
