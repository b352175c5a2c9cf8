"""Pictures of what a store knows: the frames that are stored, or plainly none."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from disks import tmpfs
from extractions import small_config
from videos import numbered_frames, write_video

from pipeline.extraction import extract
from pipeline.figure import Strip, Verdict, View, draw_strips, printable
from pipeline.head.checkpoint import read_run
from pipeline.head.evaluate import train_head
from pipeline.inspection import inspect_videos, matching, some_videos, strips
from pipeline.judging import heads_of, judge
from stages.decode import decode_video
from store import FeatureStore, StoreError, UsageError

POSE = {"pose": "plain_pose:PlainEstimator", "pose_frames": 8}


@pytest.fixture(scope="module")
def videos(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that files can be taken away and replaced."""
    return shutil.copytree(small_videos, tmp_path_factory.mktemp("copy") / "videos")


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("extracted") / "store"
    extract(small_config(videos, folder, **POSE))
    return FeatureStore.open(folder)


@pytest.fixture(scope="module")
def run(store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fuse"
    train_head(store, head="fuse", frames=2, epochs=1, seeds=2, device="cpu", out=out)
    return out


def slot_of(store: FeatureStore, name: str) -> int:
    paths = store.videos["path"].to_pylist()
    return next(i for i, path in enumerate(paths) if path.endswith(name))


def test_a_strip_shows_the_stored_frames(store: FeatureStore, videos: Path) -> None:
    slots = [slot_of(store, "c.avi"), slot_of(store, "a.mp4")]
    made = strips(store, slots, frames=2)
    for strip, name in zip(made, ("c.avi", "a.mp4"), strict=True):
        expected = decode_video(videos / "wave (left)" / name, 4)
        assert strip.pictures is not None
        np.testing.assert_array_equal(strip.pictures, expected.frames[[0, 2]])
        np.testing.assert_array_equal(strip.times, expected.pts[[0, 2]])
        assert strip.size == (expected.width, expected.height)
    stored = store.load(slots=[slots[0]])["keypoints"][0, [0, 4]].numpy()
    np.testing.assert_array_equal(made[0].keypoints, stored)


def test_weights_of_frames_are_those_of_the_head(store: FeatureStore, run: Path) -> None:
    recorded = read_run(run)
    slots = [slot_of(store, "c.avi"), slot_of(store, "d.mp4")]
    said = judge(store, matching(recorded, store), recorded, heads_of(recorded), slots=slots)
    assert said.slots.tolist() == sorted(slots)
    assert said.weights is not None
    assert said.weights.shape == (2, 2)
    np.testing.assert_allclose(said.weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(said.scores.sum(axis=1), 1, atol=1e-5)
    everyone = judge(store, matching(recorded, store), recorded, heads_of(recorded))
    rows = [everyone.slots.tolist().index(slot) for slot in said.slots]
    np.testing.assert_allclose(said.scores, everyone.scores[rows], atol=1e-5)


def test_a_head_without_words_weighs_no_frames(store: FeatureStore, tmp_path: Path) -> None:
    train_head(store, head="attn", frames=2, epochs=1, device="cpu", out=tmp_path / "attn")
    recorded = read_run(tmp_path / "attn")
    assert judge(store, matching(recorded, store), recorded, heads_of(recorded)).weights is None
    assert inspect_videos(store, some_videos(store, 2), tmp_path / "i.png", run=tmp_path / "attn") == []


def test_videos_that_are_gone_or_others_now_are_drawn_without_pictures(
    store: FeatureStore, videos: Path, run: Path, tmp_path: Path
) -> None:
    gone, other = videos / "jump & run" / "d.mp4", videos / "jump & run" / "e.mp4"
    backup = {path: path.read_bytes() for path in (gone, other)}
    try:
        gone.unlink()
        write_video(other, numbered_frames(20, 64, 48))
        names = store.videos["video_id"].to_pylist()
        ids = [names[slot_of(store, name)] for name in ("d.mp4", "e.mp4", "a.mp4")]
        first, second = inspect_videos(store, ids, tmp_path / "i.png", run=run)
    finally:
        for path, data in backup.items():
            path.write_bytes(data)
    assert f"the video is gone: {gone}; drawn from the store alone" in first
    assert "decodes to other frames than those that are stored" in second
    assert (tmp_path / "i.png").stat().st_size > 10_000


def test_features_that_changed_since_the_run_are_said(
    videos: Path, run: Path, store: FeatureStore, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    extract(small_config(videos, part, limit=3, **POSE))
    opened = FeatureStore.open(part)
    (line,) = inspect_videos(opened, some_videos(opened, 1), tmp_path / "i.png", run=run)
    assert "no longer those that the run was trained on" in line
    assert inspect_videos(store, some_videos(store, 1), tmp_path / "i.png", run=run) == []


def test_what_cannot_be_drawn_says_why(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'c', which .* does not have"):
        inspect_videos(store, ["c"], tmp_path / "i.png")
    broken = store.videos["video_id"].to_pylist()[slot_of(store, "broken.mp4")]
    with pytest.raises(UsageError, match=r"no features: it is quarantined \(not-a-video: "):
        inspect_videos(store, [broken], tmp_path / "i.png")
    with pytest.raises(UsageError, match="frames is 5; allowed: 1 to 4"):
        inspect_videos(store, some_videos(store, 1), tmp_path / "i.png", frames=5)


def test_the_lot_picks_test_videos_of_a_run_by_seed(store: FeatureStore, run: Path) -> None:
    subsets = dict(zip(*(store.videos[name].to_pylist() for name in ("video_id", "split1")), strict=True))
    chosen = some_videos(store, 100, run=run)
    assert {subsets[video] for video in chosen} == {"test"}
    assert some_videos(store, 3, seed=1) == some_videos(store, 3, seed=1)
    assert len(some_videos(store, 100)) == 6


@pytest.mark.parametrize(
    "extra", [{}, {"pose": "plain_pose:PlainEstimator", "modalities": ("pose",), "pose_frames": 8}]
)
def test_one_modality_is_enough(small_videos: Path, tmp_path: Path, extra: dict[str, object]) -> None:
    extract(small_config(small_videos, tmp_path / "s", tokens=(), **extra))
    opened = FeatureStore.open(tmp_path / "s")
    assert inspect_videos(opened, some_videos(opened, 2), tmp_path / "i.png") == []
    assert (tmp_path / "i.png").exists()


def test_a_decoder_that_a_store_names_runs_only_where_it_is_named(
    small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "stages.decode.pyav_backend:decode"
    extract(small_config(small_videos, tmp_path / "s", decoder=code, tokens=()))
    opened = FeatureStore.open(tmp_path / "s")
    assert inspect_videos(opened, some_videos(opened, 1), tmp_path / "i.png", code=[code]) == []
    monkeypatch.setattr("pipeline.inspection.decode", lambda *_: pytest.fail("was run"))
    (line,) = inspect_videos(opened, some_videos(opened, 1), tmp_path / "i.png")
    assert f"decoded by code, {code}: to run it, name it with --code" in line


def test_scripts_without_a_font_are_drawn_in_silence(tmp_path: Path) -> None:
    verdict = Verdict((("跳高 🤸", 0.9), ("قفز", 0.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_strips([Strip("跳高 🤸", (64, 48), np.zeros(2), verdict=verdict)], tmp_path / "i.png")


def test_a_picture_is_whole_or_not_there(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(256, size=(2, 48, 64, 3), dtype=np.uint8)
    with tmpfs(tmp_path / "small", "4k") as small:
        with pytest.raises(StoreError, match=f"^cannot write {small / 'i.png'}: No space left on device"):
            draw_strips([Strip("a", (64, 48), np.zeros(2), pictures)], small / "i.png")
        assert list(small.iterdir()) == []


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    """Matplotlib would read $ as mathematics and raise for half of it."""
    name = "$\\frac{<b>\x07\n\u202e"
    strip = Strip(
        title=name,
        size=(64, 48),
        times=np.zeros(2),
        keypoints=np.zeros((2, 1, 17, 3), np.float32),
        view=View("center", 32, 7),
        verdict=Verdict(((name, 0.9), ("b", 0.1)), name, name, np.array([0.5, 0.5])),
        note=name,
    )
    draw_strips([strip], tmp_path / "i.png")
    assert printable(name) == "$\\frac{<b>" + "\N{REPLACEMENT CHARACTER}" * 3
