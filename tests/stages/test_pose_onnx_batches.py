"""ONNX models that take several pictures at once: which are believed to, and that it changes nothing."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import Blobs, export, picture

from stages.pose import PoseConfig
from stages.pose.onnx import OnnxEstimator
from stages.pose.onnx_model import OnnxModel
from stages.pose.onnx_spec import OnnxModelSpec
from store.errors import UsageError

SPEC = OnnxModelSpec("blobs", "heatmap", 64, 48, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))


def blobs(folder: Path, *, batch: int = 0, batch_size: int = 4, spec: OnnxModelSpec = SPEC, **faults: Any) -> OnnxModel:
    file = export(Blobs(**faults), folder / "blobs.onnx", ["output"], (64, 48), batch=batch)
    return OnnxModel(file, spec, device="cpu", batch_size=batch_size)


def pictures(count: int) -> np.ndarray:
    return np.stack([picture(64, 48, seed) for seed in range(count)])


def test_a_model_that_takes_several_pictures_is_given_several(tmp_path: Path) -> None:
    model = blobs(tmp_path)
    assert (model.batch, model.refusal) == (4, None)
    (together,) = model(pictures(4))
    for row, one in enumerate(pictures(4)):
        np.testing.assert_allclose(model(one[None])[0][0], together[row], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("fault", "words"), [("fails", r"it fails at 4 \(.*reshape"), ("mixes", "picture 1 of 4 does not give what")]
)
def test_a_model_that_says_so_and_cannot_takes_one_at_a_time(tmp_path: Path, fault: str, words: str) -> None:
    model = blobs(tmp_path, fault=fault)
    assert model.batch == 1
    assert re.search(words, model.refusal or "")
    assert "\n" not in str(model.refusal)


def test_a_fixed_number_of_pictures_is_kept(tmp_path: Path) -> None:
    model = blobs(tmp_path, batch=3, batch_size=16)
    assert (model.batch, model.refusal) == (3, None)
    with pytest.raises(UsageError, match=r"blobs.onnx takes 3 pictures at once, but picture 1 of 3 does not give"):
        blobs(tmp_path, batch=3, fault="mixes")


def test_the_joints_are_counted_where_the_signature_leaves_them_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives 26 joints; allowed: 17"):
        blobs(tmp_path, joints=26)


@pytest.fixture(scope="module")
def config(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> PoseConfig:
    """A detector that takes one picture at a time, and a keypoint model that takes four."""
    file = export(Blobs(), tmp_path_factory.mktemp("models") / "blobs.onnx", ["output"], (64, 48))
    detector = str(shared / "weights/rtmdet_nano_person/end2end.onnx")
    return PoseConfig(det_weights=detector, pose_weights=str(file), device="cpu", batch_size=4)


def estimator(config: PoseConfig, **changes: Any) -> OnnxEstimator:
    made = OnnxEstimator(replace(config, **changes))
    made.setup()
    return made


def people(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Persons in frames of many sizes, some of whose boxes reach outside."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        frame = picture(*rng.integers(40, 200, 2), seed=number)
        corner, size = rng.uniform(-20, 60, 2), rng.uniform(10, 120, 2)
        found.append((frame, np.concatenate((corner, corner + size)).astype(np.float32)))
    return found


def test_batches_give_what_single_pictures_give(config: PoseConfig) -> None:
    many = people(11)
    batched, single = estimator(config), estimator(config, batch_size=1)
    assert (batched._keypoints.batch, single._keypoints.batch) == (4, 1)
    got, want = batched.keypoints(many), single.keypoints(many)
    assert np.ptp(want[..., :2], axis=1).min() > 5  # joints lie apart, so that a mistake would show
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_keypoints_have_the_same_bytes_whatever_the_neighbours(config: PoseConfig) -> None:
    many, one = people(9), estimator(config, threads=1)
    want = one.keypoints(many)
    order = np.random.default_rng(1).permutation(9)
    shuffled = one.keypoints([many[place] for place in order])
    np.testing.assert_array_equal(shuffled, want[order])
    for number in (0, 5, 8):
        np.testing.assert_array_equal(one.keypoints([many[number]])[0], want[number])
    np.testing.assert_array_equal(estimator(config, threads=3).keypoints(many), want)
    assert one.keypoints([]).shape == (0, 17, 3)


def test_what_cannot_take_several_is_named_once(config: PoseConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = estimator(config)
        made.detect([picture(200, 300, seed) for seed in range(5)])
    assert (made._detector.batch, made._keypoints.batch) == (1, 4)
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(
        r"rtmdet_nano_person/end2end.onnx takes one picture at a time, 2 side by side: it fails at 4", line
    )
    assert "\n" not in line


def test_the_group_does_not_depend_on_the_batch(config: PoseConfig) -> None:
    """As for every other model: the store records the size of batches beside the group, and warns where it changes."""
    assert OnnxEstimator(config).record() == OnnxEstimator(replace(config, batch_size=1)).record()
