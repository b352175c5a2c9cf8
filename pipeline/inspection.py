"""Looking at videos of a store: their stored frames, read from the disk again, and all that the store knows of them."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import datasets
from pipeline.figure import MAX_STRIPS, Strip, Verdict, View, draw_strips
from pipeline.head.checkpoint import read_run
from pipeline.head.config import HeadConfig
from pipeline.head.data import Selection
from pipeline.head.results import RunResult
from pipeline.head.selection import recorded_texts, selected_groups
from pipeline.head.skeleton import motion_shares
from pipeline.judging import Judgement, heads_of, judge
from stages.decode import DecodeConfig, DecodeOutcome, DecodeWorker
from stages.types import VideoRef
from store.errors import MissingError, StoreError, UsageError, nearest
from store.features import Features
from store.groups import Group, of_kind
from store.printable import command
from store.reader import FeatureStore

UNTRAINED = HeadConfig()  # whose heatmaps are drawn where no run is named


def inspect_videos(
    store: FeatureStore,
    video_ids: Sequence[str],
    out: Path,
    *,
    run: str | Path | None = None,
    frames: int | None = None,
    clip: str | None = None,
    pose: str | None = None,
    top: int = 5,
    code: Collection[str] = (),
) -> list[str]:
    """Draw videos of a store into one PNG, a strip each; returns what its reader has to know: a line for each video
    that has no pictures any more, and one where the store's features are no longer those of the run.

    run         a training run whose heads say what they think of the videos, and which frames they weigh
    frames      frames a strip, of those that are stored; what the run reads, or 8, unless given
    clip, pose  id of a group, or its beginning, where the store has several; those of the run, where there is one
    top         how many classes to name
    code        decoders of the user's own (``module:function``) that the store names and that may be run

    Raises ``UsageError`` for a video that the store has no features of, with the reason.
    """
    if not 1 <= len(video_ids) <= MAX_STRIPS:
        raise UsageError(f"{len(video_ids)} videos are to be drawn; allowed: 1 to {MAX_STRIPS} in one picture")
    recorded = None if run is None else read_run(run)
    groups = _groups(store, clip, pose, recorded)
    slots = [_slot(store, video_id, groups) for video_id in video_ids]
    judgement = None
    notes: list[str] = []
    if recorded is not None:
        notes += changed(recorded, store)
        selection = matching(recorded, store)
        clip, pose = clip or selection.clip_id, pose or selection.pose
        frames = frames or (selection.frames if selection.clip_id else None)
        judgement = judge(store, selection, recorded, heads_of(recorded), slots=slots)
    config = recorded.config if recorded else UNTRAINED
    made = strips(store, slots, frames=frames, clip=clip, pose=pose, config=config, code=code)
    if recorded is not None and judgement is not None:
        made = with_verdicts(made, slots, recorded, judgement, store, top)
    draw_strips(made, out)
    return notes + [f"{strip.title}: {strip.note}" for strip in made if strip.pictures is None]


def some_videos(
    store: FeatureStore,
    count: int,
    *,
    seed: int = 0,
    run: str | Path | None = None,
    clip: str | None = None,
    pose: str | None = None,
) -> list[str]:
    """``count`` videos with features, drawn by ``seed``; test videos of its first split where a run is named. ``clip``
    and ``pose`` as in ``inspect_videos``."""
    recorded = None if run is None else read_run(run)
    rows = store.videos.to_pylist()
    usable = set(store.usable(_groups(store, clip, pose, recorded)))
    column = None if recorded is None else f"split{recorded.splits[0]}"
    able = [row["video_id"] for row in rows if row["slot"] in usable and (column is None or row[column] == "test")]
    if not able:
        raise MissingError(
            f"{store.url} has no video with features to look at; see: {command('status', '--store', store.url)}",
            kind="missing-data",
        )
    return sorted(random.Random(seed).sample(able, min(count, len(able))))


def matching(run: RunResult, store: FeatureStore) -> Selection:
    """The features that a run's heads read, in ``store``. Raises ``StoreError`` where it has others."""
    selected_groups(store, run.selection)  # raises where one is not there
    if store.class_names != run.class_names:
        raise StoreError(
            f"the run knows {len(run.class_names)} classes of {run.selection.dataset} and {store.url} has others; "
            "name the store that it was trained from with --store",
            kind="store-mismatch",
        )
    # Heads hold the words that they were trained with: no text set is read.
    found = store.fingerprint(pose=run.selection.pose, **run.selection.encoder_id)
    return replace(run.selection, store=store.url, fingerprint=found)


def changed(run: RunResult, store: FeatureStore) -> list[str]:
    """A line where a store has other features now than when a run was trained on it; else nothing."""
    matching(run, store)
    if recorded_texts(store, run.selection) is not None:
        return []
    return [
        f"the features in {store.url} are no longer those that the run was trained on: what its heads say of single "
        "videos here may differ from its figures"
    ]


def strips(
    store: FeatureStore,
    slots: Sequence[int],
    *,
    frames: int | None = None,
    clip: str | None = None,
    pose: str | None = None,
    config: HeadConfig = UNTRAINED,
    code: Collection[str] = (),
) -> list[Strip]:
    """A strip for each slot, in order, all of which have features. Pictures are those of the video as it is on the disk
    now, decoded as it was for the store; where that gives other frames, the video is gone, or the store's decoder is
    code that ``code`` does not name, there are none. ``clip`` and ``pose`` name groups; without a name the only one of
    the kind is drawn, where it has features of all these videos."""
    clip_group, pose_group = _drawn(store, "clip", clip, slots), _drawn(store, "pose", pose, slots)
    main = clip_group or pose_group
    if main is None:
        _groups(store, clip, pose, None)  # raises where there are several
        raise MissingError(
            f"{store.url} holds no features of CLIP or poses of these videos yet, whose frames are drawn; run "
            f"{command('extract', '--store', store.url)}"
        )
    record: dict[str, Any] = main.modality.record["frames"]
    stored = int(record["num_frames"])
    count = min(8, stored) if frames is None else frames
    if not 1 <= count <= stored:
        raise UsageError(f"frames is {count}; allowed: 1 to {stored}, the number that {store.url} holds a video")
    places = np.arange(count) * stored // count
    timing = frames_group(store, record)
    index, times = (store.rows(timing, name, list(slots)) for name in ("index", "pts"))
    features = _load(store, slots, clip_group, pose_group)
    rows = {row["slot"]: row for row in store.videos.to_pylist()}
    refused = refused_decoder(record, code)
    outcomes = [] if refused else decode(store, [rows[slot] for slot in slots], record)
    order = {int(slot): position for position, slot in enumerate(features.slots)}
    made = []
    for number, slot in enumerate(slots):
        pictures, note = (None, refused) if refused else _pictures(outcomes[number], index[number])
        made.append(
            Strip(
                title=f"{rows[slot]['video_id']}  ({rows[slot]['class_name']})",
                size=tuple(int(side) for side in features.sizes[order[slot]]),  # type: ignore[arg-type]
                times=times[number][places],
                pictures=None if pictures is None else pictures[places],
                view=_view(clip_group, config.sigma),
                note=note,
                **({} if pose_group is None else _poses(features, order[slot], config, places, stored)),
            )
        )
    return made


def refused_decoder(record: Mapping[str, Any], code: Collection[str]) -> str:
    """Why the frames that ``record`` (of a frames group) tells of are not decoded again: the store's decoder is code
    that ``code`` does not name. Empty where they may be."""
    decoder = record["decoder"]
    if ":" not in decoder or decoder in code:
        return ""
    return f"the store was decoded by code, {decoder}: to run it, name it with --code"


def with_verdicts(
    made: Sequence[Strip],
    slots: Sequence[int],
    run: RunResult,
    judgement: Judgement,
    store: FeatureStore | None,
    top: int = 5,
) -> list[Strip]:
    """Strips with what a head says of them; with the true class where ``store`` tells it."""
    truths = {} if store is None else store.plan.lookup("slot", "class_name")
    order = {int(slot): position for position, slot in enumerate(judgement.slots)}
    result = []
    for strip, slot in zip(made, slots, strict=True):
        row = order[slot]
        classes = best_classes(judgement.scores[row], run.class_names, top)
        weights = None if judgement.weights is None else judgement.weights[row]
        if weights is not None and len(weights) != len(strip.times):
            weights = None  # the strip shows other frames than the head reads
        result.append(replace(strip, verdict=Verdict(classes, truths.get(slot), classes[0][0], weights)))
    return result


def best_classes(scores: np.ndarray, class_names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    """The ``top`` classes of scores [C], best first."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple((class_names[label], float(scores[label])) for label in order)


def decode(store: FeatureStore, rows: Sequence[dict[str, Any]], record: dict[str, Any]) -> list[DecodeOutcome]:
    """Decode videos of the plan again, as ``record`` (of a frames group) says; never raises for a video."""
    root = video_root(store)
    refs = [VideoRef.of(row, root) for row in rows]
    config = DecodeConfig(record["decoder"], int(record["num_frames"]), record["max_short_side"])
    outcomes: list[DecodeOutcome] = []
    with DecodeWorker(config) as worker:
        while len(outcomes) < len(refs):
            outcomes += [outcome.copied() for outcome in worker(refs[len(outcomes) :]).results]
    return outcomes


def video_root(store: FeatureStore) -> Path:
    """The folder that the paths of a store's plan are relative to."""
    return datasets.video_root(store.dataset_name, store.plan.source["root"])


def quarantined(store: FeatureStore) -> list[dict[str, str]]:
    """``video_id``, ``group``, ``kind`` and ``message`` of every video without features, a row a group."""
    return store.quarantined().select(["video_id", "group", "kind", "message"]).to_pylist()


def _slot(store: FeatureStore, video_id: str, groups: Sequence[Group]) -> int:
    ids, slots = store.videos["video_id"].to_pylist(), store.videos["slot"].to_pylist()
    if video_id not in ids:
        raise UsageError(f"video is {video_id!r}, which {store.url} does not have{nearest(video_id, ids)}")
    slot = slots[ids.index(video_id)]
    if slot not in store.usable(groups):
        paths = {group.path for group in groups}
        ours = (q for q in quarantined(store) if q["video_id"] == video_id and q["group"] in paths)
        why = next((f"{q['kind']}: {q['message']}" for q in ours), None)
        again = command("extract", "--store", store.url)
        reason = f"it is quarantined ({why})" if why else f"it is not extracted yet; run: {again}"
        raise UsageError(f"video is {video_id!r}, of which the store has no features: {reason}")
    return slot


def _groups(store: FeatureStore, clip: str | None, pose: str | None, run: RunResult | None) -> list[Group]:
    """Groups of which a video must have features to be looked at: those that a run reads, or else one of CLIP and one
    of poses, and those that are named. Raises ``UsageError`` where several fit and there is no run."""
    names = {"clip": clip, "pose": pose}
    named = [store.group(kind, name) for kind, name in names.items() if name is not None]
    if run is not None:
        return [*selected_groups(store, run.selection), *named]
    others = [kind for kind, name in names.items() if name is None and of_kind(store.groups, kind)]
    return [*named, *map(store.group, others)]


def _drawn(store: FeatureStore, kind: str, name: str | None, slots: Sequence[int]) -> Group | None:
    """The group that ``name`` picks, else the only one of a kind where it has features of all ``slots``, else None."""
    if name is not None:
        return store.group(kind, name)
    groups = of_kind(store.groups, kind)
    return groups[0] if len(groups) == 1 and set(slots) <= set(store.usable(groups)) else None


def frames_group(store: FeatureStore, record: dict[str, Any]) -> Group:
    """Which frames of each video a group of features is of: the group whose record is ``record``."""
    found = [group for group in of_kind(store.groups, "frames") if dict(group.modality.record) == record]
    if not found:
        verifying = command("verify", "--store", store.url)
        raise StoreError(f"{store.url} lacks the frames group of {record}; run: {verifying}", kind="store-corrupt")
    return found[0]


def _load(store: FeatureStore, slots: Sequence[int], clip: Group | None, pose: Group | None) -> Features:
    arrays = (("cls",) if clip else ()) + (("keypoints", "boxes") if pose else ())
    clip_id, pose_id = (None if group is None else group.modality.id for group in (clip, pose))
    return store.load(arrays=arrays, slots=slots, clip=clip_id, pose=pose_id)


def _poses(features: Features, row: int, config: HeadConfig, places: np.ndarray, stored: int) -> dict[str, Any]:
    """What a ``Strip`` shows of the persons of a video, at ``places`` among the ``stored`` frames."""
    keypoints = features["keypoints"][row]
    at = places * len(keypoints) // stored
    found = {"keypoints": keypoints.numpy()[at], "boxes": features["boxes"][row].numpy()[at]}
    if config.persons == "moving":
        width, height = features.sizes[row]
        found["shares"] = motion_shares(keypoints[None], (width / height)[None])[0].numpy()
    return found


def _view(clip: Group | None, sigma: float) -> View | None:
    if clip is None:
        return None
    record = clip.modality.record
    tokens = clip.modality.arrays.get("value") or clip.modality.arrays.get("penult")
    return View(record["views"][0], int(record["preprocess"]["size"]), tokens.shape[2] if tokens else 0, sigma)


def _pictures(outcome: DecodeOutcome, index: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Frames of a decoded video that are those of the store, or why there are none."""
    if outcome.video is None:
        assert outcome.failure is not None
        gone = outcome.failure.kind == "file-missing"
        why = f"the video is gone: {outcome.ref.path}" if gone else outcome.failure.message
        return None, f"{why}; drawn from the store alone"
    if not np.array_equal(outcome.video.indices, index):
        return (
            None,
            f"{outcome.ref.path} decodes to other frames than those that are stored; drawn from the store alone",
        )
    return outcome.video.frames, ""
