"""What to extract with CLIP."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stages.device import check_device
from stages.geometry import VIEWS
from store.errors import UsageError, one_of

TOKENS = ("value", "penult", "last")
DEFAULT_TOKENS = TOKENS[:2]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What to extract with CLIP.

    model       an open_clip model name; ``stick``: the embedded model, which knows the people of the synthetic set and
                nothing else; or ``tiny``: a model of 4 million parameters for tests
    pretrained  a tag that open_clip knows for the model (``openai``; of ``stick``: ``embedded``), a weight file
                (safetensors, or a torch checkpoint that loads with ``weights_only``), or ``none``: random weights from
                ``seed``
    num_frames  T, frames a clip
    views       see ``stages.geometry``
    tokens      ``value``: patch tokens of the last block's value path, projected to the joint space (MaskCLIP,
                arXiv 2112.01071); ``penult``: input of the last block, normalised a token; ``last``: its output,
                projected to the joint space (whole pictures have mixed into it: ``study tokens`` compares)
    precision   ``auto``: bf16 on CUDA and on CPUs that are fast in it (see ``stages.precision``), else fp32
    device      ``auto``: CUDA where there is one
    batch_size  inputs of one forward pass: always exactly so many, the last pass is padded
    threads     batches side by side on a CPU; None: the number of cores this process may use
    seed        of random weights
    """

    model: str = "ViT-B-16"
    pretrained: str = "openai"
    num_frames: int = 16
    views: tuple[str, ...] = ("center",)
    tokens: tuple[str, ...] = DEFAULT_TOKENS
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 32
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, allowed in (("views", self.views, VIEWS), ("tokens", self.tokens, TOKENS)):
            for value in values:
                one_of(name, value, allowed)
            if len(set(values)) != len(values):
                raise UsageError(f"{name} is {','.join(values)}, with a value twice; name each once")
        if not self.views:
            raise UsageError(f"views is empty; give at least one of: {', '.join(VIEWS)}")
        one_of("precision", self.precision, PRECISIONS)
        check_device(self.device)
        for name, number in (
            ("num_frames", self.num_frames),
            ("batch_size", self.batch_size),
            ("threads", self.num_threads),
        ):
            if number < 1:
                raise UsageError(f"{name} is {number}; allowed: 1 and more")

    @property
    def num_threads(self) -> int:
        return len(os.sched_getaffinity(0)) if self.threads is None else self.threads
