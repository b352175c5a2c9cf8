"""The pose stage: an estimator's persons, followed through the clip and normalised to the frame, as arrays."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.pose.base import Persons, PoseConfig, PoseEstimator
from stages.pose.coco import NUM_JOINTS
from stages.pose.precomputed import PrecomputedEstimator
from stages.pose.tracking import TRACKING, assign_slots
from stages.types import Clip, StageOutput, VideoFailure
from store.errors import MissingError, UsageError
from store.schema import ArraySpec, Modality

if TYPE_CHECKING:
    from stages.pose.heatmap_clip import HeatmapEncoder

BACKENDS = {
    "onnx": "stages.pose.onnx:OnnxEstimator",
    "mmpose": "stages.pose.mmpose:mmpose_estimator",
    "precomputed": "stages.pose.precomputed:PrecomputedEstimator",
}


def create_estimator(config: PoseConfig) -> PoseEstimator:
    """The estimator of ``config.backend``: one of ours, or ``package.module:ClassName``, built with the config."""
    module_name, _, class_name = BACKENDS.get(config.backend, config.backend).partition(":")
    try:
        backend = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise MissingError(
            f"pose backend {config.backend!r} cannot be imported ({error}); install what it needs",
            kind="missing-package",
        ) from None
    except AttributeError:
        raise UsageError(f"pose backend is {config.backend!r}, but {module_name} has no {class_name}") from None
    estimator = backend(config)
    if not isinstance(estimator, PoseEstimator):
        raise UsageError(f"pose backend {config.backend!r} is no PoseEstimator: it needs name, record, setup, __call__")
    return estimator


class PoseStage:
    """Clips in, arrays out, with one row a clip:

    keypoints     float32 [B, Tp, P, 17, 3]: x, y as fractions of the frame's width and height, confidence
    boxes         float32 [B, Tp, P, 5]: x1, y1, x2, y2 as fractions, score
    heatmap_clip  float16 [B, V, T, D], where ``config.heatmap`` asks for it: see ``stages.pose.heatmap_clip``. It is
                  all that there is where heatmap files are imported, which tell no joints.

    Zeros mean nobody; slot p is one person through the clip (see ``stages.pose.tracking``); the rows of clips that
    failed are NaN. Coordinates are not clipped: a joint may lie outside the frame.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.estimator = create_estimator(config)
        self._heatmaps: HeatmapEncoder | None = None
        if config.heatmap is not None:
            from stages.pose.heatmap_clip import HeatmapEncoder

            self._heatmaps = HeatmapEncoder(config.heatmap)

    @property
    def _imported(self) -> PrecomputedEstimator | None:
        """The estimator where it holds heatmaps instead of keypoints."""
        estimator = self.estimator
        return estimator if isinstance(estimator, PrecomputedEstimator) and estimator.holds_heatmaps else None

    def modality(self) -> Modality:
        frames, persons = self.config.num_frames, self.config.max_persons
        record: dict[str, Any] = {"estimator": self.estimator.record(), "num_frames": frames}
        arrays: dict[str, ArraySpec] = {}
        if self._imported is None:
            record |= {"max_persons": persons, "tracking": TRACKING}
            dims = ("pose_frame", "person")
            arrays = {
                "keypoints": ArraySpec((frames, persons, NUM_JOINTS, 3), "float32", (*dims, "joint", "coordinate")),
                "boxes": ArraySpec((frames, persons, 5), "float32", (*dims, "corner")),
            }
        if self._heatmaps is not None:
            record["heatmap"] = self._heatmaps.record(rendered=self._imported is None)
            arrays["heatmap_clip"] = self._heatmaps.spec()
        return Modality(kind="pose", name=self.estimator.name, record=record, arrays=arrays)

    def environment(self) -> dict[str, Any]:
        """What may change the last bits of the numbers without being part of the group's id."""
        config = self.config
        own = {"device": config.device, "threads": config.threads, "batch_size": config.batch_size}
        return own | ({} if self._heatmaps is None else {"heatmap": self._heatmaps.environment()})

    def setup(self) -> None:
        self.estimator.setup()
        if self._heatmaps is not None:
            self._heatmaps.setup()

    def __call__(self, clips: Sequence[Clip]) -> StageOutput:
        wanted = self.config.num_frames
        for clip in clips:
            if len(clip.video.frames) != wanted:
                raise ValueError(f"{clip.ref.video_id}: {len(clip.video.frames)} frames, the pose stage wants {wanted}")
        output = self._poses(clips) if self._imported is None else StageOutput({}, {})
        return output if self._heatmaps is None else self._with_heatmaps(self._heatmaps, clips, output)

    def _poses(self, clips: Sequence[Clip]) -> StageOutput:
        frames, persons = self.config.num_frames, self.config.max_persons
        keypoints = np.full((len(clips), frames, persons, NUM_JOINTS, 3), np.nan, dtype=np.float32)
        boxes = np.full((len(clips), frames, persons, 5), np.nan, dtype=np.float32)
        failures = {}
        for row, (clip, found) in enumerate(zip(clips, self.estimator(clips), strict=True)):
            if not isinstance(found, VideoFailure):
                found = _checked(found, clip)
            if isinstance(found, VideoFailure):
                failures[clip.ref.slot] = found
                continue
            height, width = clip.video.frames.shape[1:3]
            keypoints[row], boxes[row] = to_arrays(found, persons, width=width, height=height)
        return StageOutput({"keypoints": keypoints, "boxes": boxes}, failures)

    def _with_heatmaps(self, encoder: HeatmapEncoder, clips: Sequence[Clip], poses: StageOutput) -> StageOutput:
        every = self.config.num_frames // encoder.num_frames
        failures, pictures = dict(poses.failures), {}
        for row, clip in enumerate(clips):
            if clip.ref.slot in failures:
                continue
            if self._imported is not None:
                maps = self._imported.heatmaps(clip, every)
                if isinstance(maps, VideoFailure):
                    failures[clip.ref.slot] = maps
                    continue
                pictures[row] = encoder.cut(maps, clip.video.width, clip.video.height)
            else:
                keypoints = poses.arrays["keypoints"][row, ::every]
                pictures[row] = encoder.render(keypoints, clip.video.width, clip.video.height)
        values = np.full((len(clips), *encoder.spec().shape), np.nan, dtype=encoder.spec().dtype)
        if pictures:
            values[list(pictures)] = encoder.encode(list(pictures.values()))
        return StageOutput({**poses.arrays, "heatmap_clip": values}, failures)


def to_arrays(frames: Sequence[Persons], max_persons: int, *, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [T, P, 17, 3] and boxes [T, P, 5], float32, as fractions of a frame of ``width`` x ``height``."""
    keypoints = np.zeros((len(frames), max_persons, NUM_JOINTS, 3), dtype=np.float32)
    boxes = np.zeros((len(frames), max_persons, 5), dtype=np.float32)
    slots = assign_slots(frames, max_persons)
    for time, persons in enumerate(frames):
        filled = slots[time] >= 0
        chosen = slots[time, filled]
        keypoints[time, filled] = persons.keypoints[chosen] / (width, height, 1)
        boxes[time, filled] = persons.boxes[chosen] / (width, height, width, height, 1)
    return keypoints, boxes


def _checked(frames: list[Persons], clip: Clip) -> list[Persons] | VideoFailure:
    if len(frames) != len(clip.video.frames):
        raise ValueError(f"{clip.ref.video_id}: the estimator gave {len(frames)} frames of {len(clip.video.frames)}")
    if all(np.isfinite(persons.keypoints).all() and np.isfinite(persons.boxes).all() for persons in frames):
        return frames
    return VideoFailure("non-finite", "the pose estimator gave values that are not finite")
