"""Training a head on resident features, and training runs over splits and seeds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.head.config import HeadConfig, HeadSizes
from pipeline.head.data import Batches, Inputs
from pipeline.head.functional import inbatch_loss
from pipeline.head.models import Head, build_head, pool_part, text_parts
from pipeline.head.text import TextSide
from store.errors import UsageError, one_of

# Cross-entropy over all classes, and the published loss over the classes of a batch.
LOSSES = ("all-class", "in-batch")


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained.

    learning_rate    of AdamW, falling to 0 along a cosine
    scalar_boost     how many times faster scalars learn (alpha, gamma, scale)
    weight_decay     of matrices only
    smoothing        of the labels
    auxiliary        weight of the loss of each stream of a head with several
    frame_dropout    chance that a frame (or a step of a skeleton) of a training video is hidden; one always stays
    token_dropout    the same for patch tokens
    ema              decay of the weight average that is tested; it warms up over the first steps
    loss             one of ``LOSSES``
    random_frames    a training video shows a random stored frame of each of T' segments, not the first of each
    interpolation    share of what was learnt in the weights that are tested; the rest is the untrained head's
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    scalar_boost: float = 10.0
    weight_decay: float = 0.05
    smoothing: float = 0.1
    auxiliary: float = 0.3
    frame_dropout: float = 0.1
    token_dropout: float = 0.1
    ema: float = 0.99
    loss: str = "all-class"
    random_frames: bool = False
    interpolation: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UsageError(f"epochs is {self.epochs}; allowed: 0 (zero-shot) or more")
        for name, low in (("batch_size", 1), ("learning_rate", 0), ("weight_decay", 0)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: {low} or more")
        for name in ("smoothing", "frame_dropout", "token_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: 0 up to, not including, 1")
        if not 0 < self.interpolation <= 1:
            raise UsageError(f"interpolation is {self.interpolation}; allowed: above 0, up to 1")
        one_of("loss", self.loss, LOSSES)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        return cls(**data)


@dataclass(frozen=True)
class EpochReport:
    """What a progress callback is told after each epoch (``epoch`` counts from 1)."""

    split: int
    seed: int
    epoch: int
    epochs: int
    loss: float
    seconds: float


Progress = Callable[[EpochReport], None]


class LossCurves:
    """A progress callback that keeps the loss of every epoch, by split and seed, and passes what it is told on."""

    def __init__(self, then: Progress | None) -> None:
        self._then = then
        self._losses: dict[tuple[int, int], list[float]] = {}

    def __call__(self, epoch: EpochReport) -> None:
        self._losses.setdefault((epoch.split, epoch.seed), []).append(epoch.loss)
        if self._then is not None:
            self._then(epoch)

    def of(self, split: int, seed: int) -> tuple[float, ...]:
        return tuple(self._losses.get((split, seed), ()))


def sizes_of(inputs: Inputs, text: TextSide) -> HeadSizes:
    """Sizes of the head that reads ``inputs`` [N, V, T, ...] and a text side."""
    shapes = {name: tensor.shape for name, tensor in inputs.tensors.items()}
    tokens, skeleton = shapes.get("tokens"), shapes.get("skeleton")
    return HeadSizes(
        classes=len(text.classes),
        frames=inputs.num_frames,
        dim=shapes["frames"][-1] if "frames" in shapes else text.classes.shape[1],
        words=len(text.bank.units),
        width=tokens[-1] if tokens else 0,
        grid=tokens[3] if tokens else 0,
        steps=skeleton[2] if skeleton else 0,
        motion=skeleton[-1] if skeleton else 0,
    )


def new_head(config: HeadConfig, inputs: Inputs, text: TextSide, *, seed: int = 0) -> Head:
    """An untrained head for ``inputs``, zero-shot where it reads text. Statistics of tokens come from ``inputs``."""
    head = build_head(config, sizes_of(inputs, text), seed=seed)
    set_text(head, text)
    pool = pool_part(head)
    if pool is not None:
        pool.set_statistics(*channel_statistics(inputs.tensors["tokens"]))
    return head.to(inputs.device)


def set_text(head: nn.Module, text: TextSide) -> None:
    """Give all parts of a head that read words the words and classes of ``text``."""
    for part in text_parts(head):
        part.set_text(text.bank, text.classes, text.scale)


def channel_statistics(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [W] over all but the last axis, of about a thousand evenly spaced videos.

    With hundreds of tokens each they fix both to well under a percent; more would only take longer.
    """
    tokens = tokens[:: max(1, len(tokens) // 1024)]
    width = tokens.shape[-1]
    total = torch.zeros(width, dtype=torch.float64, device=tokens.device)
    squares = torch.zeros_like(total)
    count = tokens.numel() // width
    for part in tokens.flatten(0, 1).split(32):
        rows = part.float().reshape(-1, width)
        total += rows.sum(dim=0)
        squares += rows.square().sum(dim=0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()


def fit(
    head: Head,
    inputs: Inputs,
    config: TrainConfig,
    *,
    split: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> float:
    """Train ``head`` in place and leave the averaged weights of the last epoch in it; returns that epoch's loss.

    The order of videos, their views and frames and all drop-out come from ``seed``: the same seed gives the same
    weights to the bit on the same machine with the same number of threads.
    """
    if config.epochs == 0:
        return float("nan")
    generator = torch.Generator().manual_seed(seed)
    parameters: list[Tensor] = list(head.parameters())
    untrained = [p.detach().clone() for p in parameters]
    average = [p.clone() for p in untrained]
    optimizer = _optimizer(head, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    batches = Batches(inputs)
    labels = inputs.labels.cpu()
    steps = math.ceil(len(inputs) / config.batch_size)
    head.train()
    started, step, loss_sum = time.perf_counter(), 0, 0.0
    with deterministic(inputs.device):
        for epoch in range(1, config.epochs + 1):
            losses = []
            for rows in torch.randperm(len(inputs), generator=generator).split(config.batch_size):
                rate = 0.5 * (1 + math.cos(math.pi * step / (steps * config.epochs)))
                for group, base in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = base * rate
                views = torch.randint(inputs.views, rows.shape, generator=generator)
                targets = labels[rows]
                if inputs.flips is not None:
                    views, targets = inputs.flips.train(views, targets)
                frames = inputs.segments(len(rows), generator if config.random_frames else None)
                batch = batches.take(rows, views, frames)
                masks = dropout_masks(batch, config, generator, inputs.device)
                logits = head(batch, **masks)
                loss = _loss(logits, targets.to(inputs.device), config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                head.constrain()
                step += 1
                decay = min(config.ema, step / (step + 9))
                with torch.no_grad():
                    torch._foreach_lerp_(average, parameters, 1 - decay)
                losses.append(loss.detach())
            loss_sum = float(torch.stack(losses).mean())
            if not math.isfinite(loss_sum):
                raise UsageError(
                    f"training diverged in epoch {epoch}: the loss is {loss_sum}; use a learning_rate below "
                    f"{config.learning_rate}"
                )
            if progress is not None:
                seconds = time.perf_counter() - started
                progress(EpochReport(split, seed, epoch, config.epochs, loss_sum, seconds))
    with torch.no_grad():
        torch._foreach_lerp_(untrained, average, config.interpolation)
        torch._foreach_copy_(parameters, untrained)
    return loss_sum


def dropout_masks(
    batch: Mapping[str, Tensor], config: TrainConfig, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Which frames [B, T], tokens [B, T, G, G] and steps of a skeleton [B, Ts] a training step sees; every video keeps
    a frame and a step, every frame a token."""
    masks = {}

    def kept(shape: torch.Size, rate: float) -> Tensor:
        chances = torch.rand(shape, generator=generator)
        return ((chances >= rate) | (chances == chances.amax(dim=-1, keepdim=True))).to(device)

    times = {name: tensor.shape[:2] for name, tensor in batch.items()}
    steps = times.pop("skeleton", None)
    if config.frame_dropout and times:
        masks["frame_mask"] = kept(next(iter(times.values())), config.frame_dropout)
    if config.frame_dropout and steps:
        masks["step_mask"] = kept(steps, config.frame_dropout)
    if config.token_dropout and "tokens" in batch:
        shape = batch["tokens"].shape[:-1]
        masks["token_mask"] = kept(torch.Size((*shape[:2], shape[2:].numel())), config.token_dropout).view(shape)
    return masks


def _loss(logits: tuple[Tensor, ...], labels: Tensor, config: TrainConfig) -> Tensor:
    if config.loss == "in-batch":
        losses = [inbatch_loss(x[:, labels], labels) for x in logits]
    else:
        losses = [cross_entropy(x, labels, label_smoothing=config.smoothing) for x in logits]
    return losses[0] + config.auxiliary * sum(losses[1:], start=torch.zeros_like(losses[0]))


def _optimizer(head: Head, config: TrainConfig) -> torch.optim.AdamW:
    by_rank: dict[int, list[nn.Parameter]] = {0: [], 1: [], 2: []}
    for parameter in head.parameters():
        by_rank[min(parameter.ndim, 2)].append(parameter)
    scalar_rate = config.learning_rate * config.scalar_boost
    groups: list[dict[str, Any]] = [
        {"params": by_rank[0], "lr": scalar_rate, "weight_decay": 0.0},
        {"params": by_rank[1], "lr": config.learning_rate, "weight_decay": 0.0},
        {"params": by_rank[2], "lr": config.learning_rate, "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Only deterministic kernels on a GPU; on a CPU the kernels in use are deterministic as they are."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@torch.no_grad()
def predict(head: Head, inputs: Inputs, *, batch_size: int = 256) -> Tensor:
    """Logits float32 [N, C] on the CPU, the mean over the views."""
    head.eval()
    batches = Batches(inputs)
    logits = []
    with deterministic(inputs.device):
        for rows in torch.arange(len(inputs)).split(batch_size):
            frames = inputs.segments(len(rows))
            views = torch.stack(
                [
                    head(batches.take(rows, torch.full_like(rows, view), frames))[0].float().cpu()
                    for view in range(inputs.views)
                ]
            )
            logits.append(views.mean(dim=0) if inputs.flips is None else inputs.flips.mean(views))
    return torch.cat(logits)
