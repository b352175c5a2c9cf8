"""CLIP: our encoder against open_clip's own transform and a loop video by video."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmarks import plain
from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare, discard
from pipeline.benchmarks.clips import ClipSet
from pipeline.progress import Progress
from stages.clip.config import DEFAULT_TOKENS, ClipConfig
from stages.types import Clip

PLAIN = "plain loop, fp32"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Images a second from decoded frames to embeddings, for every model."""
    decoded = clips.decoded(config.clip_videos, config.frames)
    return [_model(name, config, decoded, progress) for name in config.models]


def _model(name: str, config: BenchmarkConfig, clips: list[Clip], progress: Progress) -> Comparison:
    from stages.clip.encoder import ClipEncoder

    progress.note(f"CLIP: building {name}")
    model, transform = plain.load_clip(name)
    base = ClipConfig(model=name, pretrained="none", num_frames=config.frames, tokens=())
    precision = ClipEncoder(base).config.precision
    # Where the device has no faster precision, auto is fp32 and the first two are the same.
    settings = {
        "ours, fp32": replace(base, precision="fp32"),
        f"ours, {precision}": base,
        f"ours, {precision}, with tokens": replace(base, tokens=DEFAULT_TOKENS),
    }
    encoders = {label: ClipEncoder(given) for label, given in settings.items()}
    truth = _loop(model, transform, clips)
    columns = {}
    for label, encoder in encoders.items():
        encoder.setup()
        columns[label] = {"lowest cosine": lowest_cosine(encoder(clips)["cls"][:, 0], truth)}
    ways: dict[str, Way] = {PLAIN: partial(discard, _loop, model, transform, clips)}
    ways |= {label: partial(discard, encoder, clips) for label, encoder in encoders.items()}
    return compare(
        "clip",
        f"CLIP {name}",
        ways,
        plain=PLAIN,
        count=len(clips) * config.frames,
        unit="images",
        rounds=config.rounds,
        progress=progress,
        columns=columns,
        notes=(
            f"from {config.frames} decoded frames of each of {len(clips)} clips to embeddings; precision auto is "
            f"{precision} here",
            "plain: open_clip's Pillow transform frame by frame, one fp32 forward pass a clip",
            "lowest cosine: between our embedding of a frame and the plain one",
        ),
    )


def lowest_cosine(ours: np.ndarray, truth: np.ndarray) -> float:
    """The smallest cosine between rows of the last axis of two arrays of the same shape."""
    a, b = ours.astype(np.float64), truth.astype(np.float64)
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())


def _loop(model: Any, transform: Any, clips: list[Clip]) -> np.ndarray:
    return np.stack([plain.encode_video(model, transform, clip.video.frames) for clip in clips])
