"""One-stage models of mmpose: against mmpose's own inference, with random weights."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.pose import mmpose_models as models
from stages.pose.base import PoseConfig, PoseEstimator
from stages.pose.mmpose import TopDownEstimator
from stages.pose.mmpose_onestage import OneStageEstimator
from stages.pose.stage import create_estimator
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import MissingError, UsageError

torch.set_num_threads(1)  # mmpose would wait for threads that other tests keep busy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="the extra mmpose is not installed")

RTMO = "rtmo-t_8xb32-600e_body7-416x416"
RANDOM = PoseConfig(
    backend="mmpose",
    pose_weights="none",
    config=RTMO,
    max_persons=2,
    max_detections=5,
    device="cpu",
    threads=1,
    batch_size=2,
)


@pytest.fixture(scope="module")
def estimator() -> OneStageEstimator:
    made = create_estimator(RANDOM)
    assert isinstance(made, OneStageEstimator)
    made.setup()
    return made


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(240, 320), (416, 416), (500, 300)])
def test_persons_equal_those_of_inference_bottomup(estimator: OneStageEstimator, size: tuple[int, int]) -> None:
    from mmengine.registry import DefaultScope
    from mmpose.apis import inference_bottomup
    from mmpose.apis.inference import dataset_meta_from_config

    model = models.build(estimator.pose_config, weights="none", flag="", seed=0, device="cpu")
    model.cfg, model.dataset_meta = estimator.pose_config, dataset_meta_from_config(estimator.pose_config)
    frame = picture(*size)
    with DefaultScope.overwrite_default_scope("mmpose"):
        stock = inference_bottomup(model, frame[..., ::-1].copy())[0].pred_instances
    (got,) = estimator.persons([frame])
    assert len(got) == 5
    for box, keypoints in zip(got.boxes, got.keypoints, strict=True):
        nearest = int(np.abs(stock.keypoints - keypoints[:, :2]).max((1, 2)).argmin())
        assert np.abs(stock.keypoints[nearest] - keypoints[:, :2]).max() < 0.5
        np.testing.assert_allclose(keypoints[:, 2], stock.keypoint_scores[nearest], atol=0.02)
        assert box[4] == pytest.approx(stock.bbox_scores[nearest], abs=0.02)
        inside = stock.bboxes[nearest].clip(0, np.tile(size[::-1], 2))
        np.testing.assert_allclose(box[:4], inside, atol=0.5)
    assert np.ptp(got.keypoints[..., 0]) > 20


def clip(*frames: np.ndarray) -> Clip:
    stacked = np.stack(frames)
    stacked.flags.writeable = False
    count, height, width = stacked.shape[:3]
    places = np.arange(count, dtype=np.int32)
    return Clip(VideoRef(0, "v", ""), DecodedVideo(stacked, places, places / 25, count, count, 25.0, width, height))


def test_results_do_not_depend_on_the_other_clips(estimator: OneStageEstimator) -> None:
    clips = [clip(*(picture(90, 120, seed) for seed in range(3))), clip(picture(200, 150, 9))]
    together = estimator(clips)
    for one, frames in zip(clips, together, strict=True):
        (alone,) = estimator([one])
        for mine, others in zip(alone, frames, strict=True):
            np.testing.assert_array_equal(mine.keypoints, others.keypoints)
            np.testing.assert_array_equal(mine.boxes, others.boxes)
    assert estimator([]) == []


def test_the_record_is_plain_json_and_needs_no_detector() -> None:
    made = OneStageEstimator(RANDOM)
    assert isinstance(made, PoseEstimator)
    assert made.name == "mmpose-rtmo-t_body7-416x416"
    record = made.record()
    assert json.loads(json.dumps(record)) == record
    assert record["canvas"] == {"width": 416, "height": 416, "fill": 114}
    assert OneStageEstimator(replace(RANDOM, det_weights="somewhere.pth", threads=2)).record() == record
    assert OneStageEstimator(replace(RANDOM, seed=1)).record() != record


def test_other_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(create_estimator(PoseConfig(backend="mmpose")), TopDownEstimator)
    for config, words in [
        (f"rtmdet_nano_320-8xb32_coco-person,{RTMO}", "a one-stage model has no detector"),
        ("dekr_hrnet-w32_8xb10-140e_coco-512x512", "DEKRHead; allowed of one-stage models: RTMO"),
    ]:
        with pytest.raises(UsageError, match=words):
            create_estimator(replace(RANDOM, config=config)).record()
    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(MissingError, match=rf"no route\): put rtmo-t[\w.-]+pth into {tmp_path}/weights, or"):
        create_estimator(replace(RANDOM, pose_weights=None)).record()


class Harmful:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_checkpoints_execute_nothing(estimator: OneStageEstimator, tmp_path: Path) -> None:
    file, target = tmp_path / "rtmo.pth", tmp_path / "made"
    weights = models.build(estimator.pose_config, weights="none", flag="", seed=0, device="cpu").state_dict()
    torch.save({"state_dict": weights, "meta": Harmful(target)}, file)
    with pytest.raises(UsageError, match=r"--pose-weights.*rtmo\.pth.*mkdir"):
        create_estimator(replace(RANDOM, pose_weights=str(file))).setup()
    assert not target.exists()
    torch.save({"state_dict": weights}, file)
    loaded = OneStageEstimator(replace(RANDOM, pose_weights=str(file)))
    loaded.setup()
    frame = picture(90, 120)
    loaded._model.test_cfg.update(estimator._model.test_cfg)
    np.testing.assert_array_equal(loaded.persons([frame])[0].keypoints, estimator.persons([frame])[0].keypoints)
