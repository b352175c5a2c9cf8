"""Training a head on resident features, and training runs over splits and seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.head.config import HeadConfig, HeadSizes
from pipeline.head.data import Batches, Inputs, does_not_fit
from pipeline.head.functional import inbatch_loss
from pipeline.head.models import Head, build_head, pool_part, text_parts
from pipeline.head.stack import Stack, together_pays
from pipeline.head.text import TextSide
from stages.precision import DTYPES, resolve_precision
from store.errors import UsageError, one_of

# Cross-entropy over all classes, and the published loss over the classes of a batch.
LOSSES = ("all-class", "in-batch")
PRECISIONS = ("auto", "fp32", "bf16")


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
    precision        of the matrix products of a training step, one of ``PRECISIONS``; ``auto`` is ``bf16`` where the
                     device multiplies faster in it. Weights, softmax, losses and tests are float32 always
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
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UsageError(f"epochs is {self.epochs}; allowed: 0 (zero-shot) or more")
        for name, low in (("batch_size", 1), ("learning_rate", 0), ("weight_decay", 0)):
            if not low <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: {low} or more")
        for name in ("smoothing", "frame_dropout", "token_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: 0 up to, not including, 1")
        if not 0 < self.interpolation <= 1:
            raise UsageError(f"interpolation is {self.interpolation}; allowed: above 0, up to 1")
        one_of("loss", self.loss, LOSSES)
        one_of("precision", self.precision, PRECISIONS)

    def on(self, device: torch.device | str) -> TrainConfig:
        """With the precision that ``auto`` stands for on a device."""
        return replace(self, precision=resolve_precision(self.precision, torch.device(device)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        return cls(**{"precision": "fp32", **data})  # records that name none are of that time


@dataclass(frozen=True)
class EpochReport:
    """What a progress callback is told after each epoch (``epoch`` counts from 1) of each of the ``runs`` that are
    trained together."""

    split: int
    seed: int
    epoch: int
    epochs: int
    loss: float
    seconds: float
    runs: int = 1


Progress = Callable[[EpochReport], None]


class LossCurves:
    """A progress callback that keeps the loss of every epoch, by split and seed, and passes what it is told on."""

    def __init__(self, then: Progress | None) -> None:
        self._then = then
        self._losses: dict[tuple[int, int], dict[int, float]] = {}

    def __call__(self, epoch: EpochReport) -> None:
        self._losses.setdefault((epoch.split, epoch.seed), {})[epoch.epoch] = epoch.loss
        if self._then is not None:
            self._then(epoch)

    def of(self, split: int, seed: int) -> tuple[float, ...]:
        return tuple(self._losses.get((split, seed), {}).values())


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


def new_head(config: HeadConfig, inputs: Inputs, text: TextSide, *, seed: int = 0, rows: Tensor | None = None) -> Head:
    """An untrained head for ``inputs``, zero-shot where it reads text. Statistics of tokens come from ``inputs``, or
    from its ``rows`` alone, int64 [M]."""
    head = build_head(config, sizes_of(inputs, text), seed=seed)
    set_text(head, text)
    pool = pool_part(head)
    if pool is not None:
        pool.set_statistics(*channel_statistics(inputs.tensors["tokens"], rows))
    return head.to(inputs.device)


def set_text(head: nn.Module, text: TextSide) -> None:
    """Give all parts of a head that read words the words and classes of ``text``."""
    for part in text_parts(head):
        part.set_text(text.bank, text.classes, text.scale)


def channel_statistics(tokens: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [W] over all but the last axis, of about a thousand evenly spaced videos.

    With hundreds of tokens each they fix both to well under a percent; more would only take longer.
    """
    rows = torch.arange(len(tokens)) if rows is None else rows
    tokens = tokens[rows[:: max(1, len(rows) // 1024)].to(tokens.device)]
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


class Run(NamedTuple):
    """One head to train: on which videos (``rows`` int64 [M] of the inputs), as the seed of which split."""

    head: Head
    rows: Tensor
    split: int = 1
    seed: int = 0


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
    return fit_together([Run(head, torch.arange(len(inputs)), split, seed)], inputs, config, progress)[0]


def fit_runs(
    runs: Sequence[Run],
    inputs: Inputs,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    note: Callable[[str], None] = lambda line: None,
) -> list[float]:
    """``fit`` for several runs, in one program where that pays, of as many of them as fit into memory.

    Where not even one fits, the features leave the device for good, and ``note`` is told. Raises ``UsageError`` where
    that is not enough.
    """
    size, streamed = len(runs) if together_pays(inputs, config.batch_size) else 1, False
    losses: list[float] = []
    while len(losses) < len(runs):
        try:
            losses += fit_together(runs[len(losses) : len(losses) + size], inputs, config, progress)
        except torch.OutOfMemoryError:
            if size > 1:
                size = math.ceil(size / 2)
            elif not streamed:
                streamed = True
                note(does_not_fit(inputs.tensors, str(inputs.device)))
                inputs.leave_device()
            else:
                raise UsageError(
                    f"a batch of {config.batch_size} videos does not fit into the memory of {inputs.device}; use a "
                    "smaller --batch-size or fewer --frames"
                ) from None
    return losses


def fit_together(
    runs: Sequence[Run], inputs: Inputs, config: TrainConfig, progress: Progress | None = None
) -> list[float]:
    """``fit`` for several runs in one program: their losses. Each comes out as if it were trained alone, up to the
    rounding of float32. The heads stay as they are until the last step is done."""
    if config.epochs == 0:
        return [float("nan")] * len(runs)
    dtype = DTYPES[config.on(inputs.device).precision]
    stack = Stack([run.head.train() for run in runs], dtype)
    untrained = [p.detach().clone() for p in stack.parameters]
    average = [p.clone() for p in untrained]
    optimizer = _optimizer(stack.parameters, config)
    batches, labels = Batches(inputs, tokens=dtype), inputs.labels.cpu()
    courses = [Course(run, inputs, labels, config) for run in runs]
    started = time.perf_counter()
    with deterministic(inputs.device):
        for step in range(max(course.total for course in courses)):
            running = [number for number, course in enumerate(courses) if step < course.total]
            drawn = {number: courses[number].draw() for number in running}
            optimizer.zero_grad(set_to_none=True)
            # One product needs batches of one length; the last ones of an epoch differ where the splits' sizes do.
            for length in sorted({len(found.rows) for found in drawn.values()}):
                equal = [number for number in running if len(drawn[number].rows) == length]
                losses = _losses(stack, batches, courses, {number: drawn[number] for number in equal}, config)
                losses.sum().backward()
                for number, loss in zip(equal, losses.detach(), strict=True):
                    courses[number].losses.append(loss)
            _step(optimizer, stack, [course.rate if step < course.total else 0.0 for course in courses])
            decay = min(config.ema, (step + 1) / (step + 10))
            stack.move(average, stack.parameters, [float(step < course.total) * (1 - decay) for course in courses])
            for number in running:
                courses[number].end_of_step(progress, time.perf_counter() - started, len(runs))
    with torch.no_grad():
        torch._foreach_lerp_(untrained, average, config.interpolation)
    stack.give_back(untrained)
    return [course.loss for course in courses]


class Draw(NamedTuple):
    """What a run sees in one step: videos, their views, T' frames of each (None: all) and labels, int64 [B, ...]."""

    rows: Tensor
    views: Tensor
    frames: Tensor | None
    targets: Tensor


class Course:
    """One run on its way through the training: its random draws, its learning rate and its losses."""

    def __init__(self, run: Run, inputs: Inputs, labels: Tensor, config: TrainConfig) -> None:
        self._run, self._inputs, self._labels, self._config = run, inputs, labels, config
        self._generator = torch.Generator().manual_seed(run.seed)
        self._steps = math.ceil(len(run.rows) / config.batch_size)
        self._step = 0
        self._order: tuple[Tensor, ...] = ()
        self.total = self._steps * config.epochs
        self.losses: list[Tensor] = []
        self.loss = float("nan")

    @property
    def rate(self) -> float:
        """Share of the learning rate in this step: a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * self._step / self.total))

    def draw(self) -> Draw:
        if self._step % self._steps == 0:
            order = torch.randperm(len(self._run.rows), generator=self._generator)
            self._order = self._run.rows[order].split(self._config.batch_size)
        rows = self._order[self._step % self._steps]
        views = torch.randint(self._inputs.views, rows.shape, generator=self._generator)
        targets = self._labels[rows]
        if self._inputs.flips is not None:
            views, targets = self._inputs.flips.train(views, targets)
        frames = self._inputs.segments(len(rows), self._generator if self._config.random_frames else None)
        return Draw(rows, views, frames, targets)

    def masks(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dropout_masks(batch, self._config, self._generator)

    def end_of_step(self, progress: Progress | None, seconds: float, runs: int) -> None:
        """Count the step. After the last one of an epoch look at its loss and tell of it."""
        self._step += 1
        if self._step % self._steps:
            return
        epoch = self._step // self._steps
        self.loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(self.loss):
            raise UsageError(
                f"training diverged in epoch {epoch}: the loss is {self.loss}; use a learning_rate below "
                f"{self._config.learning_rate}"
            )
        if progress is not None:
            split, seed = self._run.split, self._run.seed
            progress(EpochReport(split, seed, epoch, self._config.epochs, self.loss, seconds, runs))


def _losses(
    stack: Stack, batches: Batches, courses: Sequence[Course], drawn: Mapping[int, Draw], config: TrainConfig
) -> Tensor:
    """The loss of each run that drew, float32 [R]; their batches are of one length."""
    draws = list(drawn.values())
    frames = [draw.frames for draw in draws if draw.frames is not None]
    rows, views = (torch.cat(parts) for parts in zip(*((draw.rows, draw.views) for draw in draws), strict=True))
    taken = batches.take(rows, views, torch.cat(frames) if frames else None)
    batch = {name: tensor.unflatten(0, (len(draws), -1)) for name, tensor in taken.items()}
    masks = [courses[run].masks({n: tensor[i] for n, tensor in batch.items()}) for i, run in enumerate(drawn)]
    # The runs of a step together: every copy to a GPU is waited for.
    together = {name: torch.stack([mask[name] for mask in masks]).to(batches.device) for name in masks[0]}
    targets = torch.stack([draw.targets for draw in draws]).to(batches.device)

    def loss(logits: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        return _loss(logits, labels, config)

    return stack.losses(list(drawn), batch, together, targets, loss)


def _step(optimizer: torch.optim.Optimizer, stack: Stack, rates: Sequence[float]) -> None:
    """A step of each run at its own share of the learning rate, and back into the ranges of the parameters."""
    before = [p.detach().clone() for p in stack.parameters]
    optimizer.step()
    # A step of AdamW is proportional to the learning rate, weight decay included: a part of the way is a lower rate.
    stack.move(before, stack.parameters, rates)
    with torch.no_grad():
        torch._foreach_copy_(stack.parameters, before)
    stack.constrain()


def dropout_masks(batch: Mapping[str, Tensor], config: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """Which frames [B, T], tokens [B, T, G, G] and steps of a skeleton [B, Ts] a training step sees, on the CPU; every
    video keeps a frame and a step, every frame a token."""
    masks = {}

    def kept(shape: torch.Size, rate: float) -> Tensor:
        chances = torch.rand(shape, generator=generator)
        return (chances >= rate) | (chances == chances.amax(dim=-1, keepdim=True))

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


def _optimizer(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW on parameters with a run axis in front."""
    by_rank: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for parameter in parameters:
        by_rank[min(parameter.ndim - 1, 2)].append(parameter)
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
