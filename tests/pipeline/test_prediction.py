"""From files to classes without a store: the features of an extraction to the byte, and bad videos cost themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from extractions import small_config

from pipeline import predict
from pipeline.compute import Computer, recorded_graphs
from pipeline.extraction import extract
from pipeline.head.checkpoint import load_predictions, read_run
from pipeline.head.evaluate import train_head
from pipeline.prediction import find_files
from stages.types import VideoRef
from store import FeatureStore, MissingError, StoreError, UsageError

CODE = ("plain_pose:PlainEstimator",)
POSE = {"pose": CODE[0], "pose_frames": 8}


@pytest.fixture(scope="module")
def extracted(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = tmp_path_factory.mktemp("extracted") / "store"
    extract(small_config(small_videos, store, **POSE))
    return FeatureStore.open(store)


@pytest.fixture(scope="module")
def run(extracted: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fuse"
    train_head(extracted, head="fuse", frames=2, epochs=2, seeds=2, device="cpu", out=out)
    return out


def groups(store: FeatureStore) -> tuple[str, str]:
    return store.group("clip").modality.id, store.group("pose").modality.id


def assert_same_bytes(store: FeatureStore, refs: list[VideoRef]) -> None:
    """What is computed for ``refs`` now is what the store holds of them: every array of every group."""
    slot_of = dict(zip(*(store.videos[name].to_pylist() for name in ("video_id", "slot")), strict=True))
    with Computer(recorded_graphs(store, *groups(store), weights={}, code=CODE))(refs, store.class_names) as computed:
        usable = computed.store.usable([computed.store.group("clip"), computed.store.group("pose")])
        assert usable
        for path, group in computed.store.groups.items():
            assert path in store.groups
            for name in group.modality.arrays:
                mine = computed.store.rows(group, name, usable)
                theirs = store.rows(store.groups[path], name, [slot_of[refs[slot].video_id] for slot in usable])
                assert mine.tobytes() == theirs.tobytes(), (path, name)


def refs_of(store: FeatureStore, root: Path) -> list[VideoRef]:
    rows = store.videos.to_pylist()
    return [VideoRef(i, row["video_id"], str(root / row["path"])) for i, row in enumerate(rows)]


def test_features_are_those_of_an_extraction_to_the_byte(extracted: FeatureStore, small_videos: Path) -> None:
    refs = refs_of(extracted, small_videos)
    assert len(extracted.groups) == 5  # clip, its text, pose, two of frames
    assert_same_bytes(extracted, refs)
    # Alone, and among others in another order: neighbours change nothing.
    good = next(ref for ref in refs if ref.path.endswith("c.avi"))
    assert_same_bytes(extracted, [dataclasses.replace(good, slot=0)])
    assert_same_bytes(extracted, [dataclasses.replace(ref, slot=i) for i, ref in enumerate(reversed(refs))])


def test_groups_that_were_made_apart_are_computed_apart(small_videos: Path, tmp_path: Path) -> None:
    extract(small_config(small_videos, tmp_path / "s"))
    later = small_config(small_videos, tmp_path / "s", frames=3, pose="plain_pose:PlainEstimator", pose_frames=6)
    extract(dataclasses.replace(later, modalities=("pose",)))
    store = FeatureStore.open(tmp_path / "s")
    assert len(recorded_graphs(store, *groups(store), weights={}, code=CODE)) == 2
    assert_same_bytes(store, refs_of(store, small_videos))


def test_scores_are_those_of_the_evaluation(extracted: FeatureStore, small_videos: Path, run: Path) -> None:
    recorded = load_predictions(read_run(run))
    paths = dict(zip(*(extracted.videos[name].to_pylist() for name in ("video_id", "path")), strict=True))
    found = predict([small_videos / paths[video] for video in recorded[0].video_ids], run=run, code=CODE)
    logits = np.stack([p.scores for p in recorded])
    softmax = np.exp(logits - logits.max(axis=2, keepdims=True))
    expected = (softmax / softmax.sum(axis=2, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    best = [video.classes[0][0] for video in found.videos]
    assert best == [extracted.class_names[label] for label in expected.argmax(axis=1)]


@pytest.mark.parametrize("head", ["pose", "poseconv"])
def test_heads_of_skeletons_do_without_clip(
    extracted: FeatureStore, small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """And say what they say beside it, to the bit: a figure, which draws the frames of CLIP, still computes it."""
    train_head(extracted, head=head, frames=2, epochs=2, seeds=2, device="cpu", out=tmp_path / "run")
    assert read_run(tmp_path / "run").selection.clip is not None
    beside = predict(small_videos, run=tmp_path / "run", figure=tmp_path / "drawn.png", code=CODE)
    monkeypatch.setattr("stages.clip.encoder.ClipEncoder.__init__", lambda *given: pytest.fail("made CLIP"))
    alone = predict(small_videos, run=tmp_path / "run", code=CODE)
    np.testing.assert_array_equal(alone.scores, beside.scores)
    assert alone == dataclasses.replace(beside, scores=alone.scores)
    assert np.isfinite(alone.scores).all(axis=1).sum() == 6


def test_a_bad_video_costs_itself(small_videos: Path, run: Path, tmp_path: Path) -> None:
    figure = tmp_path / "out" / "predicted.png"
    found = predict([small_videos, tmp_path / "gone.mp4"], run=run, figure=figure, code=CODE)
    by_name = {Path(video.path).name: video for video in found.videos}
    assert len(by_name) == 8
    assert (by_name["broken.mp4"].error_kind, by_name["broken.mp4"].classes) == ("not-a-video", ())
    assert by_name["gone.mp4"].error_kind == "file-missing"
    assert by_name["cut.avi"].partial
    good = [video for video in found.videos if not video.error_kind]
    assert len(good) == 6
    assert all(sum(score for _, score in video.classes) == pytest.approx(1, abs=1e-5) for video in good)
    assert np.isnan(found.scores).all(axis=1).tolist() == [bool(video.error_kind) for video in found.videos]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found.to_dict()))["videos"][-1]["error_kind"] == "file-missing"
    assert any("random weights" in line for line in found.warnings)


@pytest.mark.slow
def test_batches_change_nothing(small_videos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(small_videos, run=run, code=CODE)
    monkeypatch.setattr("pipeline.prediction.BATCH", 2)
    parts = predict(small_videos, run=run, code=CODE)
    assert [video.path for video in parts.videos] == [video.path for video in whole.videos]
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_nothing_is_left_behind(small_videos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    predict(small_videos / "jump & run" / "d.mp4", run=run, code=CODE)
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "cache").exists()


def test_what_is_gone_is_named(small_videos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "clip.safetensors"
    store, out = _run_with_weight_file(small_videos, tmp_path, weights)
    video = small_videos / "jump & run" / "d.mp4"
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(MissingError, match=r"clip.safetensors is gone.*--clip-pretrained"):
        predict(video, run=out)
    assert predict(video, run=out, weights={"clip_pretrained": str(moved)}).videos[0].classes
    moved.rename(weights)
    _write_weights(weights, seed=1)
    with pytest.raises(StoreError, match=r"weights.sha256: \w+ then, \w+ now"):
        predict(video, run=out)
    _write_weights(weights, seed=0)
    shutil.move(store, tmp_path / "elsewhere")
    with pytest.raises(MissingError, match=r"no store at .*--store"):
        predict(video, run=out)
    assert predict(video, run=out, store=tmp_path / "elsewhere").videos[0].classes


def _write_weights(path: Path, *, seed: int) -> None:
    from safetensors.torch import save_file

    from stages.clip.models import build_model, resolve_model

    model = build_model(resolve_model("tiny", "none"), None, seed)
    save_file({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}, path)


def _run_with_weight_file(small_videos: Path, tmp_path: Path, weights: Path) -> tuple[Path, Path]:
    _write_weights(weights, seed=0)
    extract(small_config(small_videos, tmp_path / "s", clip_pretrained=str(weights), tokens=()))
    train_head(tmp_path / "s", head="vcs", frames=2, epochs=1, device="cpu", out=tmp_path / "run")
    return tmp_path / "s", tmp_path / "run"


def test_code_that_a_store_names_is_not_run(small_videos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is data, and may be a stranger's."""
    monkeypatch.setattr("stages.pose.stage.create_estimator", lambda config: pytest.fail("was imported"))
    with pytest.raises(UsageError, match=r"names code of its own, .*add: --code plain_pose:PlainEstimator"):
        predict(small_videos, run=run)


def test_folders_stand_for_their_videos(small_videos: Path, tmp_path: Path) -> None:
    one = str(small_videos / "jump & run" / "d.mp4")
    found = find_files([one, small_videos / "jump & run", tmp_path / "any name"])
    assert found[0] == one
    assert found.count(one) == 1
    assert len(found) == 5
    with pytest.raises(UsageError, match="holds no video file"):
        find_files([tmp_path])
