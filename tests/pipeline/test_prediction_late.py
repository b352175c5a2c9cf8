"""Predicting with a fused pair: a head that reads words and a skeleton network, as ``evaluate --late`` found them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from extractions import small_config

from pipeline import posefeat, predict
from pipeline.config import ExtractConfig
from pipeline.extraction import extract
from pipeline.head import fused, late, late_fusion, train_head
from pipeline.head.checkpoint import PREDICTIONS
from pipeline.head.fused import is_fused, read_fused, write_fused
from store import FeatureStore, StoreError, UsageError

CODE = ("plain_pose:PlainEstimator",)
FAST = {"frames": 2, "epochs": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def made(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run of each head with two seeds, and both fused with weight 2: as runs, and by way of the store."""
    root = tmp_path_factory.mktemp("late")
    extract(small_config(small_videos, root / "store", pose=CODE[0], pose_frames=8))
    store = FeatureStore.open(root / "store")
    for head in ("vcs", "poseconv"):
        train_head(store, head=head, seeds=2, out=root / head, **FAST)
    with pytest.MonkeyPatch.context() as patch:
        # There are too few videos to hold some out.
        for module in (late, posefeat):
            patch.setattr(module, "inner_folds", lambda labels, sources: [(np.arange(len(labels)),) * 2])
        patch.setattr(late, "choose_weight", lambda *_: (2.0, {"2": 1.0}))
        write_fused(root / "late", late_fusion(root / "vcs", [root / "poseconv"], device="cpu"))
        extract(ExtractConfig(store=str(root / "store"), modalities=("posefeat",), posefeat=(str(root / "poseconv"),)))
        write_fused(root / "stored", late_fusion(root / "vcs", ["posefeat"], device="cpu"))
    return root


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def recorded(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names of the test videos, and what both heads together say of them, the mean over the seeds."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / PREDICTIONS)
    names = list(dict.fromkeys(table["video_id"].to_pylist()))
    logits = np.array(table["logits"].to_pylist()).reshape(-1, len(names), len(table["logits"][0]))
    assert len(logits) == 2
    return names, softmax(logits).mean(axis=0)


@pytest.mark.parametrize("by", ["late", "stored"])
def test_scores_are_those_of_the_evaluation(made: Path, small_videos: Path, by: str) -> None:
    store = FeatureStore.open(made / "store")
    paths = dict(zip(*(store.videos[name].to_pylist() for name in ("video_id", "path")), strict=True))
    names, expected = recorded(made / by)
    found = predict([small_videos / paths[name] for name in names], run=made / by, code=CODE)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.head == "vcs with poseconv"
    assert [video.classes[0][0] for video in found.videos] == [store.class_names[i] for i in expected.argmax(axis=1)]
    # Neither half alone says so.
    for half in ("vcs", "poseconv"):
        alone = predict([small_videos / paths[name] for name in names], run=made / half, code=CODE)
        assert np.abs(alone.scores - found.scores).max() > 1e-4


def test_a_bad_video_costs_itself(made: Path, small_videos: Path) -> None:
    found = predict(
        [small_videos / "jump & run" / name for name in ("broken.mp4", "d.mp4")], run=made / "late", code=CODE
    )
    assert [video.error_kind for video in found.videos] == ["not-a-video", ""]


def test_a_half_that_was_trained_again_is_refused(made: Path, small_videos: Path, tmp_path: Path) -> None:
    record = json.loads((made / "late" / "late.json").read_text())
    record["splits"][0]["pairs"][0][1] = "0" * 64
    (tmp_path / "late.json").write_text(json.dumps(record))
    assert is_fused(tmp_path)
    with pytest.raises(StoreError, match=r"poseconv was trained again since it was fused"):
        predict(small_videos, run=tmp_path, code=CODE)
    record["other_run"] = None
    (tmp_path / "late.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="which no run here gives for other videos"):
        read_fused(tmp_path)
    with pytest.raises(UsageError, match="holds no late fusion"):
        fused.check_place(made / "vcs")
