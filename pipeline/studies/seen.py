"""What pose estimators see: in how many frames somebody, how sure they are, how far two of them agree, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.geometry import share_inside
from stages.pose.coco import NUM_JOINTS
from stages.pose.tracking import keypoint_similarity
from store.features import Features
from store.groups import Group
from store.reader import FeatureStore

# Videos over which estimators are compared with each other, evenly spaced over all that they share.
AGREEMENT_VIDEOS = 400


@dataclass(frozen=True)
class Seen:
    """What an estimator sees in the videos that all groups have.

    detection_rate  share of the frames with somebody; ``by_class`` the same for each class that has videos
    persons         a frame, on average
    joints          share of the joints of these persons that have a confidence, and ``confidence`` their mean
    inside          by view: share of those joints that lies inside it
    frame_seconds   what a frame cost, as measured when the group was extracted
    """

    detection_rate: float
    by_class: Mapping[str, float]
    persons: float
    joints: float
    confidence: float
    inside: Mapping[str, float]
    frame_seconds: float


def look(store: FeatureStore, group: Group, slots: Sequence[int], *, clip: str | None = None) -> Seen:
    """What the estimator of a pose group sees in some videos of a store."""
    frames = somebody = persons = joints = confidence = 0.0
    by_class: dict[str, list[float]] = {}
    record = store.group("clip", clip).modality.record
    inside = dict.fromkeys(record["views"], 0.0)
    for features in _poses(store, group, slots):
        keypoints = features["keypoints"].numpy()
        there = features["boxes"].numpy()[..., 4] > 0  # [B, Tp, P]
        known = keypoints[..., 2] > 0
        frames += there[..., 0].size
        somebody += there.any(-1).sum()
        persons += there.sum()
        joints += known.sum()
        confidence += keypoints[..., 2].sum()
        for label, rate in zip(features.labels.tolist(), there.any(-1).mean(1).tolist(), strict=True):
            by_class.setdefault(store.class_names[label], []).append(rate)
        for view in inside if known.any() else ():
            share = share_inside(keypoints, view, features.sizes.numpy(), int(record["preprocess"]["size"]))
            inside[view] += share * known.sum()
    seconds = sum(store.commits(group).of(np.asarray(slots, np.int64), "stage_seconds")["stage_seconds"].to_pylist())
    return Seen(
        detection_rate=float(somebody / max(frames, 1)),
        by_class={name: float(np.mean(rates)) for name, rates in sorted(by_class.items())},
        persons=float(persons / max(frames, 1)),
        joints=float(joints / max(persons * NUM_JOINTS, 1)),
        confidence=float(confidence / max(joints, 1)),
        inside={view: float(count / max(joints, 1)) for view, count in inside.items()},
        frame_seconds=float(seconds / max(frames, 1)),
    )


def compare(store: FeatureStore, first: Group, second: Group, slots: Sequence[int]) -> float:
    """How far two pose groups agree: ``agreement`` over the frames of both, of evenly spaced videos."""
    chosen = [slots[place] for place in np.unique(np.linspace(0, len(slots) - 1, AGREEMENT_VIDEOS).astype(int))]
    scores: list[np.ndarray] = []
    for a, b in zip(_poses(store, first, chosen), _poses(store, second, chosen), strict=True):
        step = np.gcd(a["keypoints"].shape[1], b["keypoints"].shape[1])  # frames that are on both axes
        left, right = (features["keypoints"][:, :: features["keypoints"].shape[1] // step] for features in (a, b))
        sizes = a.sizes.numpy()[:, None, None, None]
        pixels = [np.concatenate((k[..., :2].numpy() * sizes, k[..., 2:].numpy()), axis=-1) for k in (left, right)]
        scores.append(agreement(*pixels).ravel())
    values = np.concatenate(scores)
    return float(np.nanmean(values)) if np.isfinite(values).any() else 1.0


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far two estimators agree on frames: [...] in 0..1, NaN where both see nobody.

    first, second  [..., P, 17, 3]: x, y in pixels, confidence (a person whose joints all have none is nobody)

    Persons are paired one to one, most similar first, by the object keypoint similarity of the COCO evaluation over the
    joints that both see, with the mean area of the two; a person without a partner counts as 0.
    """
    there = [np.any(persons[..., 2] > 0, axis=-1) for persons in (first, second)]
    area = (_area(first)[..., :, None] + _area(second)[..., None, :]) / 2
    similarity = keypoint_similarity(first, second, area)
    similarity = np.where(there[0][..., :, None] & there[1][..., None, :], similarity, 0.0)
    total = np.zeros(first.shape[:-3])
    for _ in range(first.shape[-3]):
        flat = similarity.reshape(*total.shape, -1)
        best = flat.argmax(-1)
        total += np.take_along_axis(flat, best[..., None], -1)[..., 0]
        row, column = np.divmod(best, second.shape[-3])
        np.put_along_axis(similarity, row[..., None, None], 0.0, axis=-2)
        np.put_along_axis(similarity, column[..., None, None], 0.0, axis=-1)
    count = np.maximum(there[0].sum(-1), there[1].sum(-1))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _area(persons: np.ndarray) -> np.ndarray:
    """Area of the box around the seen joints of persons [..., 17, 3]: [...]."""
    seen = persons[..., 2:] > 0
    low = np.where(seen, persons[..., :2], np.inf).min(-2)
    high = np.where(seen, persons[..., :2], -np.inf).max(-2)
    return np.where(np.any(seen, axis=(-2, -1)), np.maximum(high - low, 0).prod(-1), 0.0)


def _poses(store: FeatureStore, group: Group, slots: Sequence[int]) -> list[Features]:
    arrays = ("keypoints", "boxes")
    return list(store.iter_shards(arrays=arrays, slots=list(slots), pose=group.modality.id))
