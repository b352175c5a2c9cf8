"""Persons followed through a clip, so that slot p of the stored arrays is one person.

Frames are visited in order. Every track predicts where its person is now (constant velocity of the box centre, damped
over gaps), and tracks and persons are paired greedily, most similar first. The similarity is the distance-IoU of the
boxes (Zheng et al., arXiv 1911.08287), which still tells near from far when sampled frames lie so far apart that boxes
no longer overlap, plus the object keypoint similarity (COCO), which tells apart persons whose boxes cross. A person
who matches no track starts one; a track without a match for ``MAX_GAP`` frames is closed.

Slots are the tracks in order of prominence: the sum over frames of detection score times the square root of the box
area. Size counts linearly, so that a passer-by close to the camera does not outrank who is there all the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.pose.base import Persons
from stages.pose.coco import COCO_SIGMAS, NUM_JOINTS

MIN_DIOU = -0.25  # equal boxes, side by side: 1.2 widths apart (2 widths: -0.4)
MAX_AREA_RATIO = 4.0
MAX_GAP = 12
VELOCITY_DECAY = 0.7  # a frame without a match

_SPREAD = (2 * np.array(COCO_SIGMAS)) ** 2

TRACKING = {
    "similarity": "diou+oks",
    "min_diou": MIN_DIOU,
    "max_area_ratio": MAX_AREA_RATIO,
    "max_gap": MAX_GAP,
    "velocity_decay": VELOCITY_DECAY,
    "slot_order": "sum(score*sqrt(area))",
}


def assign_slots(frames: Sequence[Persons], max_persons: int) -> np.ndarray:
    """Which person of each frame fills which slot.

    ``frames`` holds the persons of T frames; returns int64 [T, P] with P = ``max_persons``: an index into the persons
    of the frame, -1 for nobody. Slots are filled from 0, most prominent track first. The order of persons within a
    frame changes nothing (but for exact duplicates, which are interchangeable). Coordinates must be finite. Where the
    estimator followed the persons itself (``ids`` wherever there is somebody), its identities stand.
    """
    followed = all(persons.ids is not None for persons in frames if len(persons))
    members, prominence = _given(frames) if followed else _associated(frames)
    # The sort is stable, and tracks are in order of birth (or of identity): the earlier one wins a tie.
    best = np.argsort(-prominence, kind="stable")[:max_persons]
    slots = np.full((len(frames), max_persons), -1, dtype=np.int64)
    slots[:, : len(best)] = members[best].T
    return slots


def box_similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance-IoU and the ratio of areas (>= 1) of boxes [M, 4] and [N, 4] in pixels: both [M, N]."""
    a, b = a[:, None], b[None]
    inner = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clip(1e-6).prod(-1) for box in (a, b))
    outer = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    diou = inner / (area_a + area_b - inner) - (distance**2).sum(-1) / (outer**2).sum(-1).clip(1e-6)
    return diou, np.maximum(area_a / area_b, area_b / area_a)


def keypoint_similarity(a: np.ndarray, b: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Object keypoint similarity of persons [..., M, 17, 3] and [..., N, 17, 3], [..., M, N], over the joints that both
    have.

    OKS = mean_i exp(-d_i^2 / (2 area (2 sigma_i)^2)) as in the COCO keypoint evaluation; ``area`` (pixels squared)
    broadcasts to [..., M, N]. Pairs without a common joint have similarity 0.
    """
    a, b = a[..., :, None, :, :], b[..., None, :, :, :]
    seen = (a[..., 2] > 0) & (b[..., 2] > 0)
    squared = ((a[..., :2] - b[..., :2]) ** 2).sum(-1)
    spread = 2 * np.asarray(area)[..., None] * _SPREAD
    similarity = np.exp(-squared / np.maximum(spread, 1e-6))
    return (similarity * seen).sum(-1) / np.maximum(seen.sum(-1), 1)


def _given(frames: Sequence[Persons]) -> tuple[np.ndarray, np.ndarray]:
    """Persons [K, T] and prominence [K] of the tracks that the estimator's identities make."""
    ids = [np.empty(0, np.int64) if persons.ids is None else persons.ids for persons in frames]
    known = np.unique(np.concatenate([np.empty(0, np.int64), *ids]))
    members, prominence = np.full((len(known), len(frames)), -1), np.zeros(len(known))
    for time, persons in enumerate(frames):
        tracks = np.searchsorted(known, ids[time])
        members[tracks, time] = np.arange(len(tracks))
        prominence[tracks] += _prominence(persons.boxes)
    return members, prominence


def _associated(frames: Sequence[Persons]) -> tuple[np.ndarray, np.ndarray]:
    """Persons [K, T] and prominence [K] of the tracks that association makes."""
    tracks = _Tracks(len(frames))
    for time, persons in enumerate(frames):
        flat = np.concatenate([persons.keypoints.reshape(len(persons), NUM_JOINTS * 3), persons.boxes], axis=1)
        order = np.lexsort(flat.T)
        tracks.step(time, order, persons.boxes[order].astype(float), persons.keypoints[order].astype(float))
    return tracks.members, tracks.prominence


class _Tracks:
    """All K tracks of a clip so far, one row each."""

    def __init__(self, num_frames: int) -> None:
        self.members = np.full((0, num_frames), -1)  # persons of the frames
        self.prominence = np.zeros(0)
        self.seen = np.zeros(0, np.int64)  # frames with a match
        self.last = np.zeros(0, np.int64)  # the last of them, and what was there:
        self.box = np.zeros((0, 4))
        self.keypoints = np.zeros((0, NUM_JOINTS, 3))
        self.velocity = np.zeros((0, 2))  # pixels a frame
        self.offset = np.zeros((0, 2))  # where the next frame is expected, relative to what was there

    def step(self, time: int, order: np.ndarray, boxes: np.ndarray, keypoints: np.ndarray) -> None:
        """One frame: ``boxes`` [M, 5] and ``keypoints`` [M, 17, 3] of the persons ``order`` [M] of the frame."""
        candidates = np.flatnonzero(time - self.last <= MAX_GAP)
        rows, columns = _pairs(self._similarity(candidates, boxes, keypoints))
        matched = candidates[rows]
        lost, new = np.delete(candidates, rows), np.delete(np.arange(len(order)), columns)

        moved = _centre(boxes[columns]) - _centre(self.box[matched])
        measured = moved / (time - self.last[matched])[:, None]
        # Half old, half new: detections jitter. The first step has no old velocity.
        first = (self.seen[matched] == 1)[:, None]
        self.velocity[matched] = np.where(first, measured, (self.velocity[matched] + measured) / 2)
        self.offset[matched] = self.velocity[matched]
        self.velocity[lost] *= VELOCITY_DECAY
        self.offset[lost] += self.velocity[lost]

        born = np.arange(len(self.last), len(self.last) + len(new))
        self._grow(len(new))
        tracks, persons = np.concatenate([matched, born]), np.concatenate([columns, new])
        self.members[tracks, time] = order[persons]
        self.prominence[tracks] += _prominence(boxes[persons])
        self.seen[tracks] += 1
        self.last[tracks] = time
        self.box[tracks], self.keypoints[tracks] = boxes[persons, :4], keypoints[persons]

    def _similarity(self, tracks: np.ndarray, boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """[K, M], minus infinity for pairs that cannot be."""
        offset = self.offset[tracks]
        expected = self.keypoints[tracks]
        expected[..., :2] += offset[:, None]
        diou, ratio = box_similarity(self.box[tracks] + np.tile(offset, 2), boxes[:, :4])
        area = (boxes[:, 2:4] - boxes[:, :2]).clip(0).prod(-1)
        similarity = diou + keypoint_similarity(expected, keypoints, area)
        similarity[(diou < MIN_DIOU) | (ratio > MAX_AREA_RATIO)] = -np.inf
        return similarity

    def _grow(self, count: int) -> None:
        for name, values in vars(self).items() if count else ():
            fill = -1 if name == "members" else 0
            setattr(self, name, np.concatenate([values, np.full((count, *values.shape[1:]), fill, values.dtype)]))


def _pairs(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greedy one-to-one pairs of rows and columns, most similar first; ties go to the lower row, then column."""
    flat = similarity.ravel()
    chosen: dict[int, int] = {}
    for index in np.argsort(-flat, kind="stable")[: np.isfinite(flat).sum()].tolist():
        row, column = divmod(index, similarity.shape[1])
        if row not in chosen and column not in chosen.values():
            chosen[row] = column
    return np.array([*chosen], dtype=np.int64), np.array([*chosen.values()], dtype=np.int64)


def _centre(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:4]) / 2


def _prominence(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 4] * np.sqrt((boxes[:, 2:4] - boxes[:, :2]).clip(0).prod(-1))
