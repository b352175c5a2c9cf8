"""The video stage: torchvision's numbers from an independent path, whatever the neighbours, from any weights."""

from __future__ import annotations

import csv
import hashlib
import io
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity
from torchvision.models import get_model, get_model_weights

import stages.video.encoder as encoder_module
from stages.decode import ClipSampling, decode_video
from stages.types import Clip, DecodedVideo, VideoRef
from stages.video import RECIPES, Recipe, VideoConfig
from stages.video.encoder import VideoEncoder
from stages.video.models import build_model
from stages.weights import published_weights
from store.errors import MissingError, UsageError

SMALL = VideoConfig(model="mc3_18", pretrained="none", num_clips=2, precision="fp32", device="cpu", threads=1, seed=3)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> VideoEncoder:
    """Of clips of four frames, which take a quarter of the time."""
    monkeypatch.setitem(RECIPES, SMALL.model, Recipe(4, 15.0, 512))
    made = VideoEncoder(SMALL)
    made.setup()
    return made


def noise_video(number: int, frames: int = 8, height: int = 60, width: int = 80) -> Clip:
    pixels = np.random.default_rng(number).integers(0, 256, (frames, height, width, 3), np.uint8)
    video = DecodedVideo(pixels, np.arange(frames, dtype=np.int32), np.arange(frames) / 25, 99, None, 25, width, height)
    return Clip(VideoRef(number, f"v{number}", "nowhere"), video)


def torchvision_alone(path: Path, model: str, clips: ClipSampling, seed: int) -> torch.Tensor:
    """Embeddings [K, D] by another decoder, torchvision's transform and its whole model, of which the classifier's
    input is overheard."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    pictures = []
    while (read := capture.read())[0]:
        pictures.append(read[1][:, :, ::-1])
    chosen = clips.indices(len(pictures), capture.get(cv2.CAP_PROP_FPS))
    frames = torch.from_numpy(np.stack(pictures)[chosen]).permute(0, 1, 4, 2, 3)
    torch.manual_seed(seed)
    whole = get_model(model, weights=None).eval()
    heard: list[torch.Tensor] = []
    classifier = whole.fc if hasattr(whole, "fc") else whole.head
    classifier.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    with torch.no_grad():
        whole(get_model_weights(model).DEFAULT.transforms()(frames))
    return heard[0]


def real_clips(shared: Path, every: int) -> list[Path]:
    with (shared / "data" / "clips.csv").open() as table:
        return [shared / "data" / row["where"] for row in csv.DictReader(table)][::every]


@pytest.mark.parametrize(
    ("model", "every"),
    [("mc3_18", 48)] + [pytest.param(name, 48, marks=pytest.mark.slow) for name in RECIPES if name != "mc3_18"],
)
def test_embeddings_are_those_of_torchvision_on_real_clips(shared: Path, model: str, every: int) -> None:
    config = replace(SMALL, model=model, num_clips=1)
    encoder = VideoEncoder(config)
    encoder.setup()
    paths = real_clips(shared, every)
    assert len(paths) >= 2
    for path in paths:
        video = decode_video(path, 0, max_short_side=None, clips=config.sampling)
        own = torch.from_numpy(encoder([Clip(VideoRef(0, path.name, str(path)), video)])["video_embedding"][0]).float()
        want = torchvision_alone(path, model, config.sampling, SMALL.seed)
        assert own.shape == want.shape == (config.num_clips, config.recipe.width)
        assert cosine_similarity(own, want).min() >= 0.999
        # Embeddings of random weights all point much the same way; the numbers themselves say more.
        assert (own - want).abs().max() < 2e-3 * want.abs().max()


def test_other_preprocessing_would_show(shared: Path, encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parity test would say of blue for red, or of a crop that is one pixel off."""
    path = real_clips(shared, 48)[0]
    video = decode_video(path, 0, max_short_side=None, clips=SMALL.sampling)
    want = torchvision_alone(path, SMALL.model, SMALL.sampling, SMALL.seed)
    for wrong in (video.frames[..., ::-1], np.roll(video.frames, 2, axis=2)):
        changed = Clip(VideoRef(0, "v", str(path)), replace(video, frames=np.ascontiguousarray(wrong)))
        own = torch.from_numpy(encoder([changed])["video_embedding"][0]).float()
        assert (own - want).abs().max() > 2e-2 * want.abs().max()


def test_the_same_bytes_whatever_the_neighbours(encoder: VideoEncoder) -> None:
    videos = [noise_video(n, height=60 + 8 * n) for n in range(3)]
    together = encoder(videos)["video_embedding"]
    alone = [encoder([video])["video_embedding"][0] for video in videos]
    backwards = encoder(videos[::-1])["video_embedding"][::-1]
    assert together.dtype == np.float16
    assert together.shape == (3, 2, 512)
    np.testing.assert_array_equal(together, np.stack(alone))
    np.testing.assert_array_equal(together, backwards)
    parallel = VideoEncoder(replace(SMALL, threads=2))
    parallel.setup()
    np.testing.assert_array_equal(parallel(videos)["video_embedding"], together)
    assert encoder([])["video_embedding"].shape == (0, 2, 512)


def test_frames_that_are_not_those_of_the_clips_are_refused(encoder: VideoEncoder) -> None:
    with pytest.raises(ValueError, match="v1: 7 frames, the video stage wants 8"):
        encoder([noise_video(1, frames=7)])


@pytest.mark.parametrize("model", RECIPES)
def test_widths_are_those_of_the_models(model: str) -> None:
    with torch.device("meta"):
        whole: Any = get_model(model, weights=None)
    classifier = whole.fc if hasattr(whole, "fc") else whole.head[-1] if model.startswith("mvit") else whole.head
    assert RECIPES[model].width == classifier.in_features
    notes = get_model_weights(model).DEFAULT.meta["_docs"]
    assert f"frame_rate={RECIPES[model].rate:g}`" in notes
    assert f"clip_len={RECIPES[model].length}`" in notes


def test_modality_builds_no_model_and_records_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "build_model", lambda *_: pytest.fail("a model was built"))
    modality = VideoEncoder(SMALL).modality()
    assert modality.path.startswith("video/mc3-18-random-")
    assert {name: (spec.shape, spec.dtype) for name, spec in modality.arrays.items()} == {
        "video_embedding": ((2, 512), "float16")
    }
    assert modality.record["preprocess"]["crop_size"] == [112, 112]
    same = [replace(SMALL, threads=2), replace(SMALL, batch_frames=64)]
    other = [replace(SMALL, seed=4), replace(SMALL, num_clips=3), replace(SMALL, model="r3d_18")]
    assert {VideoEncoder(config).modality().path for config in same} == {modality.path}
    assert len({VideoEncoder(config).modality().path for config in other} - {modality.path}) == 3


def test_weights_come_from_files_whatever_classes_they_know(encoder: VideoEncoder, tmp_path: Path) -> None:
    state = build_model(SMALL, None).state_dict() | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "seven.safetensors")
    torch.save({"state_dict": state}, tmp_path / "seven.pth")
    want = encoder([noise_video(1)])["video_embedding"]
    for name in ("seven.safetensors", "seven.pth"):
        loaded = VideoEncoder(replace(SMALL, pretrained=str(tmp_path / name), seed=99))
        loaded.setup()
        assert set(loaded.modality().record["weights"]) == {"sha256"}
        np.testing.assert_array_equal(loaded([noise_video(1)])["video_embedding"], want)
    with pytest.raises(UsageError, match=r"does not fit r3d_18: \d+ tensors differ, .* with --video"):
        VideoEncoder(replace(SMALL, model="r3d_18", pretrained=str(tmp_path / "seven.pth"))).setup()


def test_weights_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'openai'; allowed for mc3_18: KINETICS400_V1, a weight file, none"):
        VideoEncoder(replace(SMALL, pretrained="openai"))
    with pytest.raises(MissingError, match=r"weights 'weights/gone\.pth' are no file; give --video-pretrained"):
        VideoEncoder(replace(SMALL, pretrained="weights/gone.pth"))
    with pytest.raises(UsageError, match="video is 'c3d'; allowed: r3d_18, "):
        replace(SMALL, model="c3d")
    for change, words in [({"num_clips": 0}, "video-clips is 0"), ({"device": "tpu"}, "device is 'tpu'")]:
        with pytest.raises(UsageError, match=words):
            replace(SMALL, **change)  # type: ignore[arg-type]


def test_published_weights_are_fetched_once_or_put_there_by_hand(
    tmp_path: Path, encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    torch.save(build_model(SMALL, None).state_dict(), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    asked = []

    def unreachable(url: str, timeout: float) -> None:
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    def serve(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(content.getvalue())

    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    published = VideoEncoder(replace(SMALL, pretrained=None))
    with pytest.raises(
        MissingError, match=rf"put mc3_18-a90a0ba3\.pth into {tmp_path}/weights, or give --video-pre"
    ) as e:
        published.modality()
    assert "\n" not in str(e.value)
    monkeypatch.setattr("urllib.request.urlopen", serve)
    with pytest.raises(MissingError, match=f"what came has SHA-256 {digest[:8]}"):
        published.modality()
    assert not list((tmp_path / "weights").iterdir())
    assert set(asked) == {"https://download.pytorch.org/models/mc3_18-a90a0ba3.pth"}
    (tmp_path / "weights" / "mc3_18-a90a0ba3.pth").write_bytes(content.getvalue())
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: pytest.fail("asked the network"))
    with pytest.raises(
        UsageError, match=rf"mc3_18-a90a0ba3\.pth has SHA-256 {digest[:8]}\.\.\., not a90a0ba3.*; delete"
    ):
        VideoEncoder(replace(SMALL, pretrained=None)).modality()
    monkeypatch.setattr(
        "stages.video.models.published_weights",
        lambda url, **given: published_weights(url.replace("a90a0ba3", digest[:8]), **given),
    )
    (tmp_path / "weights" / f"mc3_18-{digest[:8]}.pth").write_bytes(content.getvalue())
    by_name = VideoEncoder(replace(SMALL, pretrained="KINETICS400_V1"))
    assert by_name.modality().path == VideoEncoder(replace(SMALL, pretrained=None)).modality().path
    assert by_name.modality().name == "mc3_18 KINETICS400_V1"
    by_name.setup()
    np.testing.assert_array_equal(
        by_name([noise_video(1)])["video_embedding"], encoder([noise_video(1)])["video_embedding"]
    )
