"""The heads: small modules on top of ``functional``.

Every head maps a batch of stored features (tensors by name, see ``INPUTS``) to a tuple of logits [B, C], scaled. The
first are the head's answer; a head with several streams returns those of its streams after it, for auxiliary losses.
Untrained, every head that reads words is its zero-shot form: all that is learnt starts at zero.

B videos, T frames, G x G token grid, D joint width, W token width, C classes, U words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from pipeline.head.attention import AttentionPool
from pipeline.head.config import HeadConfig, HeadSizes
from pipeline.head.functional import WordBank, gate, joint_tokens, pvcs_tokens, spot, spot_weights, unit
from pipeline.head.poseconv import PoseConvNet
from pipeline.head.temporal import Blocks, TemporalTransformer

MAX_SCALE = 100.0
# Width, attention heads, layers and expansion of the transformer over skeletons.
POSE_WIDTH, POSE_HEADS, POSE_LAYERS, POSE_EXPANSION = 96, 4, 2, 2


def _from_zero(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that gives 0 until it has learnt."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Adapter(nn.Module):
    """A residual bottleneck that starts as the identity."""

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, bottleneck)
        self.up = _from_zero(bottleneck, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(gelu(self.down(layer_norm(x, x.shape[-1:]))))


class Head(nn.Module):
    """Base of all heads: ``head(batch, frame_mask=..., token_mask=..., step_mask=...)`` gives a tuple of logits [B, C].

    Masks are bool, True where used: frames [B, T], tokens [B, T, G, G], steps of a skeleton [B, Ts].
    """

    def constrain(self) -> None:
        """Put parameters that left their range back into it; called after every step."""


class TextHead(Head):
    """What the heads that spot words share: frozen text, class offsets, an adapter on the frames, the scale."""

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


class ProbeHead(Head):
    """Mean of unit embeddings into a linear classifier: the baseline for an encoder that knows no words."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.dim)
        self.classifier = _from_zero(sizes.dim, sizes.classes)

    def forward(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        frames = unit(batch["frames"])
        if frame_mask is not None:
            frames = frames * frame_mask.unsqueeze(-1)
        return (self.classifier(self.norm(frames.sum(dim=1))),)


class SpottingHead(TextHead):
    """VCS: frames weighted by how well they match a class's words."""

    def frames(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        """Adapted frames, float32 [B, T, D]; not normalised."""
        return self.adapter(unit(batch["frames"]))

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """What the words choose from, and the other arguments of ``functional.spot``. The frames come first."""
        return unit(self.frames(batch, frame_mask)), {"mask": frame_mask}

    def forward(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        tokens, options = self.tokens(batch, frame_mask)
        bank = WordBank(self.words, self.membership)
        return (self.log_scale.exp() * spot(tokens, bank, self.class_units(), tau=self.tau, **options),)

    def frame_weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How much each frame speaks for each class, float32 [B, T, C]; body parts count for their frame."""
        tokens, options = self.tokens(batch, None)
        options.pop("values", None)
        weights = spot_weights(tokens, WordBank(self.words, self.membership), tau=self.tau, **options)
        num_frames = batch["frames"].shape[1]
        parts = weights[:, num_frames:].unflatten(1, (num_frames, -1)) if weights.shape[1] > num_frames else None
        return weights[:, :num_frames] if parts is None else weights[:, :num_frames] + parts.sum(2)


class TemporalHead(SpottingHead):
    """VCS whose frames also see each other: ``v + gamma (Tr(v + pos) - v - pos)``, gamma from 0."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.temporal = TemporalTransformer(sizes.dim, layers=1, positions=sizes.frames, expansion=2)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def frames(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        frames = super().frames(batch, frame_mask)
        return frames + self.gamma * self.temporal.updates(frames, frame_mask)


class GuidedHead(SpottingHead):
    """VCS on frames that the pose changes, in the weights of the frames, in what is weighted, or in both."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.pose_in = config.pose_in

    def guided(self, frames: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Adapted ``frames`` [B, T, D] with the pose in them."""
        raise NotImplementedError

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        frames = self.frames(batch, frame_mask)
        guided = self.guided(frames, batch)
        if self.pose_in == "both":
            return guided, {"mask": frame_mask}
        plain = self.plain(frames)
        weighing, weighed = (guided, plain) if self.pose_in == "weights" else (plain, guided)
        return weighing, {"values": weighed, "mask": frame_mask}

    def plain(self, frames: Tensor) -> Tensor:
        """What ``guided`` gives where the pose says nothing."""
        return unit(frames)


class PublishedPoseHead(GuidedHead):
    """P-VCS as ViLP publishes it: frames gated by the CLIP embedding of the heatmap image.

    With ``temporal_layers`` BIKE's temporal transformer comes first, on the frames as they are stored.
    """

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.kappa = config.kappa
        self.temporal = TemporalTransformer(sizes.dim, layers=layers) if (layers := config.temporal_layers) else None

    def frames(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> Tensor:
        frames = batch["frames"].float()
        if self.temporal is not None:
            frames = self.temporal(frames, frame_mask)
        return self.adapter(unit(frames))

    def guided(self, frames: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return gate(unit(frames), batch["pose_embedding"], self.kappa)

    def plain(self, frames: Tensor) -> Tensor:
        return unit(frames) / 2  # the gate at kappa = 0


class TokenPoseHead(GuidedHead):
    """P-VCS on tokens: frames move towards the tokens under their persons, by a learnt share that starts at 0."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.pooled_adapter = Adapter(sizes.dim, config.bottleneck)
        self.alpha = nn.Parameter(torch.tensor(0.0))

    @torch.no_grad()
    def constrain(self) -> None:
        super().constrain()
        self.alpha.clamp_(0.0, 1.0)

    def guided(self, frames: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        pooled = self.pooled_adapter(unit(batch["pooled"]))
        return pvcs_tokens(frames, pooled, batch["presence"], self.alpha)


class TemporalPoseHead(TokenPoseHead, TemporalHead):
    """P-VCS on tokens with the temporal layer of ``TemporalHead``."""


class JointPoseHead(SpottingHead):
    """P-VCS on joints: frames and body parts compete for the words, parts with a weight beta that starts at 0."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__(config, sizes)
        self.part_adapter = Adapter(sizes.dim, config.bottleneck)
        self.beta = nn.Parameter(torch.tensor(0.0))

    @torch.no_grad()
    def constrain(self) -> None:
        super().constrain()
        self.beta.clamp_(min=0.0)

    def tokens(self, batch: Mapping[str, Tensor], frame_mask: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        frames = unit(self.frames(batch, frame_mask))
        parts = unit(self.part_adapter(unit(batch["parts"])))
        tokens, presence, mask = joint_tokens(frames, parts, batch["part_presence"], self.beta, frame_mask)
        return tokens, {"presence": presence, "mask": mask}


class AttentionHead(Head):
    """Attention pooling over all patch tokens into a linear classifier: no text, no pose unless heatmaps are given."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.pool = AttentionPool(sizes.width, sizes.frames, sizes.grid, config.pool_heads)
        self.norm = nn.LayerNorm(sizes.width)
        self.classifier = _from_zero(sizes.width, sizes.classes)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        frame_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        if frame_mask is not None:
            seen = frame_mask[:, :, None, None].expand(batch["tokens"].shape[:4])
            token_mask = seen if token_mask is None else seen & token_mask
        pooled = self.pool(batch["tokens"], batch.get("heatmap"), token_mask)
        return (self.classifier(self.norm(pooled)),)


class PoseHead(Head):
    """Keypoints and their motion alone: a light transformer over the steps of each person, the best over the persons.

    ``with_text`` compares with class embeddings instead of learning a classifier's rows; either way it starts at 0.
    """

    classes: Tensor | None

    def __init__(self, config: HeadConfig, sizes: HeadSizes, *, with_text: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.motion, POSE_WIDTH)
        self.positions = nn.Parameter(torch.randn(sizes.steps, POSE_WIDTH) * 0.02)
        self.transformer = Blocks(POSE_WIDTH, POSE_HEADS, POSE_EXPANSION, POSE_LAYERS)
        self.norm = nn.LayerNorm(POSE_WIDTH)
        self.classifier = _from_zero(POSE_WIDTH, sizes.dim if with_text else sizes.classes)
        self.register_buffer("classes", torch.zeros(sizes.classes, sizes.dim) if with_text else None)

    @torch.no_grad()
    def set_text(self, bank: WordBank, classes: Tensor, scale: float) -> None:
        if self.classes is not None:
            self.classes.copy_(classes)

    def forward(self, batch: Mapping[str, Tensor], step_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        out = self.classifier(self.features(batch, step_mask))
        return (out if self.classes is None else out @ self.classes.T,)

    def features(self, batch: Mapping[str, Tensor], step_mask: Tensor | None = None) -> Tensor:
        """What the classifier reads, [B, D]."""
        skeleton = batch["skeleton"].float().transpose(1, 2)
        seen = skeleton[..., -1] > 0
        if step_mask is not None:
            seen = seen & step_mask.unsqueeze(1)
        # Only who is seen at some step goes through the transformer: a softmax over nothing is not a number, and most
        # videos show fewer persons than there is room for.
        found = seen.any(dim=2)
        steps = seen[found]
        persons = skeleton.new_full((*found.shape, POSE_WIDTH), float("-inf"))
        if len(steps):
            tokens = self.transformer(self.embed(skeleton[found]) + self.positions, ~steps)
            shares = steps.float() / steps.sum(dim=1, keepdim=True)
            persons[found] = (shares.unsqueeze(1) @ tokens).squeeze(1).float()
        best = torch.where(found.any(dim=1, keepdim=True), persons.amax(dim=1), 0.0)
        normed: Tensor = self.norm(best)
        return normed


class PoseConvHead(Head):
    """Keypoints as volumes of heatmaps, through a small 3D network: see ``pipeline.head.poseconv``."""

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.net = PoseConvNet()
        self.classifier = _from_zero(self.net.width, sizes.classes)

    def forward(self, batch: Mapping[str, Tensor], step_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
        return (self.classifier(self.features(batch, step_mask)),)

    def features(self, batch: Mapping[str, Tensor], step_mask: Tensor | None = None) -> Tensor:
        """What the classifier reads, [B, D]."""
        found: Tensor = self.net(batch["skeleton"].float(), step_mask)
        return found


class SumHead(Head):
    """Several streams, logits added: late fusion. The logits of each follow, for auxiliary losses."""

    def __init__(self, streams: Mapping[str, Head]) -> None:
        super().__init__()
        self.names = tuple(streams)
        for name, stream in streams.items():
            self.add_module(name, stream)

    def forward(self, batch: Mapping[str, Tensor], **masks: Tensor | None) -> tuple[Tensor, ...]:
        logits = [stream(batch, **masks)[0] for stream in self.streams]
        return (torch.stack(logits).sum(dim=0), *logits)

    @property
    def streams(self) -> list[Head]:
        return [self.get_submodule(name) for name in self.names]  # type: ignore[misc]

    def constrain(self) -> None:
        for stream in self.streams:
            stream.constrain()


MODULES: dict[str, Callable[[HeadConfig, HeadSizes], Head]] = {
    "mean": MeanHead,
    "vcs": SpottingHead,
    "vilp": PublishedPoseHead,
    "pvcs": TokenPoseHead,
    "pvcs-joint": JointPoseHead,
    "attn": AttentionHead,
    "pose": PoseHead,
    "poseconv": PoseConvHead,
}


def build_head(config: HeadConfig, sizes: HeadSizes, *, seed: int = 0) -> Head:
    """A fresh head whose random weights come from ``seed`` alone. Its text and statistics are not set yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        streams = _streams(config, sizes)
        return SumHead(streams) if len(streams) > 1 else next(iter(streams.values()))


def _streams(config: HeadConfig, sizes: HeadSizes) -> dict[str, Head]:
    """The streams of a head by name. The default head is P-VCS on tokens plus attention pooling, or what its
    modalities leave of them: skeletons stand for the pose where there is no video that it could guide."""
    streams: dict[str, Head] = {}
    if config.base == "fuse":
        modalities = config.modalities.split("+")
        if "V" in modalities and "T" in modalities:
            streams["text"] = (TemporalPoseHead if "P" in modalities else TemporalHead)(config, sizes)
        if "V" in modalities:
            streams["visual"] = AttentionHead(config, sizes)
        else:
            streams["pose"] = PoseHead(config, sizes, with_text="T" in modalities)
    else:
        probes = config.base == "mean" and config.encoder == "video"
        streams[config.base] = (ProbeHead if probes else MODULES[config.base])(config, sizes)
    if config.late_pose:
        streams.setdefault("pose", PoseHead(config, sizes))
    return streams


def text_parts(head: nn.Module) -> list[TextHead | PoseHead]:
    """The parts of a head that take a text set."""
    return [module for module in head.modules() if isinstance(module, TextHead | PoseHead)]


def pool_part(head: nn.Module) -> AttentionPool | None:
    """The part of a head that pools tokens by attention, if any."""
    return next((module for module in head.modules() if isinstance(module, AttentionPool)), None)
