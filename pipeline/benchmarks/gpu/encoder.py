"""The encoder of an extraction: from decoded frames in the host's memory to features there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from pipeline.benchmarks.gpu.base import Bench, Need, Work
from pipeline.benchmarks.gpu.clip import tower_need
from stages.clip.config import DEFAULT_TOKENS, ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.preprocess import Preprocess
from stages.transfer import Transfer
from stages.types import Clip, DecodedVideo, VideoRef


class InTurn(Transfer):
    """The plain way: frames are copied from where they lie, and everything waits for everything."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def send(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def run(bench: Bench) -> None:
    """Frames sent alone, frames made into model inputs alone, then the encoder with and without overlap."""
    config, clips = bench.config, made_up_clips(bench)
    frames = [clip.video.frames for clip in clips]
    images, sent = len(clips) * config.frames, sum(each.nbytes for each in frames)
    for name, transfer in (("in turn, pageable", InTurn), ("pinned, on a stream of their own", Transfer)):
        bench.time(
            "frames to the device, without any computation",
            name,
            partial(_sending, transfer, bench.device, frames),
            count=images,
            unit="images",
            need=Need(upload=sent),
            on_host=True,
        )
    size, side = config.frames, 224
    bench.time(
        "preprocessing on the device",
        f"{config.width} x {config.height} to {side}, bicubic, a clip at a time",
        partial(_preprocessing, bench.device, frames[0], side),
        count=size,
        unit="images",
        need=Need(memory=frames[0].nbytes + 4 * size * 3 * side**2),
    )
    for model in config.models:
        for tokens in (DEFAULT_TOKENS, ()):
            _encoding(bench, clips, model, tokens)


def _encoding(bench: Bench, clips: list[Clip], model: str, tokens: tuple[str, ...]) -> None:
    batch, images = bench.config.batches[-1], len(clips) * bench.config.frames
    encoder = ClipEncoder(
        ClipConfig(
            model=model,
            pretrained="none",
            num_frames=bench.config.frames,
            tokens=tokens,
            device=str(bench.device),
            batch_size=batch,
        )
    )

    set_up = cache(encoder.setup)  # where it fails, a row says so

    def make(transfer: Callable[[torch.device], Transfer]) -> Work:
        set_up()
        encoder.transfer = transfer(bench.device)
        return lambda: encoder(clips)

    precision = encoder.config.precision
    one = tower_need(encoder.model, 0, images, precision)
    for name, transfer in (("frames in turn", InTurn), ("frames while the last batch is computed", Transfer)):
        bench.time(
            f"extraction's encoder, {model}, {'with tokens' if tokens else 'cls alone'}",
            f"{name}, {precision}, batch {batch}",
            partial(make, transfer),
            count=images,
            unit="images",
            need=Need(one.operations, one.memory, sum(clip.video.frames.nbytes for clip in clips), precision),
            on_host=True,
        )


def made_up_clips(bench: Bench) -> list[Clip]:
    """Clips of noise, each in memory of its own."""
    config, rng = bench.config, np.random.default_rng(0)
    places = np.arange(config.frames, dtype=np.int32)
    clips = []
    for slot in range(config.clips):
        frames = rng.integers(0, 256, (config.frames, config.height, config.width, 3), dtype=np.uint8)
        count = config.frames
        video = DecodedVideo(frames, places, places / 25, count, count, 25.0, config.width, config.height)
        clips.append(Clip(VideoRef(slot, f"clip {slot}", ""), video))
    return clips


def _sending(transfer: Callable[[torch.device], Transfer], device: torch.device, frames: list[np.ndarray]) -> Work:
    made = transfer(device)

    def work() -> None:
        for each in frames:
            made.send(each)

    return work


def _preprocessing(device: torch.device, frames: np.ndarray, side: int) -> Work:
    transform = Preprocess(side, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "bicubic")
    there = torch.from_numpy(frames).to(device)
    return lambda: list(transform(there, ("center",)))
