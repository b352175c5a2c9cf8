"""The ONNX backend against the mmpose backend: the same weights, exported as MMDeploy does, and the same pictures."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import DETECTOR, HEATMAP, SIMCC, Blobs, Detections, Keypoints, Nobody, export, lively, picture

from stages.pose import PoseConfig
from stages.pose.mmpose import TopDownEstimator
from stages.pose.onnx import OnnxEstimator

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="the extra mmpose is not installed")

HRNET = "td-hm_hrnet-w32_8xb64-210e_coco-256x192"
FRAMES = [picture(270, 480, 1), picture(240, 320, 2), picture(320, 320, 3), picture(500, 300, 4)]
BOXES = np.array([[78, 44, 235, 206], [100, 50, 150, 200], [-20, -30, 150, 220], [200, 100, 380, 300]], np.float32)
PEOPLE = [(frame, box) for frame in FRAMES for box in BOXES]
# Windows of 192 x 256 whole pixels: nothing is interpolated, so that both cut the very same crops. Elsewhere they round
# differently, by a grey level, which now and then moves the peak of a random heatmap.
CORNERS = np.array([[10, 0], [100, 30], [-40, -20], [260, 120]])
OWN_SIZE = np.array([19.2, 25.6, 19.2 + 153.6, 25.6 + 204.8])
ALIGNED = [(frame, (np.tile(at, 2) + OWN_SIZE).astype(np.float32)) for frame in FRAMES for at in CORNERS]
NORMALISED = {"colour": "rgb", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


@pytest.fixture(autouse=True)
def no_other_threads() -> None:
    torch.set_num_threads(1)


def both(pose: str, *, weights: dict[str, str], models: dict[str, Path]) -> tuple[OnnxEstimator, Any]:
    """The estimators of the ONNX files ``models`` and of the checkpoints ``weights`` (default: random)."""
    common = PoseConfig(device="cpu", max_detections=8, batch_size=4)
    onnx = OnnxEstimator(replace(common, **{key: str(file) for key, file in models.items()}))
    checkpoints = {"det_weights": "none", "pose_weights": "none", **weights}
    stock = TopDownEstimator(replace(common, backend="mmpose", config=f"{DETECTOR},{pose}", **checkpoints))
    stock.pose_config.model.test_cfg.flip_test = False  # an export has no mirror image beside it
    onnx.setup()
    stock.setup()
    return onnx, stock


@pytest.mark.parametrize(
    ("pose", "outputs", "inside"),
    [
        (SIMCC, ["simcc_x", "simcc_y"], False),
        pytest.param(SIMCC, ["simcc_x", "simcc_y"], True, marks=pytest.mark.slow),
        pytest.param(HEATMAP, ["output"], True, marks=pytest.mark.slow),
        pytest.param(HRNET, ["output"], False, marks=pytest.mark.slow),
    ],
)
def test_exported_keypoint_models_give_the_same_keypoints(
    pose: str, outputs: list[str], inside: bool, tmp_path: Path
) -> None:
    """Their input normalised before the graph or inside it, as a spec file says."""
    model = lively(pose)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "pose.pth")
    file = export(Keypoints(model, normalise=inside), tmp_path / "pose.onnx", outputs, (256, 192))
    spec = {"name": "mine", "output": "simcc" if pose == SIMCC else "heatmap", "height": 256, "width": 192}
    file.with_suffix(".spec.json").write_text(json.dumps(spec | ({"colour": "bgr"} if inside else NORMALISED)))
    nobody = export(Nobody(), tmp_path / "nobody.onnx", ["dets", "labels"], (320, 320))
    models = {"det_weights": nobody, "pose_weights": file}
    onnx, stock = both(pose, weights={"pose_weights": str(tmp_path / "pose.pth")}, models=models)
    assert onnx._keypoints.batch == 4
    people = PEOPLE if pose == SIMCC else ALIGNED
    got, want = onnx.keypoints(people), stock.keypoints(people)
    seen = want[..., 2] > 0
    assert seen.mean() > 0.8
    assert np.ptp(want[..., :2], axis=1).max() > 50
    assert np.abs(got - want)[seen][:, :2].max() < 0.5
    np.testing.assert_allclose(got[..., 2], want[..., 2], atol=0.01)


def test_an_exported_detector_gives_the_same_boxes(tmp_path: Path) -> None:
    """On pictures of its own size: resizing rounds differently, by a grey level, which random weights blow up."""
    frames = [picture(320, 320, seed) for seed in range(6)]
    model = lively(DETECTOR)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "detector.pth")
    with torch.no_grad():
        file = export(Detections(model, iou=0.3), tmp_path / "detector.onnx", ["dets", "labels"], (320, 320))
    blobs = export(Blobs(), tmp_path / "blobs.onnx", ["output"], (64, 48))
    models = {"det_weights": file, "pose_weights": blobs}
    onnx, stock = both(SIMCC, weights={"det_weights": str(tmp_path / "detector.pth")}, models=models)
    assert onnx._detector.batch == 4
    for got, want in zip(onnx.detect(frames), stock.detect(frames), strict=True):
        assert len(want) >= 3
        np.testing.assert_allclose(got, want, atol=0.5)
