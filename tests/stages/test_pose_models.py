"""The models that docs/pose.md names: each is there, is built, and finds persons; each has a published checkpoint."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from stages.pose import PoseConfig
from stages.pose.base import PoseEstimator
from stages.pose.checkpoints import published_checkpoint
from stages.pose.mmpose import mmpose_estimator
from stages.pose.mmpose_models import read_config
from stages.types import Clip, DecodedVideo, VideoRef

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="the extra mmpose is not installed")

DETECTORS = ("rtmdet_nano_320-8xb32_coco-person", "rtmdet_m_640-8xb32_coco-person")
TOP_DOWN = (
    *(f"rtmpose-{size}_8xb256-420e_coco-256x192" for size in "tsml"),
    "td-hm_hrnet-w32_8xb64-210e_coco-256x192",
    "td-hm_hrnet-w48_8xb32-210e_coco-256x192",
)
ONE_STAGE = (
    "rtmo-t_8xb32-600e_body7-416x416",
    "rtmo-s_8xb32-600e_body7-640x640",
    "rtmo-m_16xb16-600e_body7-640x640",
    "rtmo-l_16xb16-600e_body7-640x640",
)
VIT = tuple(f"td-hm_ViTPose-{size}_8xb64-210e_coco-256x192" for size in ("small", "base"))
needs_mmpretrain = pytest.mark.skipif(
    importlib.util.find_spec("mmpretrain") is None, reason="mmpretrain is not installed"
)


def estimator(model: str) -> PoseEstimator:
    """With random weights and RTMDet-nano before a top-down model."""
    config = model if model in ONE_STAGE else f"{DETECTORS[0]},{model}"
    settings = {"config": config, "det_weights": "none", "pose_weights": "none", "max_persons": 2, "max_detections": 2}
    return mmpose_estimator(PoseConfig(backend="mmpose", device="cpu", threads=1, batch_size=2, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [*TOP_DOWN, *ONE_STAGE])
def test_each_has_a_config_and_a_record(model: str) -> None:
    made = estimator(model)
    assert made.name == f"mmpose-{model.split('_8xb')[0].split('_16xb')[0]}_{model.rpartition('_')[2]}"
    record = made.record()
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("model", [*DETECTORS, *TOP_DOWN, *ONE_STAGE])
def test_each_has_a_published_checkpoint(model: str) -> None:
    url = published_checkpoint(read_config(model))
    assert url is not None
    assert url.startswith("https://")
    assert url.endswith(".pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [*TOP_DOWN, *ONE_STAGE, *(pytest.param(name, marks=needs_mmpretrain) for name in VIT)]
)
def test_each_finds_persons(model: str) -> None:
    torch.set_num_threads(1)
    made = estimator(model)
    made.setup()
    frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)
    places = np.arange(2, dtype=np.int32)
    video = DecodedVideo(frames, places, places / 25, 2, 2, 25.0, 160, 120)
    (found,) = made([Clip(VideoRef(0, "v", ""), video)])
    assert isinstance(found, list)
    for persons in found:
        assert len(persons) == 2
        assert np.isfinite(persons.keypoints).all()
        assert persons.keypoints[..., 2].max() > 0
