"""Speed must not cost accuracy: what is fast here, against the slow way, on every real clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.benchmarks.plain import load_clip
from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.types import Clip, DecodedVideo, VideoRef

FRAMES = 2
CONFIG = ClipConfig(model="ViT-B-32", pretrained="none", num_frames=FRAMES, tokens=(), device="cpu", precision="fp32")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clips(shared: Path) -> list[Clip]:
    """The first frame and the one 20 later of every real clip."""
    paths = sorted(path for path in (shared / "data").rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    assert len(paths) >= 90
    found = []
    for slot, path in enumerate(paths):
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 0, 21, 20)]
        picked = np.stack([frames[0], frames[-1]])
        index = np.arange(FRAMES, dtype=np.int32)
        video = DecodedVideo(picked, index, index / 25, FRAMES, FRAMES, 25.0, picked.shape[2], picked.shape[1])
        found.append(Clip(VideoRef(slot, path.stem, str(path)), video))
    return found


def embeddings(clips: list[Clip], precision: str) -> torch.Tensor:
    encoder = ClipEncoder(dataclasses.replace(CONFIG, precision=precision))
    encoder.setup()
    return torch.from_numpy(encoder(clips)["cls"]).float().flatten(0, 2)


def lowest_cosines(one: torch.Tensor, two: torch.Tensor) -> tuple[float, float]:
    """Of embeddings, and of what is left of them without the part that all pictures share: with random weights that is
    most of them, so that the first alone would hardly tell pictures apart."""
    mean = two.mean(0)
    pairs: list[Callable[[torch.Tensor], torch.Tensor]] = [lambda rows: rows, lambda rows: rows - mean]
    return tuple(float(torch.cosine_similarity(part(one), part(two)).min()) for part in pairs)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def full(clips: list[Clip]) -> torch.Tensor:
    return embeddings(clips, "fp32")


def test_preprocessing_gives_the_embeddings_of_open_clips_own_transform(clips: list[Clip], full: torch.Tensor) -> None:
    model, transform = load_clip(CONFIG.model)
    with torch.no_grad():
        images = [transform(Image.fromarray(frame)) for clip in clips for frame in clip.video.frames]
        theirs = torch.cat([model.encode_image(batch) for batch in torch.stack(images).split(32)])
    plain, centred = lowest_cosines(full, theirs)
    assert plain >= 0.999
    assert centred >= 0.999


def test_bf16_gives_the_embeddings_of_fp32(clips: list[Clip], full: torch.Tensor) -> None:
    plain, centred = lowest_cosines(embeddings(clips, "bf16"), full)
    assert plain >= 0.999
    assert centred >= 0.99


def test_the_bounds_tell_pictures_apart(full: torch.Tensor) -> None:
    _, centred = lowest_cosines(full.roll(FRAMES, 0), full)
    assert centred < 0.9
