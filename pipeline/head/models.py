"""The heads: small modules on top of ``functional``.

Every head maps a batch of stored features (tensors by name, see ``INPUTS``) to a tuple of logits [B, C], scaled. The
first are the head's answer; a head with several streams returns those of its streams after it, for auxiliary losses.
Untrained, every head that reads words is its zero-shot form: all that is learnt starts at zero.

B videos, T frames, G x G token grid, D joint width, W token width, C classes, U words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from pipeline.head.attention import AttentionPool
from pipeline.head.functional import WORD_MODES, WordBank, gate, pvcs_tokens, spot, unit
from pipeline.head.temporal import TemporalTransformer
from store.errors import UsageError, one_of

# What each head reads of a batch: frames [B, T, D]; pose_embedding [B, T, D] (of the heatmap image); pooled [B, T, D]
# and presence [B, T] (tokens under the persons); tokens [B, T, G, G, W]; heatmap [B, T, G, G].
INPUTS: dict[str, tuple[str, ...]] = {
    "mean": ("frames",),
    "vcs": ("frames",),
    "vilp": ("frames", "pose_embedding"),
    "pvcs": ("frames", "pooled", "presence"),
    "attn": ("tokens",),
    "fuse": ("frames", "pooled", "presence", "tokens", "heatmap"),
}
HEADS = tuple(INPUTS)
MAX_SCALE = 100.0


@dataclass(frozen=True)
class HeadConfig:
    """What a head is, apart from the sizes of its inputs.

    head        one of ``HEADS``
    word_mode   words that spot frames: ``name+eot``, ``name`` or ``all``
    tau         temperature of the softmax over frames
    kappa       steepness of the published gate (``vilp``)
    sigma       standard deviation of a joint's Gaussian, in cells of the token grid
    bottleneck  width of the adapters
    pool_heads  heads of the attention pooling (``attn``, ``fuse``)
    """

    head: str = "fuse"
    word_mode: str = "name+eot"
    tau: float = 0.01
    kappa: float = 1.0
    sigma: float = 0.7
    bottleneck: int = 64
    pool_heads: int = 8

    def __post_init__(self) -> None:
        one_of("head", self.head, HEADS)
        one_of("word mode", self.word_mode, WORD_MODES)
        for name in ("tau", "sigma", "bottleneck", "pool_heads"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: numbers above 0")

    @property
    def inputs(self) -> tuple[str, ...]:
        return INPUTS[self.head]

    @property
    def reads_text(self) -> bool:
        return self.head != "attn"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadConfig:
        return cls(**data)


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of a head's inputs; 0 where it does not read them."""

    classes: int
    frames: int
    dim: int = 0
    words: int = 0
    width: int = 0
    grid: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> HeadSizes:
        return cls(**data)


class Adapter(nn.Module):
    """A residual bottleneck that starts as the identity."""

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, bottleneck)
        self.up = nn.Linear(bottleneck, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(gelu(self.down(layer_norm(x, x.shape[-1:]))))


class Head(nn.Module):
    """Base of all heads: ``head(batch, frame_mask=..., token_mask=...)`` gives a tuple of logits [B, C].

    Masks are bool, True where used: frames [B, T], tokens [B, T, G, G].
    """

    def constrain(self) -> None:
        """Put parameters that left their range back into it; called after every step."""


class TextHead(Head):
    """What the heads that read words share: frozen text, class offsets, an adapter on the frames, the scale."""

    words: Tensor
    membership: Tensor
    classes: Tensor

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.tau = config.tau
        self.register_buffer("words", torch.zeros(sizes.words, sizes.dim))
        self.register_buffer("membership", torch.zeros(sizes.words, sizes.classes))
        self.register_buffer("classes", torch.zeros(sizes.classes, sizes.dim))
        self.adapter = Adapter(sizes.dim, config.bottleneck)
        self.offsets = nn.Parameter(torch.zeros(sizes.classes, sizes.dim))
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    @torch.no_grad()
    def set_text(self, bank: WordBank, classes: Tensor, scale: float) -> None:
        """Take the words and unit class embeddings of a text set and the scale of its model."""
        self.words.copy_(bank.units)
        self.membership.copy_(bank.membership)
        self.classes.copy_(classes)
        self.log_scale.fill_(math.log(min(scale, MAX_SCALE)))

    @torch.no_grad()
    def constrain(self) -> None:
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def class_units(self) -> Tensor:
        return unit(self.classes + self.offsets)


class MeanHead(TextHead):
    """Mean of the frames, then the cosine with each class: the baseline."""

    def forward(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        frames = batch["frames"].float()
        # The adapter sees unit frames; their norms weight the mean, as in the plain mean of raw frames.
        weights = frames.norm(dim=-1, keepdim=True)
        if frame_mask is not None:
            weights = weights * frame_mask.unsqueeze(-1)
        mean = (weights * self.adapter(unit(frames))).sum(dim=1)
        return (self.log_scale.exp() * linear(unit(mean), self.class_units()),)


class SpottingHead(TextHead):
    """VCS: frames weighted by how well they match a class's words."""

    def frames(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        """Adapted frames, float32 [B, T, D]; not normalised."""
        return self.adapter(unit(batch["frames"]))

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        """What is spotted, float32 [B, T, D]."""
        return unit(self.frames(batch, frame_mask))

    def forward(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        tokens = self.tokens(batch, frame_mask)
        bank = WordBank(self.words, self.membership)
        cosines = spot(tokens, bank, self.class_units(), tau=self.tau, mask=frame_mask)
        return (self.log_scale.exp() * cosines,)


class PublishedPoseHead(SpottingHead):
    """P-VCS as ViLP publishes it: frames gated by the CLIP embedding of the heatmap image."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.kappa = config.kappa

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        return gate(super().tokens(batch, frame_mask), batch["pose_embedding"], self.kappa)


class TokenPoseHead(SpottingHead):
    """P-VCS on tokens: frames move towards the tokens under their persons, by a learnt share that starts at 0."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.pooled_adapter = Adapter(sizes.dim, config.bottleneck)
        self.alpha = nn.Parameter(torch.tensor(0.0))

    @torch.no_grad()
    def constrain(self) -> None:
        super().constrain()
        self.alpha.clamp_(0.0, 1.0)

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        pooled = self.pooled_adapter(unit(batch["pooled"]))
        return pvcs_tokens(self.frames(batch, frame_mask), pooled, batch["presence"], self.alpha)


class TemporalPoseHead(TokenPoseHead):
    """P-VCS on tokens whose frames also see each other: ``v + gamma (Tr(v + pos) - v - pos)``, gamma from 0."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.temporal = TemporalTransformer(sizes.dim, layers=1, positions=sizes.frames, expansion=2)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def frames(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        frames = super().frames(batch, frame_mask)
        return frames + self.gamma * self.temporal.updates(frames, frame_mask)


class AttentionHead(Head):
    """Attention pooling over all patch tokens into a linear classifier: no text, no pose unless heatmaps are given."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.pool = AttentionPool(sizes.width, sizes.frames, sizes.grid, config.pool_heads)
        self.norm = nn.LayerNorm(sizes.width)
        self.classifier = nn.Linear(sizes.width, sizes.classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        frame_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if frame_mask is not None:
            seen = frame_mask[:, :, None, None].expand(batch["tokens"].shape[:4])
            token_mask = seen if token_mask is None else seen & token_mask
        pooled = self.pool(batch["tokens"], batch.get("heatmap"), token_mask)
        return (self.classifier(self.norm(pooled)),)


class FuseHead(Head):
    """The default: P-VCS on tokens plus attention pooling, logits added. Untrained it is zero-shot VCS."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.text = TemporalPoseHead(config, sizes)
        self.visual = AttentionHead(config, sizes)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        frame_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        (text,) = self.text(batch, frame_mask)
        (visual,) = self.visual(batch, frame_mask, token_mask)
        return text + visual, text, visual

    def constrain(self) -> None:
        self.text.constrain()


MODULES: dict[str, Callable[[HeadConfig, HeadSizes], Head]] = {
    "mean": MeanHead,
    "vcs": SpottingHead,
    "vilp": PublishedPoseHead,
    "pvcs": TokenPoseHead,
    "attn": AttentionHead,
    "fuse": FuseHead,
}


def build_head(config: HeadConfig, sizes: HeadSizes, *, seed: int = 0) -> Head:
    """A fresh head whose random weights come from ``seed`` alone. Its text and statistics are not set yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODULES[config.head](config, sizes)


def text_part(head: nn.Module) -> TextHead | None:
    """The part of a head that reads words, if any."""
    return next((module for module in head.modules() if isinstance(module, TextHead)), None)


def pool_part(head: nn.Module) -> AttentionPool | None:
    """The part of a head that pools tokens by attention, if any."""
    return next((module for module in head.modules() if isinstance(module, AttentionPool)), None)
