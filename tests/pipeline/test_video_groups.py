"""A video model's group in a store: alone, beside others, added later, resumed, killed, mended, and read by heads."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Vilp
from extractions import small_config
from runs import run
from safetensors.torch import save_file

from pipeline.config import ExtractConfig, resolve
from pipeline.extraction import extract
from pipeline.forecast import forecast
from pipeline.head import HeadConfig, evaluate_run, train_head
from pipeline.prediction import predict
from pipeline.progress import Progress
from pipeline.repair import repair
from pipeline.status import store_status
from stages.decode import ClipSampling
from stages.video import VideoConfig
from stages.video.models import build_model
from store import FeatureStore, MissingError, UsageError
from store.local import LocalObjects
from store.verify import verify_store

VIDEO = {"video": "mc3_18", "video_pretrained": "none", "video_clips": 1}


def video_config(root: Path, store: Path, **changes: object) -> ExtractConfig:
    return small_config(root, store, **{"modalities": ("video",), **VIDEO, **changes})


@pytest.fixture(scope="module")
def alone(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds nothing but clips."""
    store = tmp_path_factory.mktemp("alone") / "store"
    extract(video_config(small_videos, store))
    return store


def digest(store: Path) -> str:
    report = verify_store(LocalObjects(store))
    assert report.digest is not None
    assert not report.problems
    return report.digest


def test_every_video_gets_clips_or_a_reason(alone: Path) -> None:
    store = FeatureStore.open(alone)
    features = store.load()
    assert features["video_embedding"].shape == (6, 1, 512)
    assert features["video_embedding"].isfinite().all()
    group = store.group("video")
    names = [Path(path).name for path in store.videos["path"].to_pylist()]
    rows = dict(zip(names, store.status(group).to_pylist(), strict=True))
    assert (rows["broken.mp4"]["status"], rows["broken.mp4"]["error_kind"]) == ("quarantined", "not-a-video")
    assert rows["cut.avi"]["status"] == "partial"
    # What is stored of the frames follows from what is stored of the videos.
    index = store.rows(store.group("frames"), "index", features.slots.tolist())
    stored = {row["slot"]: row for row in rows.values()}
    for slot, own in zip(features.slots.tolist(), index, strict=True):
        np.testing.assert_array_equal(
            own, ClipSampling(1, 16, 15.0).indices(stored[slot]["frames"], stored[slot]["fps"])
        )
    (row,) = [row for row in store_status(str(alone))["groups"] if row["path"] == group.path]
    assert (row["committed"], row["quarantined"], row["left"]) == (7, 1, 0)


def test_added_later_it_is_what_one_run_makes(small_videos: Path, alone: Path, tmp_path: Path) -> None:
    config = small_config(small_videos, tmp_path / "later", tokens=())
    extract(config)
    files = {path: path.read_bytes() for path in (tmp_path / "later").rglob("*") if path.is_file()}
    changing = ("lease", "heartbeats", "quarantine", "store/zarr.json", "later/zarr.json")
    added = resolve(str(tmp_path / "later"), {**VIDEO, "modalities": ("video",)})
    assert forecast(added, measure=False).to_do == 7
    assert extract(dataclasses.replace(added, limit=3)).executed == 3
    assert extract(added).executed == 4
    assert extract(added).executed == 0
    for path, content in files.items():
        assert any(word in str(path) for word in changing) or path.read_bytes() == content
    extract(dataclasses.replace(config, store=str(tmp_path / "together"), **VIDEO))
    assert digest(tmp_path / "later") == digest(tmp_path / "together")
    one, other = (FeatureStore.open(store).load(arrays=("video_embedding",)) for store in (alone, tmp_path / "later"))
    assert torch.equal(one["video_embedding"], other["video_embedding"])


def test_one_of_several_is_exported(small_videos: Path, tmp_path: Path, vilp: Vilp) -> None:
    for clips in (1, 2):
        extract(video_config(small_videos, tmp_path / "s", video_clips=clips, limit=2))
    videos = [group for group in FeatureStore.open(tmp_path / "s").groups.values() if group.modality.kind == "video"]
    ids = {group.modality.arrays["video_embedding"].shape[0]: group.modality.id for group in videos}
    export = ("export", "--store", tmp_path / "s", "--out", tmp_path / "out", "--format", "npy")
    assert "several video groups fit; choose one with --video: " in vilp(*export).error
    done = vilp(*export, "--video", ids[2])
    assert done.code == 0, done.err
    (file,) = (tmp_path / "out" / "video_embedding").iterdir()
    assert np.load(file).shape == (2, 512)


@pytest.mark.slow
def test_ray_makes_the_same(small_videos: Path, alone: Path, tmp_path: Path) -> None:
    extract(video_config(small_videos, tmp_path / "s", engine="ray"))
    assert digest(tmp_path / "s") == digest(alone)
    both = small_config(small_videos, tmp_path / "both", tokens=(), **VIDEO)
    extract(both)
    extract(dataclasses.replace(both, store=str(tmp_path / "ray"), engine="ray"))
    assert digest(tmp_path / "both") == digest(tmp_path / "ray")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["group-renamed", "array-flushed:3", "commit-renamed:2"])
def test_killed_and_run_again(small_videos: Path, alone: Path, tmp_path: Path, point: str) -> None:
    arguments = ["extract", "--dataset", "folder", "--root", str(small_videos), "--store", str(tmp_path / "s")]
    arguments += ["--modality", "video", "--video", "mc3_18", "--video-pretrained", "none", "--video-clips", "1"]
    arguments += ["--frames", "4", "--precision", "fp32", "--batch-size", "8", "--shard-len", "2", "--engine", "inline"]
    assert run(*arguments, VILP_FAILPOINT=point).returncode == -signal.SIGKILL
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert digest(tmp_path / "s") == digest(alone)


def test_damage_is_found_and_mended(small_videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    extract(video_config(small_videos, store, limit=2))
    whole = digest(store)
    (shard,) = store.glob("video/*/video_embedding/c.0.0.0")
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    report = verify_store(LocalObjects(store))
    assert report.corrupt == 2
    assert not repair(LocalObjects(store), report, progress=Progress()).problems
    assert digest(store) == whole


def test_numbers_that_are_none_are_quarantined(small_videos: Path, tmp_path: Path) -> None:
    state = build_model(VideoConfig(model="mc3_18", pretrained="none"), None).state_dict()
    state["layer4.1.conv2.1.bias"] = torch.full_like(state["layer4.1.conv2.1.bias"], float("nan"))
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "broken.safetensors")
    config = video_config(small_videos, tmp_path / "s", video_pretrained=str(tmp_path / "broken.safetensors"), limit=2)
    summary = extract(config)
    assert (summary.done, summary.quarantined) == (0, {"non-finite": 1, "not-a-video": 1})
    assert FeatureStore.open(tmp_path / "s").group("video").recipe["video_pretrained"].endswith("broken.safetensors")


def test_heads_read_clips_where_there_is_no_clip_model(small_videos: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="the store holds no clip features"):
        train_head(alone, head="mean")
    with pytest.raises(
        UsageError, match=r"head is 'vcs', which reads words .*; allowed with it: mean, attn, also with"
    ):
        train_head(alone, head="vcs", video="mc3")
    for head in ("mean", "attn"):
        result = train_head(alone, head=head, video="mc3", epochs=2, device="cpu", out=tmp_path / head)
        assert result.selection.frames == 1
        assert any("the video model has random weights" in warning for warning in result.warnings)
        again = evaluate_run(tmp_path / head, device="cpu")
        assert again.reproduced
        assert again.config == HeadConfig(head=head, encoder="video")
    with pytest.raises(UsageError, match="epochs is 0"):
        train_head(alone, head="mean", video="mc3", epochs=0)
    with pytest.raises(UsageError, match="give one of them"):
        train_head(alone, head="mean", video="mc3", clip="tiny")
    one = predict(small_videos / "jump & run" / "d.mp4", run=tmp_path / "mean", device="cpu").videos[0]
    assert len(one.classes) == 2
    with pytest.raises(UsageError, match="figure draws the frames of CLIP or of poses"):
        predict(small_videos / "jump & run" / "d.mp4", run=tmp_path / "mean", figure=tmp_path / "f.png")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="modality is 'video' but no model is named; give --video one of: r3d_18"):
        ExtractConfig(modalities=("video",))
    with pytest.raises(UsageError, match="video is 'slowfast'; allowed: none, r3d_18"):
        ExtractConfig(video="slowfast")
    with pytest.raises(UsageError, match="video-clips is 0"):
        ExtractConfig(video="r3d_18", video_clips=0)
    with pytest.raises(UsageError, match="decoder is 'mine:decode', which gives no clips"):
        ExtractConfig(video="r3d_18", decoder="mine:decode")
    assert ExtractConfig(video="r3d_18", modalities=("pose",), decoder="mine:decode").wants_video is False
    # A store whose first run drew heatmaps can be given clips.
    assert ExtractConfig(heatmap="joints", video="r3d_18", modalities=("video",)).wants_video
