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
from pipeline.studies.estimators import accuracies, agreement, estimators_study
from stages.pose.tracking import keypoint_similarity
from store import FeatureStore, UsageError

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


def test_accuracies_are_over_the_videos_that_all_tested() -> None:
    right = {
        "a": {(1, "v"): 1.0, (1, "w"): 0.0, (1, "x"): 1.0},
        "b": {(1, "v"): 1.0, (1, "w"): 1.0, (2, "w"): 0.0},
    }
    sources = {key: key[1] for of_group in right.values() for key in of_group}
    found = accuracies(right, sources)
    assert (found["a"].top1, found["b"].top1, found["b"].difference) == (0.5, 1.0, 0.5)
    assert found["a"].videos == found["b"].videos == 2
    assert found["a"].difference_interval == (0, 0)


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


def test_study_on_true_and_worse_poses(store: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    report = estimators_study(store, epochs=1, frames=4, out=tmp_path / "out", device="cpu", told=heard.append)
    truth, worse = report.poses
    assert truth.startswith("precomputed-truth")
    assert worse.startswith("precomputed-worse")
    assert report.videos == 24
    assert report.seen[truth].detection_rate > report.seen[worse].detection_rate > 0.3
    assert set(report.seen[truth].by_class) == set(CLASSES)
    assert 0.5 < report.seen[truth].inside["center"] <= 1
    (agreed,) = report.agreement.values()
    assert 0.3 < agreed < 0.9
    for name in report.poses:
        assert 0 <= report.accuracy[name].top1 <= 1
        assert report.accuracy[name].interval[0] <= report.accuracy[name].top1 <= report.accuracy[name].interval[1]
        assert (tmp_path / "out" / name).is_dir()
    assert report.accuracy[truth].difference == 0
    assert any("random weights" in note for note in report.warnings)
    written = json.loads((tmp_path / "out/estimators.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    titles, rows = report.table()
    assert all(len(row) == len(titles) for row in rows)
    assert len(heard) == 3


def test_one_group_is_nothing_to_compare(store: Path) -> None:
    with pytest.raises(UsageError, match="1 pose groups to compare; add another with: vilp-pipe extract"):
        estimators_study(store, poses=["precomputed-truth"])


def test_study_with_a_real_estimator(store: Path, shared: Path, tmp_path: Path) -> None:
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
    report = estimators_study(store, epochs=1, frames=4, out=tmp_path / "out", device="cpu")
    (onnx,) = (name for name in report.poses if name.startswith("onnx"))
    assert len(report.poses) == 3
    assert len(report.agreement) == 3
    assert report.seen[onnx].frame_seconds > 0
    assert report.seen[onnx].detection_rate > 0.05
