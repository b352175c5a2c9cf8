"""Top-down pose with models of mmpose: a person detector of mmdet, then a keypoint model on each person's crop.

mmpose's own inferencers detect frame by frame and cut the crops one by one. Here both models run on batches of one
fixed size that cross persons, frames and videos, so that results do not depend on what else is asked for. What the
models compute, from normalising their input to decoding their output, is their own ``test_step``; what is done here is
the geometry around it, with the conventions of their test pipelines:

* letterbox: resized to fit (bilinear, half-pixel centres, no antialiasing), padded at the right and the bottom;
* crop: the smallest window of the model's aspect ratio around the box, padded, sampled bilinearly, black outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stages.pose import mmpose_models as models
from stages.pose.base import COCO_JOINTS, NUM_JOINTS, Persons, PoseConfig, most_prominent, unique_frames
from stages.types import Clip, VideoFailure
from store.errors import UsageError

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

DEFAULT_DETECTOR = "rtmdet_m_640-8xb32_coco-person"
DEFAULT_POSE = "rtmpose-m_8xb256-420e_coco-256x192"
PERSON_LABEL = 0  # in COCO's order of classes, and the only one of detectors for persons alone
SCORE_THRESHOLD = 0.3
NMS_IOU = 0.3

T = TypeVar("T")


@dataclass(frozen=True)
class CropGeometry:
    """How a keypoint model wants its crops.

    width, height  of the crop in pixels
    padding        the window is this many times the box
    udp            the window's edges are the centres of the outermost pixels (unbiased data processing, Huang et al.
                   2020) instead of their outer edges
    """

    width: int
    height: int
    padding: float
    udp: bool

    def windows(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres and sizes, both float32 [M, 2], of the windows around boxes [M, 4 or more] (x1, y1, x2, y2)."""
        center = (boxes[:, :2] + boxes[:, 2:4]) * np.float32(0.5)
        width, height = ((boxes[:, 2:4] - boxes[:, :2]) * np.float32(self.padding)).clip(1).T
        aspect = self.width / self.height
        size = np.stack((np.maximum(width, height * aspect), np.maximum(height, width / aspect)), axis=1)
        return center.astype(np.float32), size.astype(np.float32)

    def samples(self, center: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the crops' pixels lie in the frame: x float32 [M, width] and y float32 [M, height]."""
        start = center - size / 2
        columns, rows = np.arange(self.width), np.arange(self.height)
        steps = size / (np.array((self.width, self.height)) - self.udp)
        x, y = start[:, :1] + steps[:, :1] * columns, start[:, 1:] + steps[:, 1:] * rows
        return x.astype(np.float32), y.astype(np.float32)


class MMPoseEstimator:
    """A ``PoseEstimator`` of a detector and a top-down model.

    ``config.config`` is the name or file of the keypoint model's config, or ``DETECTOR,POSE`` with both;
    ``config.det_weights`` and ``config.pose_weights`` are their checkpoints (``.pth`` or ``.safetensors``), or ``none``
    for random ones, with which every frame has ``max_detections`` persons wherever they are.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        detector, _, pose = (config.config or "").rpartition(",")
        self.detector_name = detector.strip() or DEFAULT_DETECTOR
        self.pose_name = pose.strip() or DEFAULT_POSE
        self._detector: Any = None
        self._pose: Any = None

    @cached_property
    def detector_config(self) -> Config:
        config = models.read_config(self.detector_name)
        config.model.test_cfg.update(score_thr=0.0 if self.config.det_weights == models.RANDOM else SCORE_THRESHOLD)
        config.model.test_cfg.nms = {"type": "nms", "iou_threshold": NMS_IOU}
        if not models.step_of(config, "Resize").get("keep_ratio"):
            raise UsageError(f"{self.detector_name} resizes without keeping the ratio; choose one that keeps it")
        return config

    @cached_property
    def pose_config(self) -> Config:
        config = models.read_config(self.pose_name)
        if config.model.type != "TopdownPoseEstimator":
            raise UsageError(f"{self.pose_name} is a {config.model.type}; allowed: a TopdownPoseEstimator")
        config.model.test_cfg.update(output_heatmaps=False)
        return config

    @property
    def name(self) -> str:
        # Without the schedule that mmpose names configs by: rtmpose-m_8xb256-420e_coco-256x192.
        return "mmpose-" + re.sub(r"_\d+xb\d+-\d+e", "", Path(self.pose_name).stem)

    def record(self) -> dict[str, Any]:
        parts = {}
        for part, config, weights, flag in self._parts():
            digest = models.digest_of_weights(weights, config=config, flag=flag, seed=self.config.seed)
            parts[part] = {"config": models.resolved(config.model), "weights": digest}
        width, height, fill = self._canvas
        return {
            "backend": "mmpose",
            **parts,
            "canvas": {"width": width, "height": height, "fill": fill},
            "crop": asdict(self._crop),
            "max_detections": self.config.max_detections,
            "resize": "bilinear",
        }

    def setup(self) -> None:
        import torch

        self.record()  # complains about missing weights before anything is built
        torch.set_num_threads(self.config.threads)
        device = self.config.device
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self._detector, self._pose = (
            models.build(config, weights=str(weights), flag=flag, seed=self.config.seed, device=str(self._device))
            for _, config, weights, flag in self._parts()
        )
        self._joints, self._flip_indices = _skeleton(self.pose_config)

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons] | VideoFailure]:
        unique = [unique_frames(clip) for clip in clips]
        frames = [clip.video.frames[at] for clip, (first, _) in zip(clips, unique, strict=True) for at in first]
        boxes = self.detect(frames)
        keypoints = self.keypoints([(frame, box) for frame, found in zip(frames, boxes, strict=True) for box in found])
        joints, persons = iter(keypoints), iter(boxes)
        results: list[list[Persons] | VideoFailure] = []
        for first, inverse in unique:
            distinct = [_persons(next(persons), joints) for _ in first]
            results.append([distinct[at] for at in inverse])
        return results

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Persons of each frame uint8 [H, W, 3] (RGB), most prominent first: float32 [M, 5], x1, y1, x2, y2 in pixels
        and score."""
        return [boxes for batch, count in self._batches(frames) for boxes in self._detect_batch(batch)[:count]]

    def keypoints(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Keypoints of persons, each given as a frame uint8 [H, W, 3] (RGB) and a box (x1, y1, x2, y2, ...) in it:
        float32 [M, 17, 3]: x, y in pixels, confidence."""
        found = [self._keypoints_batch(batch)[:count] for batch, count in self._batches(people)]
        return np.concatenate([np.zeros((0, NUM_JOINTS, 3), np.float32), *found])

    def _batches(self, items: Sequence[T]) -> Iterator[tuple[list[T], int]]:
        """Batches of exactly ``batch_size`` items, the last one filled up, and how many of each count."""
        size = self.config.batch_size
        for start in range(0, len(items), size):
            batch = list(items[start : start + size])
            yield batch + batch[-1:] * (size - len(batch)), len(batch)

    def _detect_batch(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch
        from mmdet.structures import DetDataSample

        width, height, _ = self._canvas
        inputs, samples = [], []
        for frame in frames:
            # A copy: frames may be read-only views.
            picture, scale = letterbox(torch.tensor(frame, device=self._device), *self._canvas)
            inputs.append(picture)
            meta = {"img_shape": (height, width), "ori_shape": frame.shape[:2], "scale_factor": scale}
            samples.append(DetDataSample(metainfo=meta))
        found = []
        for frame, result in zip(frames, self._run(self._detector, inputs, samples), strict=True):
            people = result.pred_instances[result.pred_instances.labels == PERSON_LABEL]
            boxes = np.column_stack((people.bboxes.cpu().numpy(), people.scores.cpu().numpy())).astype(np.float32)
            boxes[:, :4] = boxes[:, :4].clip(0, np.tile(frame.shape[1::-1], 2))
            found.append(boxes[most_prominent(boxes, self.config.max_detections)])
        return found

    def _keypoints_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        from mmengine.structures import InstanceData
        from mmpose.structures import PoseDataSample

        boxes = np.stack([box for _, box in people]).astype(np.float32)
        center, size = self._crop.windows(boxes)
        crops = bilinear_crops([frame for frame, _ in people], *self._crop.samples(center, size), self._device)
        samples = []
        for row, box in enumerate(boxes):
            meta = {
                "input_center": center[row],
                "input_scale": size[row],
                "input_size": (self._crop.width, self._crop.height),
                "flip_indices": self._flip_indices,
            }
            sample = PoseDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(bboxes=box[None, :4], bbox_scores=np.ones(1, np.float32))
            samples.append(sample)
        results = [result.pred_instances for result in self._run(self._pose, list(crops), samples)]
        joints = np.stack([np.column_stack((found.keypoints[0], found.keypoint_scores[0])) for found in results])
        keypoints = np.zeros((len(people), NUM_JOINTS, 3), np.float32)
        for coco, own in self._joints.items():
            keypoints[:, coco] = joints[:, own]
        keypoints[..., 2] = keypoints[..., 2].clip(0, 1)
        return keypoints

    def _run(self, model: Any, inputs: list[torch.Tensor], samples: list[Any]) -> list[Any]:
        """What a model's ``test_step`` gives for pictures uint8 [3, H, W] (RGB)."""
        import torch

        assert model is not None, "setup() comes first"
        bgr = torch.stack(inputs).flip(1)  # as the models expect it, whichever order they are trained on
        with torch.inference_mode():
            return model.test_step({"inputs": bgr, "data_samples": samples})

    def _parts(self) -> tuple[tuple[str, Config, str | None, str], ...]:
        return (
            ("detector", self.detector_config, self.config.det_weights, "--det-weights"),
            ("keypoints", self.pose_config, self.config.pose_weights, "--pose-weights"),
        )

    @cached_property
    def _canvas(self) -> tuple[int, int, int]:
        """Width, height and fill value of the detector's input."""
        width, height = models.step_of(self.detector_config, "Resize").scale
        fill = models.step_of(self.detector_config, "Pad").pad_val
        return width, height, int(fill["img"][0] if isinstance(fill, dict) else fill)

    @cached_property
    def _crop(self) -> CropGeometry:
        affine = models.step_of(self.pose_config, "TopdownAffine")
        padding = models.step_of(self.pose_config, "GetBBoxCenterScale").get("padding", 1.25)
        width, height = affine.input_size
        return CropGeometry(width, height, padding, udp=affine.get("use_udp", False))


def letterbox(frame: torch.Tensor, width: int, height: int, fill: int) -> tuple[torch.Tensor, tuple[float, float]]:
    """``frame`` uint8 [H, W, 3] resized to fit: uint8 [3, height, width], and the factors of x and y to it."""
    from torch.nn.functional import interpolate, pad

    source_height, source_width = frame.shape[:2]
    ratio = min(width / source_width, height / source_height)
    size = int(source_height * ratio + 0.5), int(source_width * ratio + 0.5)
    picture = interpolate(frame.permute(2, 0, 1)[None].float(), size=size, mode="bilinear")[0].round().byte()
    picture = pad(picture, (0, width - size[1], 0, height - size[0]), value=fill)
    return picture, (size[1] / source_width, size[0] / source_height)


def bilinear_crops(
    frames: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Crop m of frame m, uint8 [H, W, 3], at columns x [M, w] and rows y [M, h]: uint8 [M, 3, h, w], black outside.

    The frames may differ in size. x and y, float32, grow along each row.
    """
    import torch
    from torch.nn.functional import grid_sample

    # What a crop can touch of its frame, on a common black canvas: one call samples all, and little travels.
    first = np.floor(np.stack((x[:, 0], y[:, 0]), axis=1)).astype(int).clip(0)
    last = np.ceil(np.stack((x[:, -1], y[:, -1]), axis=1)).astype(int).clip(-1) + 1
    cutouts = [frame[y1:y2, x1:x2] for frame, (x1, y1), (x2, y2) in zip(frames, first, last, strict=True)]
    height, width = (max(1, *(cutout.shape[axis] for cutout in cutouts)) for axis in (0, 1))
    canvas = np.zeros((len(frames), height, width, 3), np.uint8)
    for place, cutout in zip(canvas, cutouts, strict=True):
        place[: cutout.shape[0], : cutout.shape[1]] = cutout
    # Pixel i has its centre at i; grid_sample's coordinates run from -1 to 1 between the outer edges.
    columns = torch.from_numpy((2 * (x - first[:, :1]) + 1) / width - 1)
    rows = torch.from_numpy((2 * (y - first[:, 1:]) + 1) / height - 1)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=-1).float().to(device)
    pictures = torch.from_numpy(canvas).to(device).permute(0, 3, 1, 2).float()
    return grid_sample(pictures, grid, padding_mode="zeros", align_corners=False).round().byte()


def _persons(boxes: np.ndarray, joints: Iterator[np.ndarray]) -> Persons:
    """One frame's boxes with as many of ``joints`` [17, 3], which run over all frames in order."""
    return Persons(np.array([next(joints) for _ in boxes], np.float32).reshape(-1, NUM_JOINTS, 3), boxes)


def _skeleton(config: Config) -> tuple[dict[int, int], list[int]]:
    """Which of a model's joints each COCO joint is, by name, and the permutation of its joints in a mirror."""
    from mmpose.apis.inference import dataset_meta_from_config

    meta = dataset_meta_from_config(config)
    kept = config.model.test_cfg.get("output_keypoint_indices") or range(len(meta["keypoint_id2name"]))
    names = [meta["keypoint_id2name"][joint] for joint in kept]
    joints = {coco: names.index(name) for coco, name in enumerate(COCO_JOINTS) if name in names}
    if not joints:
        raise UsageError(f"{models.name_of(config)} knows none of COCO's joints; choose a model of the human body")
    return joints, list(meta["flip_indices"])
