"""Heads: three splits times five seeds of a dataset as large as HMDB51, trained in one program and tested."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pipeline.benchmarks.gpu.base import Bench, GpuConfig, Need, call
from pipeline.benchmarks.gpu.profiling import busy_share
from pipeline.benchmarks.made_up import make_split
from pipeline.head.config import INPUTS, HeadConfig
from pipeline.head.data import Batches, Inputs
from pipeline.head.pooling import BODY_PARTS
from pipeline.head.skeleton import skeletons
from pipeline.head.stack import together_pays
from pipeline.head.text import TextSide, text_side
from pipeline.head.train import Run, TrainConfig, fit_runs, new_head, predict
from stages.pose.base import NUM_JOINTS
from store.features import TextSet

# The one with an aim first; those that read skeletons cannot be trained together, and come last.
HEADS = ("pvcs", "vcs", "fuse", "vilp", "mean", "pvcs-joint", "attn", "pose", "poseconv")
POSE_FRAMES, PERSONS = 48, 2


def run(bench: Bench) -> None:
    config = bench.config
    inputs, text = make_inputs(config, bench.device)
    for head in HEADS:
        own = inputs.only(INPUTS[head])
        together = together_pays(own, TrainConfig().batch_size)
        _study(bench, head, own, text, config.splits if together else 1, config.seeds if together else 1)
        if head == "pvcs":
            _study(bench, head, own, text, 1, 1)
    head, few = HEADS[0], 2
    bench.figures(
        "training a head: how busy the device is",
        f"{head}, {config.splits} splits x {config.seeds} seeds, {few} epochs",
        lambda: busy_share(
            partial(study, config, head, inputs.only(INPUTS[head]), text, config.splits, config.seeds, few),
            bench.device,
        ),
    )


def _study(bench: Bench, head: str, inputs: Inputs, text: TextSide, splits: int, seeds: int) -> None:
    config = bench.config
    videos = splits * seeds * config.epochs * config.train
    bench.time(
        f"training a head, {config.epochs} epochs of {config.train:,} videos, and testing it",
        f"{head}, {splits} splits x {seeds} seeds" if splits * seeds > 1 else f"{head}, one run",
        call(study, config, head, inputs, text, splits, seeds, config.epochs),
        count=videos,
        unit="videos",
        need=_need(head, inputs, text, videos),
        on_host=True,
        once=bench.device.type != "cuda",
    )


def study(
    config: GpuConfig, head: str, inputs: Inputs, text: TextSide, splits: int, seeds: int, epochs: int
) -> list[Tensor]:
    """Train the heads of all splits and seeds, and give their logits of the test videos of each."""
    runs, tests = [], []
    for split in range(1, splits + 1):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(split))
        train, test = order[: config.train], order[config.train :][: config.test]
        tests.append(inputs.rows(test))
        heads = (new_head(HeadConfig(head=head), inputs, text, seed=seed, rows=train) for seed in range(seeds))
        runs += [Run(made, train, split, seed) for seed, made in enumerate(heads)]
    fit_runs(runs, inputs, TrainConfig(epochs=epochs))
    return [predict(run.head, tests[run.split - 1]) for run in runs]


def make_inputs(config: GpuConfig, device: torch.device) -> tuple[Inputs, TextSide]:
    """What every head reads, made up, on the device; frames mean their class under much noise."""
    made = make_split(config.store_videos, 0, config.head_frames)
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


def _need(head: str, inputs: Inputs, text: TextSide, videos: int) -> Need:
    """Matrix products of a step, forward and backward, as torch counts them on a batch, and what is read of the
    features; heads are trained in fp32."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = torch.arange(min(16, len(inputs)))
    made = new_head(HeadConfig(head=head), inputs, text, rows=rows)
    batch = Batches(inputs).take(rows, torch.zeros_like(rows))
    with FlopCounterMode(display=False) as counter:
        made(batch)[0].sum().backward()
    a_video = sum(tensor[0].nbytes for tensor in inputs.tensors.values())
    return Need(counter.get_total_flops() / len(rows) * videos, a_video * videos, precision="fp32")
