"""Which video model, and which clips of a video it sees."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stages.clip.config import PRECISIONS
from stages.decode.sampling import ClipSampling
from stages.device import check_device
from store.errors import UsageError, one_of


@dataclass(frozen=True)
class Recipe:
    """How a model was trained and tested, as torchvision's notes on its weights say: clips of ``length`` frames at
    ``rate`` frames a second. ``width`` of the embedding is that of its classifier's input."""

    length: int
    rate: float
    width: int


_RESNET = Recipe(16, 15.0, 512)
_MVIT = Recipe(16, 7.5, 768)
RECIPES = {
    "r3d_18": _RESNET,
    "mc3_18": _RESNET,
    "r2plus1d_18": _RESNET,
    "mvit_v1_b": _MVIT,
    "mvit_v2_s": _MVIT,
    "swin3d_t": Recipe(32, 15.0, 768),
    "swin3d_s": Recipe(32, 15.0, 768),
    "swin3d_b": Recipe(32, 15.0, 1024),
}


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """What to extract with a video model.

    model         one of ``RECIPES``
    pretrained    torchvision's name of the weights, such as ``KINETICS400_V1``; a weight file (safetensors, or a torch
                  checkpoint that loads with ``weights_only``); ``none``: random weights from ``seed``; None: those that
                  torchvision recommends
    num_clips     K, clips a video
    precision     ``auto``: bf16 on CUDA and on CPUs that are fast in it (see ``stages.precision``), else fp32
    device        ``auto``: CUDA where there is one
    batch_frames  frames of one forward pass: always the whole clips that they hold, one at least; the last is padded
    threads       batches side by side on a CPU; None: the number of cores this process may use
    seed          of random weights
    """

    model: str
    pretrained: str | None = None
    num_clips: int = 4
    precision: str = "auto"
    device: str = "auto"
    batch_frames: int = 32
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("video", self.model, tuple(RECIPES))
        one_of("precision", self.precision, PRECISIONS)
        check_device(self.device)
        for name, number in (
            ("video-clips", self.num_clips),
            ("batch_frames", self.batch_frames),
            ("threads", self.num_threads),
        ):
            if number < 1:
                raise UsageError(f"{name} is {number}; allowed: 1 and more")

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.model]

    @property
    def sampling(self) -> ClipSampling:
        return ClipSampling(self.num_clips, self.recipe.length, self.recipe.rate)

    @property
    def batch_size(self) -> int:
        """Clips of one forward pass."""
        return max(1, self.batch_frames // self.recipe.length)

    @property
    def num_threads(self) -> int:
        return len(os.sched_getaffinity(0)) if self.threads is None else self.threads
