"""Heads: three splits times five seeds of a dataset as large as HMDB51, trained in one program and tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.benchmarks.gpu.base import Bench, GpuConfig, Need, Work
from pipeline.benchmarks.gpu.profiling import busy_share
from pipeline.benchmarks.made_up import make_splits
from pipeline.head.config import INPUTS, HeadConfig
from pipeline.head.data import Batches, Inputs
from pipeline.head.models import Head
from pipeline.head.pooling import BODY_PARTS
from pipeline.head.skeleton import skeletons
from pipeline.head.stack import together_pays
from pipeline.head.text import TextSide, text_side
from pipeline.head.train import Run, TrainConfig, fit_runs, new_head, predict
from stages.pose.coco import NUM_JOINTS
from store.features import TextSet

# The one with an aim first; those that read skeletons cannot be trained together, and come last.
HEADS = ("pvcs", "fuse", "vcs", "vilp", "mean", "pvcs-joint", "attn", "pose", "poseconv")
# Of these also in fp32, to see whether bf16 pays: little but launches, and much arithmetic.
BOTH = ("pvcs", "fuse")
POSE_FRAMES, PERSONS = 48, 2


def run(bench: Bench) -> None:
    """A study of each head; of the first also one run alone, and how busy it keeps the device."""
    config = bench.config
    inputs, text = make_inputs(config, bench.device)
    for head in HEADS:
        own = inputs.only(INPUTS[head])
        one = Study(head, own, text, 1, 1)
        if not together_pays(own, TrainConfig().batch_size):
            _time(bench, one)
            continue
        several = replace(one, splits=config.splits, seeds=config.seeds)
        _time(bench, several)
        if head in BOTH:
            _time(bench, replace(several, precision="fp32"))
        if head == HEADS[0]:
            _time(bench, one)
            busy = partial(busy_share, partial(several, config, epochs=2), bench.device)
            bench.figures(f"head {head}: how busy the device is", f"{several.name}, 2 epochs", busy)


@dataclass(frozen=True)
class Study:
    """Training of a head on some splits with some seeds, and its test."""

    head: str
    inputs: Inputs
    text: TextSide
    splits: int
    seeds: int
    precision: str = "auto"

    @property
    def training(self) -> TrainConfig:
        return TrainConfig(precision=self.precision).on(self.inputs.device)

    @property
    def name(self) -> str:
        runs = (
            f"{self.splits} splits x {self.seeds} seeds in one program" if self.splits * self.seeds > 1 else "one run"
        )
        return f"{runs}, {self.training.precision}"

    def __call__(self, config: GpuConfig, *, epochs: int) -> list[Tensor]:
        """Train the heads of all splits and seeds, and give their logits of the test videos of each."""
        runs, tests = [], []
        for split in range(1, self.splits + 1):
            order = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(split))
            train, test = order[: config.train], order[config.train :][: config.test]
            tests.append(self.inputs.rows(test))
            heads = (self.untrained(seed, train) for seed in range(self.seeds))
            runs += [Run(made, train, split, seed) for seed, made in enumerate(heads)]
        fit_runs(runs, self.inputs, replace(self.training, epochs=epochs))
        return [predict(run.head, tests[run.split - 1]) for run in runs]

    def untrained(self, seed: int, rows: Tensor) -> Head:
        return new_head(HeadConfig(head=self.head), self.inputs, self.text, seed=seed, rows=rows)

    def need(self, videos: int) -> Need:
        """Matrix products, forward and backward, as torch counts them on a batch, and what is read of the features."""
        rows = torch.arange(min(16, len(self.inputs)))
        batch = Batches(self.inputs).take(rows, torch.zeros_like(rows))
        head = self.untrained(0, rows)
        with FlopCounterMode(display=False) as counter:
            head(batch)[0].sum().backward()
        a_video = sum(tensor[0].nbytes for tensor in self.inputs.tensors.values())
        operations = counter.get_total_flops() / len(rows) * videos
        return Need(operations, a_video * videos, precision=self.training.precision)


def _time(bench: Bench, study: Study) -> None:
    config = bench.config
    videos = study.splits * study.seeds * config.epochs * config.train

    def make() -> Work:
        study(config, epochs=1)
        return partial(study, config, epochs=config.epochs)

    bench.time(
        f"head {study.head}: {config.epochs} epochs of {config.train:,} videos, and its test",
        study.name,
        make,
        count=videos,
        unit="videos",
        need=study.need(videos),
        on_host=True,
        once=True,
    )


def make_inputs(config: GpuConfig, device: torch.device) -> tuple[Inputs, TextSide]:
    """What every head reads, made up, on the device; frames mean their class under much noise."""
    made = make_splits(config.store_videos, 0, config.head_frames)
    videos, frames, grid, dim = len(made.frames), config.head_frames, config.grid, made.classes.shape[1]
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn((videos, 1, *shape), dtype=torch.float16, device=device, generator=generator)

    people = torch.rand((videos, POSE_FRAMES, PERSONS, NUM_JOINTS, 3), device=device, generator=generator)
    tensors = {
        "frames": torch.from_numpy(made.frames).unsqueeze(1).to(device),
        "pose_embedding": noise(frames, dim),
        "pooled": noise(frames, dim),
        "presence": noise(frames).abs().clamp(max=1),
        "parts": noise(frames, len(BODY_PARTS), dim),
        "part_presence": noise(frames, len(BODY_PARTS)).abs().clamp(max=1),
        "tokens": noise(frames, grid, grid, config.token_width),
        "heatmap": noise(frames, grid, grid).abs().clamp(max=1),
        "skeleton": skeletons(people, torch.ones(videos, device=device)).unsqueeze(1).half(),
    }
    names = tuple(f"video {number}" for number in range(videos))
    labels, slots = torch.from_numpy(made.labels).to(device), torch.arange(videos)
    inputs = Inputs(tensors=tensors, labels=labels, slots=slots, video_ids=names, sources=names)
    text = TextSet(
        class_names=tuple(f"class {number}" for number in range(len(made.classes))),
        templates=("{}",),
        class_embeddings=torch.from_numpy(made.classes)[None],
        word_embeddings=torch.from_numpy(made.words)[None],
        token_kinds=torch.from_numpy(made.kinds)[None],
        logit_scale=100.0,
        logit_bias=0.0,
    )
    return inputs, text_side(text)
