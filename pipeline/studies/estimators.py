"""Which pose estimator? The same head trained with every pose group of a store, and what the estimators see.

The paper that pose-guided weighting comes from used one estimator and left open how others would do. For every pose
group: accuracy of the head on the same test videos with its interval, and its difference from the first group, paired
by video; in how many frames the estimator finds somebody, also by class; how sure it is; how much of what it finds lies
inside each view; how many seconds a frame cost. And for every two groups how far they agree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.geometry import share_inside
from stages.pose.base import NUM_JOINTS
from stages.pose.tracking import SPREAD
from store.errors import MissingError, UsageError
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


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of the head on the test videos that all groups have, seeds and splits averaged, with the 95% interval of
    a bootstrap over source groups; and the difference from the first group, paired by video."""

    top1: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    videos: int


@dataclass(frozen=True)
class EstimatorsReport:
    """``agreement`` maps two ids, joined by `` / ``, to the mean object keypoint similarity of their persons."""

    store: str
    head: str
    poses: tuple[str, ...]
    accuracy: Mapping[str, Accuracy]
    seen: Mapping[str, Seen]
    agreement: Mapping[str, float]
    chance: float
    videos: int
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "study": "estimators",
            "store": self.store,
            "head": self.head,
            "chance": self.chance,
            "videos": self.videos,
            "estimators": [
                {"pose": name, "accuracy": vars(self.accuracy[name]), **_plain(vars(self.seen[name]))}
                for name in self.poses
            ],
            "agreement": dict(self.agreement),
            "warnings": list(self.warnings),
            "settings": dict(self.settings),
        }

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Titles and rows for people."""
        views = list(next(iter(self.seen.values())).inside)
        titles: tuple[str, ...] = (
            "pose",
            "top-1",
            "95% interval",
            "against the first",
            "frames with a person",
            "persons a frame",
        )
        titles += ("joints seen", *(f"inside {view}" for view in views), "ms a frame")
        rows = []
        for name in self.poses:
            result, seen = self.accuracy[name], self.seen[name]
            low, high = result.difference_interval
            rows.append(
                (
                    name,
                    f"{result.top1:.1%}",
                    "{:.1%} to {:.1%}".format(*result.interval),
                    f"{100 * result.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                    f"{seen.detection_rate:.1%}",
                    f"{seen.persons:.2f}",
                    f"{seen.joints:.1%}",
                    *(f"{seen.inside[view]:.1%}" for view in views),
                    f"{1000 * seen.frame_seconds:.1f}",
                )
            )
        return titles, rows


def estimators_study(
    store: FeatureStore | str | os.PathLike[str],
    *,
    head: str = "pvcs",
    split: int | str = 1,
    frames: int = 8,
    seeds: int = 1,
    epochs: int = 30,
    device: str = "auto",
    clip: str | None = None,
    poses: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> EstimatorsReport:
    """Compare the pose groups of a store, and write ``estimators.json`` and the runs to ``out``.

    head   that reads keypoints
    poses  ids of groups, or their beginnings; None: all that hold keypoints
    out    default: ``studies/<store>-estimators``
    told   hears a line at every step

    Raises ``UsageError`` or ``MissingError`` where there are not two groups to compare, and what ``train_head`` raises.
    """
    from pipeline.head import train_head
    from pipeline.head.checkpoint import load_predictions

    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    groups = _groups(opened, poses)
    shared = opened.usable([opened.group("clip", clip), *groups.values()])
    if not shared:
        raise MissingError(f"no video of {opened.url} has poses in all of {', '.join(groups)}; finish the extraction")
    folder = Path(out) if out is not None else Path("studies") / f"{Path(opened.url).name}-estimators"
    warnings: list[str] = []
    right: dict[str, dict[tuple[int, str], float]] = {}
    sources: dict[tuple[int, str], str] = {}
    for name in groups:
        run = train_head(
            opened,
            head=head,
            split=split,
            frames=frames,
            seeds=seeds,
            epochs=epochs,
            device=device,
            clip=clip,
            pose=name,
            out=folder / name,
        )
        predictions = load_predictions(run)
        right[name] = _correct(predictions, set(shared))
        sources |= {
            (found.split, video): source
            for found in predictions
            for video, source in zip(found.video_ids, found.sources, strict=True)
        }
        warnings += [note for note in run.warnings if note not in warnings]
        told(f"{name}: top-1 {np.mean(list(right[name].values())):.1%}")
    unshared = {name: len(opened.usable([group])) - len(shared) for name, group in groups.items()}
    warnings += [
        f"{count} videos of {name} are not in every group and are left out of the test"
        for name, count in unshared.items()
        if count > 0
    ]
    seen = {name: look(opened, group, shared, clip=clip) for name, group in groups.items()}
    agreement = {}
    names = list(groups)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            agreement[f"{first} / {second}"] = compare(opened, groups[first], groups[second], shared)
            told(f"{first} and {second} agree to {agreement[f'{first} / {second}']:.2f} (OKS)")
    report = EstimatorsReport(
        store=opened.url,
        head=head,
        poses=tuple(names),
        accuracy=accuracies(right, sources),
        seen=seen,
        agreement=agreement,
        chance=1 / len(opened.class_names),
        videos=len(shared),
        warnings=tuple(warnings),
        settings={"split": split, "frames": frames, "seeds": seeds, "epochs": epochs, "clip": clip},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "estimators.json").write_text(json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n")
    return report


def accuracies(
    right: Mapping[str, Mapping[tuple[int, str], float]], sources: Mapping[tuple[int, str], str]
) -> dict[str, Accuracy]:
    """Accuracy of each group over the (split, video) that all of them tested; ``right`` is how often it was right."""
    from pipeline.head.metrics import clustered_interval

    common = sorted(set.intersection(*(set(of_group) for of_group in right.values())))
    clusters = [sources[key] for key in common]
    values = {name: np.array([of_group[key] for key in common]) for name, of_group in right.items()}
    first = next(iter(values.values()))
    return {
        name: Accuracy(
            top1=float(own.mean()),
            interval=clustered_interval(own, clusters),
            difference=float((own - first).mean()),
            difference_interval=clustered_interval(own - first, clusters),
            videos=len(common),
        )
        for name, own in values.items()
    }


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
    seconds = sum(store.commits(group).of(np.asarray(slots, np.int64))["stage_seconds"].to_pylist())
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
    similarity = _similarity(first, second)
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


def _similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Object keypoint similarity [..., P, Q] of persons [..., P, 17, 3] and [..., Q, 17, 3]."""
    a, b = first[..., :, None, :, :], second[..., None, :, :, :]
    seen = (a[..., 2] > 0) & (b[..., 2] > 0)
    area = (_area(first)[..., :, None] + _area(second)[..., None, :]) / 2
    squared = ((a[..., :2] - b[..., :2]) ** 2).sum(-1)
    close = np.exp(-squared / np.maximum(2 * area[..., None] * SPREAD, 1e-6)) * seen
    return close.sum(-1) / np.maximum(seen.sum(-1), 1)


def _area(persons: np.ndarray) -> np.ndarray:
    """Area of the box around the seen joints of persons [..., 17, 3]: [...]."""
    seen = persons[..., 2:] > 0
    low = np.where(seen, persons[..., :2], np.inf).min(-2)
    high = np.where(seen, persons[..., :2], -np.inf).max(-2)
    return np.where(np.any(seen, axis=(-2, -1)), np.maximum(high - low, 0).prod(-1), 0.0)


def _poses(store: FeatureStore, group: Group, slots: Sequence[int]) -> list[Features]:
    arrays = ("keypoints", "boxes")
    return list(store.iter_shards(arrays=arrays, slots=list(slots), pose=group.modality.id))


def _groups(store: FeatureStore, poses: Sequence[str] | None) -> dict[str, Group]:
    held = [g for g in store.groups.values() if g.modality.kind == "pose" and "keypoints" in g.modality.arrays]
    chosen = held if poses is None else [store.group("pose", name) for name in poses]
    groups = {group.modality.id: group for group in chosen}
    if len(groups) < 2:
        raise UsageError(
            f"{store.url} has {len(groups)} pose groups to compare; add another with: vilp-pipe extract --store "
            f"{store.url} --modality pose --pose onnx --det-weights FILE --pose-weights FILE"
        )
    return groups


def _correct(predictions: Sequence[Any], slots: set[int]) -> dict[tuple[int, str], float]:
    """By split and video: the share of the seeds that are right, over the test videos among ``slots``."""
    from pipeline.head.metrics import hits

    found: dict[tuple[int, str], list[float]] = {}
    for prediction in predictions:
        right = hits(prediction.scores, prediction.labels)
        rows = zip(prediction.slots.tolist(), prediction.video_ids, right.tolist(), strict=True)
        for slot, video, hit in rows:
            if slot in slots:
                found.setdefault((prediction.split, video), []).append(float(hit))
    return {key: float(np.mean(values)) for key, values in found.items()}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
