"""What can be said of the persons in a video from its stored poses alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipeline.head.selection import Selection
from pipeline.head.skeleton import skeletons
from stages.pose.coco import NUM_JOINTS
from store.reader import FeatureStore

# A joint counts as visible from this confidence on.
VISIBLE = 0.3


class Measures(NamedTuple):
    """One number a video, float64 [N] each, in slot order.

    detected   share of the stored pose frames in which anybody is found
    visible    share of the joints of the person seen best that are visible, in the frames where they are found; 0 where
               nobody ever is
    motion     mean distance that a joint of that person moves between stored pose frames, in units of their size
    variation  how much their posture changes: standard deviation over time of the joints about the middle, in the same
               units
    """

    detected: np.ndarray
    visible: np.ndarray
    motion: np.ndarray
    variation: np.ndarray

    def rows(self, index: np.ndarray) -> Measures:
        return Measures(*(values[index] for values in self))


def measure(store: FeatureStore, selection: Selection, slots: list[int]) -> Measures:
    """The measures of the videos in ``slots``, ascending."""
    parts = [
        measure_keypoints(features["keypoints"], features.sizes[:, 0] / features.sizes[:, 1])
        for features in store.iter_shards(arrays=("keypoints",), slots=slots, pose=selection.pose)
    ]
    return Measures(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def measure_keypoints(keypoints: Tensor, aspect: Tensor) -> Measures:
    """The measures of keypoints [B, Tp, P, 17, 3] in fractions of frames whose width / height is ``aspect`` [B]."""
    confidence = keypoints[..., 2]
    detected = (confidence > 0).any(dim=-1).any(dim=-1).float().mean(dim=1)
    # All steps of the person seen best, first in a skeleton's order.
    person = skeletons(keypoints, aspect, steps=keypoints.shape[1], persons=1)[:, :, 0]
    sizes = (2 * NUM_JOINTS, NUM_JOINTS, 2 * NUM_JOINTS, 2, 2, 1)
    posture, seen, moved, _, walked, present = person.split(sizes, dim=-1)
    there = present[..., 0] > 0
    frames = there.sum(dim=1).clamp(min=1)
    visible = ((seen > VISIBLE).float().mean(dim=-1) * there).sum(dim=1) / frames
    joints = moved.unflatten(-1, (NUM_JOINTS, 2)) + walked.unsqueeze(-2)
    counted = (seen > 0) & (seen.roll(1, dims=1) > 0)
    counted[:, 0] = False
    motion = (joints.norm(dim=-1) * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
    mean = posture.sum(dim=1, keepdim=True) / frames[:, None, None]
    spread = ((posture - mean).square().sum(dim=-1) / NUM_JOINTS * there).sum(dim=1) / frames
    return Measures(*(x.double().numpy() for x in (detected, visible, motion, spread.sqrt())))


def class_medians(values: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Median of ``values`` [N] in each class, float64 [C]; NaN for a class without a video."""
    found = np.full(classes, np.nan)
    for label in np.unique(labels):
        found[label] = np.median(values[labels == label])
    return found


def class_means(values: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean of ``values`` [N] in each class, float64 [C]; NaN for a class without a video."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=values, minlength=classes)
    return np.divide(sums, counts, out=np.full(classes, np.nan), where=counts > 0)


def terciles(values: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for the lower, middle and upper third of ``values`` [N]; -1 where a value is NaN."""
    third = np.full(len(values), -1)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    third[order] = np.arange(len(order)) * 3 // max(1, len(order))
    return third
