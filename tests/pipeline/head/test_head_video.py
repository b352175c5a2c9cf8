"""Heads on the clips of a video model, which knows no words: they learn what the clips mean, and nothing else of them
differs from a head on CLIP."""

import numpy as np
import pytest

from pipeline.head import HeadConfig, TrainConfig, evaluate_run, train_head
from pipeline.head.checkpoint import read_run
from pipeline.head.protocols import few_shot
from pipeline.head.selection import select
from store.errors import MissingError, UsageError

FAST = {"epochs": 20, "device": "cpu", "training": TrainConfig(batch_size=16, learning_rate=1e-2)}


@pytest.mark.parametrize("head", ["mean", "attn", "mean+pose", "attn+pose"])
def test_what_the_clips_mean_is_learnt(make_store, tmp_path, head):
    made = make_store(video=True)
    result = train_head(made.open(), head=head, video="small", split="all", seeds=2, out=tmp_path / "run", **FAST)
    assert result.top1 > 0.8
    assert (result.selection.encoder, result.selection.clip) == ("video", made.video.id)
    assert result.selection.frames == 3  # all clips, whatever --frames says
    assert any(warning.startswith("the video model has random weights") for warning in result.warnings)
    assert evaluate_run(tmp_path / "run").reproduced
    assert read_run(tmp_path / "run").config == HeadConfig(head=head, encoder="video")


def test_it_is_the_clips_that_are_read(make_store, tmp_path):
    """Not CLIP's frames, which mean nothing here, nor the other way round."""
    one = train_head(make_store(video=True).open(), head="mean", video="small", out=tmp_path / "one", **FAST)
    made = make_store("same", video=True)
    clip = train_head(made.open(), head="mean", frames=4, out=tmp_path / "clip", **FAST)
    assert one.selection.fingerprint != clip.selection.fingerprint
    assert clip.config == HeadConfig(head="mean")
    shuffled = make_store("shuffled", video=True, noise=40.0)
    assert train_head(shuffled.open(), head="mean", video="small", out=tmp_path / "two", **FAST).top1 < 0.6


def test_few_shot_and_tuning_work_as_with_clip(make_store, tmp_path):
    made = make_store(video=True)
    settings = {**FAST, "epochs": 4}
    result = train_head(made.open(), head="mean", video="small", tune=True, out=tmp_path / "run", **settings)
    assert result.tuning["1"]["chosen"]
    rows = few_shot(tmp_path / "run", (2, 4)).rows
    assert [row["shots"] for row in rows] == [2, 4]
    with pytest.raises(UsageError, match=r"epochs is 0 \(zero-shot\) and head 'mean'"):
        train_head(made.open(), head="mean", video="small", epochs=0, out=tmp_path / "zero")


def test_a_store_loads_clips_beside_the_rest(make_store):
    made = make_store(video=True)
    features = made.open().load(split=1, subset="train", frames=2)
    assert {"cls", "keypoints", "video_embedding"} <= set(features.tensors)
    assert features["video_embedding"].shape[1:] == (3, 24)
    only = made.open().load(arrays=("video_embedding",), video="small")
    assert np.isfinite(only["video_embedding"].numpy()).all()
    with pytest.raises(MissingError, match=r"the store holds no video features; add them with: .* --modality video"):
        make_store("without").open().load(arrays=("video_embedding",))
    with pytest.raises(MissingError, match="video is 'large'; this store has: small-net-"):
        select(made.open(), HeadConfig(head="mean", encoder="video"), frames=8, clip="large")


@pytest.mark.parametrize("head", ["vcs", "vilp", "pvcs", "pvcs-joint", "fuse", "pose"])
def test_heads_that_need_words_or_tokens_say_so(head):
    with pytest.raises(UsageError, match="a video model gives neither; allowed with it: mean, attn, also with"):
        HeadConfig(head=head, encoder="video")
