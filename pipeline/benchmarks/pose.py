"""Pose: our batches over persons, frames and videos against mmpose's own inferencer, frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare, discard
from pipeline.benchmarks.clips import ClipSet
from pipeline.progress import Progress
from stages.pose.base import PoseConfig
from stages.pose.mmcv_compat import require_packages

DETECTOR = "rtmdet_nano_320-8xb32_coco-person"
KEYPOINTS = "rtmpose-t_8xb256-420e_coco-256x192"
PERSONS = 2  # a frame: random weights find as many as they are told to
PLAIN = "mmpose's inferencer"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Frames a second from decoded frames to keypoints. Raises ``MissingError`` where mmpose is not installed."""
    require_packages()
    decoded = clips.decoded(config.clip_videos, config.frames)
    progress.note(f"pose: building {DETECTOR} and {KEYPOINTS}")
    ours = make_estimator()
    inferencer = _inferencer(ours)
    frames = [np.ascontiguousarray(frame[..., ::-1]) for clip in decoded for frame in clip.video.frames]
    found = sum(len(persons) for clip in ours(decoded) for persons in clip)
    theirs = _frame_by_frame(inferencer, frames)
    ways: dict[str, Way] = {
        PLAIN: partial(discard, _frame_by_frame, inferencer, frames),
        "ours": partial(discard, ours, decoded),
    }
    device = next(ours._pose.parameters()).device
    return [
        compare(
            "pose",
            "pose: RTMDet-nano and RTMPose-t",
            ways,
            plain=PLAIN,
            count=len(frames),
            unit="frames",
            rounds=config.rounds,
            progress=progress,
            columns={"ours": {"persons": found}, PLAIN: {"persons": theirs}},
            notes=(
                f"{config.frames} decoded frames of each of {len(decoded)} clips ({clips.what}), on {device}",
                f"random weights, with which both find {PERSONS} persons in every frame; the flip test as configured",
                "the inferencer detects frame by frame, and cuts the crops of a frame one by one",
            ),
        )
    ]


def make_estimator() -> Any:
    """Our estimator of these models, set up, on the GPU where there is one."""
    from stages.pose.mmpose import TopDownEstimator

    settings = {"det_weights": "none", "pose_weights": "none", "config": f"{DETECTOR},{KEYPOINTS}"}
    estimator = TopDownEstimator(
        PoseConfig(backend="mmpose", max_persons=PERSONS, max_detections=PERSONS, **settings)  # type: ignore[arg-type]
    )
    estimator.detector_config.model.test_cfg.max_per_img = PERSONS
    estimator.setup()
    return estimator


def _inferencer(ours: Any) -> Any:
    """mmpose's inferencer of the same models with the same weights, told to keep as many boxes."""
    from mmpose.apis.inferencers import Pose2DInferencer

    from stages.pose.mmpose_models import build

    logging.getLogger("mmengine").setLevel(logging.ERROR)  # it warns of weights that are not there
    device = str(next(ours._pose.parameters()).device)
    made = Pose2DInferencer(
        ours.pose_config.filename,
        device=device,
        det_model=ours.detector_config.filename,
        det_cat_ids=[0],
    )
    for model, config in ((made.model, ours.pose_config), (made.detector.model, ours.detector_config)):
        model.load_state_dict(build(config, weights="none", flag="", seed=0, device="cpu").state_dict())
    detector = made.detector.model
    detector.test_cfg = detector.bbox_head.test_cfg = ours.detector_config.model.test_cfg
    made.show_progress = made.detector.show_progress = False
    return made


def _frame_by_frame(inferencer: Any, frames: Sequence[np.ndarray]) -> int:
    """Persons that the inferencer finds in frames uint8 [H, W, 3] (BGR)."""
    results = inferencer(list(frames), bbox_thr=-1.0, nms_thr=1.0)
    return sum(len(result["predictions"][0]) for result in results)
