"""Which features of a store a head reads, whether they are all there, and which of the official videos they cover."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.datasets.hmdb51 import HMDB51
from pipeline.datasets.ucf101 import UCF101
from pipeline.files import free_path
from pipeline.head.config import HeadConfig
from pipeline.head.text import TextSide, no_text, text_side
from stages.clip.config import DEFAULT_TOKENS
from store.errors import MissingError, StoreError, UsageError, one_of
from store.groups import Group, find_group, of_kind
from store.printable import command
from store.reader import FeatureStore

# Inputs of heads by the stored arrays that they are made of; what attention pools over is the head's own setting.
CLIP_ARRAYS = {
    "frames": "cls",
    "pooled": "value",
    "presence": "value",
    "heatmap": "value",
    "parts": "value",
    "part_presence": "value",
}
POSE_ARRAYS = {
    "pose_embedding": "heatmap_clip",
    "pooled": "keypoints",
    "presence": "keypoints",
    "heatmap": "keypoints",
    "parts": "keypoints",
    "part_presence": "keypoints",
    "skeleton": "keypoints",
}

# Official numbers of training and test videos by split.
OFFICIAL_SPLITS = {official.name: official.splits for official in (HMDB51, UCF101)}
# A skeleton can be mirrored whatever the views of CLIP are.
SKELETON_VIEWS = ("center", "flip")


@dataclass(frozen=True)
class Selection:
    """Which features of a store a head reads: full ids of the groups, T' and the fingerprint of the numbers.

    ``clip`` is the group of the image encoder, or of the video model where ``encoder`` says so; T' is then K. It is
    None where the head reads skeletons alone and the store has no CLIP. ``text`` is the text set of CLIP; None without.
    """

    store: str
    dataset: str
    clip: str | None
    pose: str | None
    frames: int
    views: tuple[str, ...]
    fingerprint: str
    text: str | None = None
    encoder: str = "clip"

    @property
    def encoder_id(self) -> dict[str, Any]:
        """The group of the encoder, as the argument of a ``FeatureStore``'s methods."""
        return {self.encoder: self.clip}

    @property
    def clip_id(self) -> str | None:
        """The CLIP group; None where a video model takes its place."""
        return self.clip if self.encoder == "clip" else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "views": list(self.views)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        return cls(**{**data, "views": tuple(data["views"])})


def open_store(store: FeatureStore | str | os.PathLike[str]) -> FeatureStore:
    """A store that is open, or the one at a path or URL. Raises as ``FeatureStore.open``."""
    return store if isinstance(store, FeatureStore) else FeatureStore.open(store)


def select(
    store: FeatureStore,
    config: HeadConfig,
    *,
    frames: int,
    clip: str | None = None,
    pose: str | None = None,
    text: str | None = None,
    views: Sequence[str] | None = None,
) -> Selection:
    """Which features ``config``'s head reads of a store; ``views`` are all that it has unless given.

    Raises ``MissingError`` where the store lacks a modality, with the command that adds it, and ``UsageError`` where T'
    exceeds what is stored or a view is not stored.
    """
    encoder = None
    if clip is not None or needs_encoder(config) or of_kind(store.groups, "clip"):
        encoder = store.group(config.encoder, clip)
    for name in config.inputs if config.encoder == "clip" else ():
        array = config.tokens if name == "tokens" else CLIP_ARRAYS.get(name)
        if encoder and array and array not in encoder.modality.arrays:
            tokens = ",".join(dict.fromkeys((*DEFAULT_TOKENS, array)))
            raise MissingError(
                f"head {config.head!r} reads {array!r} tokens and {encoder.modality.id} has none; add them with: "
                + command("extract", "--store", store.url, "--modality", "clip", "--tokens", tokens),
                kind="missing-modality",
            )
    stored = stored_frames(encoder) if encoder else frames
    if config.encoder == "video":
        frames = stored
    if not 1 <= frames <= stored:
        raise UsageError(f"frames is {frames}; allowed: 1 to {stored}, the number that {store.url} holds a video")
    there = SKELETON_VIEWS
    if encoder and config.inputs != ("skeleton",):
        there = tuple(encoder.modality.record["views"])
    for view in views or ():
        one_of("views", view, there)
    pose_group = _pose_group(store, config, pose)
    pose_id = pose_group.modality.id if pose_group else None
    text_id = None
    if encoder and (config.encoder == "clip" or text is not None):
        text_id = find_group(store.groups, "text", text, parent=encoder.path).modality.id
    selected = {config.encoder: encoder.modality.id if encoder else None}
    return Selection(
        store=store.url,
        dataset=store.dataset_name,
        clip=selected[config.encoder],
        pose=pose_id,
        frames=frames,
        views=tuple(views or there),
        fingerprint=store.fingerprint(pose=pose_id, texts=[text_id] if text_id else [], **selected),
        text=text_id,
        encoder=config.encoder,
    )


def needs_encoder(config: HeadConfig) -> bool:
    """Whether a head reads more than skeletons: frames, tokens, clips or class names."""
    return config.reads_text or config.inputs != ("skeleton",)


def encoder_group(store: FeatureStore, selection: Selection) -> Group | None:
    """The group of the encoder, of CLIP or a video model; None where a head does without."""
    return None if selection.clip is None else store.group(selection.encoder, selection.clip)


def encoder_record(store: FeatureStore, selection: Selection) -> Mapping[str, Any]:
    """The record of the encoder's group; where a head does without an encoder, one that names no weights."""
    encoder = encoder_group(store, selection)
    return {"weights": {}} if encoder is None else encoder.modality.record


def text_sets(store: FeatureStore, selection: Selection) -> list[str]:
    """Ids of all text sets of the CLIP group that a head reads."""
    encoder = encoder_group(store, selection)
    found = [] if encoder is None else of_kind(store.groups, "text", parent=encoder.path)
    return [text.modality.id for text in found]


def recorded_texts(store: FeatureStore, recorded: Selection) -> tuple[str, ...] | None:
    """The text sets with which the features that a run read still have its fingerprint; None where they have changed.

    They are the one that the run read. Runs that do not record it have all in their fingerprint that the store had at
    the time, which was one unless it was named.
    """
    sets = text_sets(store, recorded)
    groups = {"pose": recorded.pose, **recorded.encoder_id}
    subsets = (texts for count in range(len(sets) + 1) for texts in combinations(sets, count))
    return next((texts for texts in subsets if store.fingerprint(texts=texts, **groups) == recorded.fingerprint), None)


def stored_frames(encoder: Group) -> int:
    """T, the frames a video that a CLIP group holds, or K, the clips of a video model."""
    return encoder.modality.length("clip" if encoder.modality.kind == "video" else "frame")


def _pose_group(store: FeatureStore, config: HeadConfig, pose: str | None) -> Group | None:
    arrays = {POSE_ARRAYS[name] for name in config.inputs if name in POSE_ARRAYS}
    if not arrays:
        return None
    poses = of_kind(store.groups, "pose")
    if not poses:
        raise MissingError(
            f"head {config.head!r} reads pose and {store.url} has none; add it with: "
            f"{command('extract', '--store', store.url, '--modality', 'pose')} --pose onnx --det-weights FILE "
            "--pose-weights FILE, or train --head vcs or attn, which need none",
            kind="missing-modality",
        )
    fitting = [group for group in poses if arrays <= group.modality.arrays.keys()]
    # Of several estimators the only one with what the head reads need not be named.
    group = fitting[0] if pose is None and len(fitting) == 1 else store.group("pose", pose)
    for array in sorted(arrays - group.modality.arrays.keys()):
        adding = command("extract", "--store", store.url, "--modality", "pose", "--heatmap", "joints")
        raise MissingError(
            f"head {config.head!r} reads {array!r} (CLIP embeddings of heatmap images) and {group.modality.id} has "
            f"none; add them with: {adding}; or train --head pvcs or fuse, which read keypoints and tokens",
            kind="missing-modality",
        )
    return group


def load_side(store: FeatureStore, selection: Selection, config: HeadConfig) -> TextSide:
    """The text side of a head; one without words where its encoder is a video model or there is none."""
    if config.encoder == "video" or selection.clip is None:
        return no_text(len(store.class_names))
    return text_side(store.text(clip=selection.clip, text=selection.text), config.word_mode)


def selected_groups(store: FeatureStore, selection: Selection) -> list[Group]:
    """The groups that a head reads."""
    return store.chosen_groups(pose=selection.pose, **selection.encoder_id)


def usable_slots(store: FeatureStore, selection: Selection) -> list[int]:
    """Slots with features in every group that the selection names."""
    return store.usable(selected_groups(store, selection))


def quarantined_slots(store: FeatureStore, selection: Selection) -> set[int]:
    """Slots that are quarantined in a group that the selection names."""
    paths = {group.path for group in selected_groups(store, selection)}
    rows = store.quarantined().select(["slot", "group"]).to_pylist()
    return {row["slot"] for row in rows if row["group"] in paths}


def coverage(store: FeatureStore, selection: Selection, split: int) -> dict[str, dict[str, int]]:
    """For ``train`` and ``test`` of a split: videos ``expected``, ``used``, ``quarantined`` and ``missing``.

    Missing are those that are not on the disk and those that are not extracted yet. Raises ``StoreError``
    where a split of an official dataset has more videos than it is defined with.
    """
    summary = store.summary(split, pose=selection.pose, **selection.encoder_id)
    official = OFFICIAL_SPLITS.get(store.dataset_name)
    result = {}
    for position, subset in enumerate(("train", "test")):
        counts = summary[subset]
        expected = official[split - 1][position] if official else counts["planned"]
        if counts["planned"] > expected:
            raise StoreError(
                f"{subset} of {store.dataset_name} split {split} has {counts['planned']} videos in {store.url}; the "
                f"official split has {expected}",
                kind="store-mismatch",
            )
        missing = expected - counts["usable"] - counts["quarantined"]
        result[subset] = {
            "expected": expected,
            "used": counts["usable"],
            "quarantined": counts["quarantined"],
            "missing": missing,
        }
    return result


def not_on_disk(store: FeatureStore) -> int:
    """Videos that the dataset's lists name and the plan does not have."""
    return sum(reason == "missing" for reason in store.plan.missing["reason"].to_pylist())


def random_weights(store: FeatureStore, selection: Selection) -> bool:
    """Whether the model of the features was never trained."""
    return "seed" in encoder_record(store, selection)["weights"]


def default_run_directory(store: FeatureStore, head: str) -> Path:
    """The first free one of ``runs/<store>-<head>``, ``runs/<store>-<head>-2``, ..."""
    return free_path(Path("runs") / f"{Path(store.url).name}-{head}")
