"""Pose: frames and boxes to keypoints. Cutting and batching are those of an extraction.

mmpose is rarely where a GPU is tried out, and its models cannot be had without it. Where it is missing a stand-in takes
the place of the keypoint model: a plain network of about as many operations as RTMPose-m on crops of 192 x 256 (4.1
against 3.9 billion), with random weights and the same kind of output (SimCC). It says how fast crops are cut and
batches are filled, and roughly what such a network allows; it is not RTMPose.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.benchmarks.gpu.base import Bench, Need, Work, call, nbytes
from pipeline.benchmarks.gpu.encoder import made_up_clips
from stages.pose.batches import Batches
from stages.pose.coco import NUM_JOINTS
from stages.pose.crops import CropGeometry, bilinear_crops, letterbox
from stages.precision import DTYPES

CROP = CropGeometry(width=192, height=256, padding=1.25, udp=False)
CANVAS = 640
GROUP = "pose, stand-in for RTMPose-m"

# A frame and the box of a person in it.
Person = tuple[np.ndarray, np.ndarray]


def run(bench: Bench) -> None:
    """Pictures alone, the network alone, and both with the batches of an extraction."""
    frames = [frame for clip in made_up_clips(bench) for frame in clip.video.frames]
    people = _people(frames, bench.config.persons)
    some, width = frames[: bench.config.pose_batches[-1]], bench.config.pose_width
    bench.time(
        "pose, pictures",
        f"frames fitted into {CANVAS} x {CANVAS} for a detector, one by one",
        call(_letterboxes, some, bench.device),
        count=len(some),
        unit="images",
        need=Need(memory=len(some) * 3 * CANVAS**2, upload=sum(frame.nbytes for frame in some)),
        on_host=True,
    )
    for size in bench.config.pose_batches:
        bench.time(
            "pose, pictures",
            f"crops cut on the device, {size} at once",
            call(_crops, people[:size], bench.device),
            count=size,
            unit="persons",
            on_host=True,
        )
    for precision in ("fp32", "bf16"):
        for size in bench.config.pose_batches:
            weights = nbytes(StandIn(width)) // 4 * DTYPES[precision].itemsize
            crops = 3 * CROP.width * CROP.height * DTYPES[precision].itemsize
            bench.time(
                GROUP,
                f"network alone, {precision}, batch {size}",
                partial(_network, width, bench.device, precision, size),
                count=size,
                unit="persons",
                need=Need(size * operations(width), weights + size * crops, precision=precision),
            )
            bench.time(
                GROUP,
                f"from frames and boxes to keypoints, {precision}, batches of {size}",
                partial(_whole, people, width, bench.device, precision, size),
                count=len(people),
                unit="persons",
                need=Need(len(people) * operations(width), precision=precision),
                on_host=True,
            )
    if find_spec("mmpose") is not None and find_spec("mmdet") is not None:
        bench.time(
            "pose, mmpose's own models as extraction runs them",
            "RTMDet-nano and RTMPose-t, two persons a frame",
            partial(_with_mmpose, bench),
            count=len(frames),
            unit="images",
            on_host=True,
        )


class Block(nn.Module):
    """Two convolutions around a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.inside = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.SiLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class StandIn(nn.Module):
    """Crops [B, 3, 256, 192] to places along x [B, 17, 384] and y [B, 17, 512]; ``width`` of the first layers doubles
    from stage to stage."""

    stages, blocks, last = 5, 3, 256

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for _ in range(self.stages):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
            layers += [Block(width) for _ in range(self.blocks)]
            before, width = width, 2 * width
        self.trunk = nn.Sequential(*layers, nn.Conv2d(before, width, 1), nn.SiLU())
        self.joints = nn.Conv2d(width, NUM_JOINTS, 7, padding=3)
        cells = CROP.width // 32 * (CROP.height // 32)
        self.inside = nn.Linear(cells, self.last)
        self.x, self.y = nn.Linear(self.last, 2 * CROP.width), nn.Linear(self.last, 2 * CROP.height)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.nn.functional.silu(self.inside(self.joints(self.trunk(crops)).flatten(2)))
        return self.x(hidden), self.y(hidden)


def operations(width: int) -> float:
    """Floating-point operations of the stand-in on one crop."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network, crop = StandIn(width), torch.empty(1, 3, CROP.height, CROP.width)
    with FlopCounterMode(display=False) as counter:
        network(crop)
    return float(counter.get_total_flops())


def _people(frames: Sequence[np.ndarray], count: int) -> list[Person]:
    """Boxes that cover between a third and all of the height of the frames, in turn."""
    rng, people = np.random.default_rng(0), []
    for number in range(count):
        frame = frames[number % len(frames)]
        height, width = frame.shape[:2]
        tall = height * rng.uniform(0.33, 1.0)
        x, y = rng.uniform(0, width - tall / 3), rng.uniform(0, height - tall)
        people.append((frame, np.array([x, y, x + tall / 3, y + tall, 1.0], np.float32)))
    return people


def _letterboxes(frames: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.stack([letterbox(torch.tensor(frame, device=device), CANVAS, CANVAS, 114)[0] for frame in frames])


def _crops(people: Sequence[Person], device: torch.device) -> Tensor:
    center, size = CROP.windows(np.stack([box for _, box in people]))
    return bilinear_crops([frame for frame, _ in people], *CROP.samples(center, size), device)


def _network(width: int, device: torch.device, precision: str, size: int) -> Work:
    network = _stand_in(width, device, precision)
    crops = torch.randn(size, 3, CROP.height, CROP.width, device=device).to(
        DTYPES[precision], memory_format=torch.channels_last
    )
    return partial(_infer, network, crops)


def _whole(people: Sequence[Person], width: int, device: torch.device, precision: str, size: int) -> Work:
    network, batches = _stand_in(width, device, precision), Batches(1)

    def batch(some: list[Person]) -> Sequence[np.ndarray]:
        crops = _crops(some, device).to(DTYPES[precision], memory_format=torch.channels_last).div_(255)
        along = [place.argmax(-1) for place in _infer(network, crops)]
        return list(torch.stack(along, -1).cpu().numpy())

    return lambda: batches.map(batch, people, size)


def _stand_in(width: int, device: torch.device, precision: str) -> StandIn:
    network = StandIn(width).to(device=device, dtype=DTYPES[precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


@torch.no_grad()
def _infer(network: StandIn, crops: Tensor) -> tuple[Tensor, Tensor]:
    places: tuple[Tensor, Tensor] = network(crops)
    return places


def _with_mmpose(bench: Bench) -> Work:
    from pipeline.benchmarks.pose import make_estimator

    estimator, clips = make_estimator(), made_up_clips(bench)
    return lambda: estimator(clips)
