"""The study of estimators: its measures by hand, and the whole of it on the synthetic set."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ExtractConfig
from pipeline.datasets.synthetic import SyntheticConfig, render_dataset
from pipeline.extraction import extract
from pipeline.head.train import TrainConfig
from pipeline.studies.base import StudyConfig
from pipeline.studies.groups import study_estimators
from pipeline.studies.report import Report
from pipeline.studies.seen import agreement
from stages.pose.tracking import keypoint_similarity
from store import FeatureStore

CLASSES = ("raise arms", "sit down", "stand up", "hold ball")


def people(*shape: int, seed: int = 0) -> np.ndarray:
    """Persons [*shape, 17, 3] in pixels, all joints seen."""
    rng = np.random.default_rng(seed)
    persons = rng.uniform(0, 40, (*shape, 17, 3)) + rng.uniform(0, 400, (*shape, 1, 3))
    persons[..., 2] = rng.uniform(0.2, 1, (*shape, 17))
    return persons


def test_agreement_with_itself_in_any_order_is_one() -> None:
    persons = people(5, 3)
    np.testing.assert_allclose(agreement(persons, persons), 1)
    np.testing.assert_allclose(agreement(persons, persons[:, ::-1]), 1)


def test_agreement_by_hand() -> None:
    nobody = np.zeros((1, 2, 17, 3))
    one = nobody.copy()
    one[:, 0] = people(1)
    two = one.copy()
    two[:, 1] = people(1, seed=1)
    two[:, 1, :, :2] += 300
    assert math.isnan(agreement(nobody, nobody)[0])
    assert agreement(nobody, one)[0] == 0
    assert agreement(one, two)[0] == pytest.approx(0.5)  # the same person, and one whom the other does not see
    moved = one.copy()
    moved[:, 0, 5, :2] += 20  # one joint
    area = np.prod(np.ptp(one[0, 0, :, :2], axis=0)) / 2 + np.prod(np.ptp(moved[0, 0, :, :2], axis=0)) / 2
    want = keypoint_similarity(one[0, :1], moved[0, :1], np.array([area]))[0, 0]
    assert agreement(one, moved)[0] == pytest.approx(want)
    hidden = one.copy()
    hidden[:, 0, 5:] = 0
    assert agreement(one, hidden)[0] == pytest.approx(1)  # over the joints that both see


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 30))
def test_agreement_lies_in_0_to_1_and_is_symmetric(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    first = people(4, 3, seed=seed)
    first[..., 2] *= rng.random(first.shape[:-2])[..., None] > 0.4
    second = first + rng.normal(0, 1, first.shape) * (noise, noise, 0)
    both, back = agreement(first, second), agreement(second, first)
    np.testing.assert_allclose(both, back)
    assert ((both[np.isfinite(both)] >= 0) & (both[np.isfinite(both)] <= 1 + 1e-9)).all()


# On the synthetic set


def degraded(truth: Path, path: Path, *, noise: float, dropped: float) -> Path:
    """The true poses with jitter (a share of the frame) and with rows taken out."""
    rng = np.random.default_rng(0)
    table = pq.read_table(truth)
    keypoints = np.array(table["keypoints"].to_pylist(), dtype=object)
    moved = [
        None if row is None else (np.reshape(row, (17, 3)) + rng.normal(0, noise, (17, 3)) * (1, 1, 0)).ravel()
        for row in keypoints
    ]
    column = pa.array([None if row is None else row.tolist() for row in moved], pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("keypoints"), "keypoints", column)
    person = table["person"].to_numpy()
    keep = (person < 0) | (rng.random(len(table)) >= dropped)
    # A video that loses every row has nobody, which a row says.
    kept = table.filter(pa.array(keep))
    gone = sorted(set(table["video_id"].to_pylist()) - set(kept["video_id"].to_pylist()))
    nobody = [{"video_id": name, "frame": 0, "person": -1, "keypoints": None, "box": None} for name in gone]
    pq.write_table(pa.concat_tables([kept, pa.Table.from_pylist(nobody, schema=kept.schema)]), path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """True poses, and worse ones, of 24 rendered videos."""
    root = tmp_path_factory.mktemp("estimators")
    config = SyntheticConfig(classes=CLASSES, num_subjects=3, clips=2, num_frames=(48, 56), sizes=((160, 120),))
    render_dataset(root / "videos", config=config)
    base = ExtractConfig(
        dataset="synthetic",
        root=str(root / "videos"),
        store=str(root / "store"),
        frames=4,
        pose_frames=8,
        engine="inline",
        clip="tiny",
        clip_pretrained="none",
        tokens=("value",),
        pose="precomputed",
        precision="fp32",
    )
    extract(base)
    worse = degraded(root / "videos/truth.parquet", root / "worse.parquet", noise=0.02, dropped=0.3)
    extract(replace(base, modalities=("pose",), pose_config=str(worse)))
    return root / "store"


def study(store: Path) -> Report:
    config = StudyConfig(str(store), frames=4, seeds=1, device="cpu", training=TrainConfig(epochs=1))
    return study_estimators(config, lambda line: None)


def test_study_on_true_and_worse_poses(store: Path) -> None:
    report = study(store)
    truth, worse = (str(row[0]) for row in report.rows)
    assert truth.startswith("precomputed-truth")
    assert worse.startswith("precomputed-worse")
    seen = report.details["seen"]
    assert seen[truth]["detection_rate"] > seen[worse]["detection_rate"] > 0.3
    assert set(seen[truth]["by_class"]) == set(CLASSES)
    assert 0.5 < seen[truth]["inside"]["center"] <= 1
    (agreed,) = report.details["agreement"].values()
    assert 0.3 < agreed < 0.9
    assert all(len(row) == len(report.columns) for row in report.rows)
    json.dumps(report.to_dict())


def test_study_with_a_real_estimator(store: Path, shared: Path) -> None:
    """RTMDet-nano and MoveNet on rendered people, beside the truth: they see somebody, and not always as it is."""
    opened = FeatureStore.open(store)
    weights = shared / "weights"
    config = replace(
        ExtractConfig.from_recipe(dict(opened.group("pose", "precomputed-truth").recipe)),
        store=str(store),
        modalities=("pose",),
        pose="onnx",
        det_weights=str(weights / "rtmdet_nano_person/end2end.onnx"),
        pose_weights=str(weights / "movenet_lightning/movenet_lightning_int8_dequantized.onnx"),
    )
    extract(config)
    report = study(store)
    (onnx,) = (str(row[0]) for row in report.rows if str(row[0]).startswith("onnx"))
    assert len(report.rows) == len(report.details["agreement"]) == 3
    assert report.details["seen"][onnx]["frame_seconds"] > 0
    assert report.details["seen"][onnx]["detection_rate"] > 0.05
