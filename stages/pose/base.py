"""The seam of the pose stage: frames in, persons out, whatever the estimator.

A backend is a class built from a ``PoseConfig`` that satisfies ``PoseEstimator``. ``stages.pose.stage.PoseStage`` turns
what it finds into arrays: it follows persons through the clip, fills a fixed number of slots and normalises to the
frame. An estimator of your own plugs in as ``PoseConfig(backend="package.module:ClassName")``.

Keypoints are in COCO-17 order everywhere; an estimator with another skeleton maps to it and gives missing joints
confidence 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from stages.pose.coco import NUM_JOINTS
from stages.types import Clip, VideoFailure
from store.errors import MissingError, UsageError, nearest

if TYPE_CHECKING:
    from stages.pose.heatmap_clip import HeatmapConfig

BACKENDS = ("onnx", "mmpose", "precomputed")


@dataclass(frozen=True)
class Persons:
    """The M persons of one frame, in any order; M may be 0.

    keypoints  float32 [M, 17, 3]: x, y in pixels of the frame that was given, confidence in 0..1 (0: not seen)
    boxes      float32 [M, 5]: x1, y1, x2, y2 in the same pixels, score in 0..1
    ids        int [M], distinct: who is who through the clip; None where the estimator does not follow persons itself

    float64 is kept as it is, so that coordinates given as fractions survive the way through pixels bit for bit.
    """

    keypoints: np.ndarray
    boxes: np.ndarray
    ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        num = len(self.keypoints)
        if self.keypoints.shape != (num, NUM_JOINTS, 3) or self.boxes.shape != (num, 5):
            raise ValueError(
                f"keypoints are {self.keypoints.shape} and boxes {self.boxes.shape}; allowed: [M, 17, 3] and [M, 5]"
            )
        if self.ids is not None and (self.ids.shape != (num,) or len(np.unique(self.ids)) != num):
            raise ValueError(f"ids are {self.ids}; allowed: {num} distinct integers, one a person")

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def nobody() -> Persons:
        return Persons(np.zeros((0, NUM_JOINTS, 3), np.float32), np.zeros((0, 5), np.float32))


@runtime_checkable
class PoseEstimator(Protocol):
    """What every backend is. It is built as ``Backend(config: PoseConfig)``; building it must be cheap."""

    @property
    def name(self) -> str:
        """Short readable name for the modality, such as ``onnx-rtmdet-nano-movenet``; cheap."""
        ...

    def record(self) -> dict[str, Any]:
        """Everything that changes the numbers, as plain JSON values: resolved config, digests of weight files,
        preprocessing, thresholds. Not device, threads, number of sessions or library versions. Cheap: may hash a
        file, must not load weights. Raises ``MissingError`` where a file is not there."""
        ...

    def setup(self) -> None:
        """Load weights and set thread counts, once in the process that will call."""
        ...

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        """For every clip, one ``Persons`` for each of its frames, or a ``VideoFailure`` for the clip.

        ``clip.video.frames`` is uint8 [T, H, W, 3], RGB, possibly read-only; H and W differ between clips. Frames with
        equal ``clip.video.indices`` are the same picture (a video shorter than T repeats frames): compute them once,
        see ``unique_frames``. Results must not depend on which other clips are in the batch.
        """
        ...


@dataclass(frozen=True)
class PoseConfig:
    """What pose to extract. Every estimator takes from it what it needs.

    backend       ``onnx``, ``mmpose``, ``precomputed``, or ``package.module:ClassName`` of your own
    det_weights   weights of the person detector: a file (``none``: random, seeded; mmpose only)
    pose_weights  weights of the keypoint model: a file (``none``: random, seeded; mmpose only)
    config        mmpose: a config name or file; precomputed: a file or folder of poses, see ``stages.pose.imports``
    num_frames    frames a clip, Tp
    max_persons   slots a clip, P
    max_detections  the most prominent persons of a frame (score times the square root of the area) that get
                  keypoints; more than P, so that following persons through the clip has a choice
    device        ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``: CUDA where there is one
    threads       CPU threads of this stage
    batch_size    inputs of one forward pass, for models that can batch
    seed          of random weights
    heatmap       the CLIP embedding of heatmaps to store as well; None: none
    """

    backend: str = "onnx"
    det_weights: str | None = None
    pose_weights: str | None = None
    config: str | None = None
    num_frames: int = 48
    max_persons: int = 4
    max_detections: int = 6
    device: str = "auto"
    threads: int = 2
    batch_size: int = 16
    seed: int = 0
    heatmap: HeatmapConfig | None = None

    def __post_init__(self) -> None:
        if self.heatmap is not None and self.num_frames % self.heatmap.clip.num_frames:
            raise UsageError(
                f"num_frames is {self.num_frames}; allowed: a multiple of those of the heatmaps "
                f"({self.heatmap.clip.num_frames})"
            )
        if self.backend not in BACKENDS and ":" not in self.backend:
            raise UsageError(
                f"pose backend is {self.backend!r}; allowed: {', '.join(BACKENDS)} or package.module:ClassName"
                f"{nearest(self.backend, BACKENDS)}"
            )
        for field in ("num_frames", "max_persons", "max_detections", "threads", "batch_size"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} is {getattr(self, field)}; allowed: 1 and more")
        if self.max_detections < self.max_persons:
            raise UsageError(
                f"max_detections is {self.max_detections}; allowed: max_persons ({self.max_persons}) and more"
            )


def unique_frames(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """``(first, inverse)``: positions of the distinct frames of a clip, and for each frame its place among them."""
    _, first, inverse = np.unique(clip.video.indices, return_index=True, return_inverse=True)
    return first, inverse


def persons_of(
    clips: Sequence[Clip], find: Callable[[list[np.ndarray]], Iterable[Persons]]
) -> list[list[Persons] | VideoFailure]:
    """What ``PoseEstimator.__call__`` returns, from ``find``, which is given the distinct frames of all clips at once
    and finds the persons of each."""
    unique = [unique_frames(clip) for clip in clips]
    frames = [clip.video.frames[place] for clip, (first, _) in zip(clips, unique, strict=True) for place in first]
    found = iter(find(frames))
    results: list[list[Persons] | VideoFailure] = []
    for first, inverse in unique:
        distinct = [next(found) for _ in first]
        results.append([distinct[place] for place in inverse])
    return results


def most_prominent(boxes: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the ``limit`` boxes [M, 5] with the highest score times square root of the area, best first."""
    width, height = (boxes[:, 2:4] - boxes[:, :2]).clip(0).T
    return np.argsort(-boxes[:, 4] * np.sqrt(width * height), kind="stable")[:limit]


def weights_file(path: str | None, *, flag: str, what: str) -> Path:
    """The file that ``flag`` names, or a ``MissingError`` that says what to put there."""
    if not path:
        raise MissingError(f"no weights for {what}: give {flag} FILE, {what}", kind="missing-weights")
    if not Path(path).is_file():
        raise MissingError(
            f"{flag} is {path!r}, which is not a file; put {what} there or name another file", kind="missing-weights"
        )
    return Path(path)
