"""How fast a graph is on this machine: a few videos of the dataset, decoded and encoded, and then forgotten."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.engines.work import clips_of, encode
from pipeline.graph import Branch, Graph, evenly
from stages.clip.config import ClipConfig
from stages.pose.base import PoseConfig
from stages.types import Clip, VideoRef
from store.errors import VideoError

T = TypeVar("T")

# Enough to fill the batches of a large machine, few enough to take seconds.
MOST_VIDEOS = 32
LEAST_VIDEOS = 2
# Pose is the slowest stage on a CPU by far, and its cost a frame is the same for every frame.
POSE_FRAMES = 4
# Decoding ends after so many seconds, with at least one video.
DECODE_SECONDS = 10.0


@dataclass(frozen=True)
class Probe:
    """What was measured.

    videos         that were decoded and encoded
    stage_seconds  wall seconds a video, by stage, each with the machine to itself; decoding on one core
    setup_seconds  until the encoders were there
    peak_bytes     of memory, of a process that holds all encoders
    seconds        that it all took
    """

    videos: int
    stage_seconds: dict[str, float]
    setup_seconds: float
    peak_bytes: int
    seconds: float


def videos_wanted(graph: Graph) -> int:
    """Videos to measure a graph on: those that give every thread of the CLIP stage one batch."""
    config = next((branch.config for branch in graph.branches if isinstance(branch.config, ClipConfig)), None)
    images = 1 if config is None else config.num_frames * len(config.views)
    batch = 1 if config is None else config.batch_size * config.num_threads
    return min(max(math.ceil(batch / images), LEAST_VIDEOS), MOST_VIDEOS)


def probe(graph: Graph, refs: Sequence[VideoRef]) -> Probe:
    """Measure a graph on these videos. Writes nothing. Raises ``VideoError`` where none of them decodes."""
    began = time.perf_counter()
    shortened = [(branch, _short(branch, graph)) for branch in graph.branches]
    stages: list[Any] = [short.build() for _, short in shortened]
    for stage in stages:
        stage.setup()
    ready = time.perf_counter()
    clips, decode_seconds = _decode(graph, refs)
    seconds = {"decode": decode_seconds}
    for (branch, short), stage in zip(shortened, stages, strict=True):
        encode(stage, short, clips[:1])  # the first call loads kernels, and finds the best ones
        measured = encode(stage, short, clips).seconds / len(clips)
        seconds[branch.modality.kind] = measured * _frames(branch, graph) / _frames(short, graph)
    return Probe(len(clips), seconds, ready - began, _peak_bytes(), time.perf_counter() - began)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, evenly from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // max(1, count - 1)] for number in range(count)]


def _short(branch: Branch, graph: Graph) -> Branch:
    """A branch with fewer frames a video, where its cost grows with them and nothing else depends on their number."""
    config = branch.config
    if not isinstance(config, PoseConfig) or config.heatmap is not None:
        return branch
    frames = max(n for n in range(1, POSE_FRAMES + 1) if config.num_frames % n == 0)
    at = evenly(frames, graph.decode.num_frames)
    return dataclasses.replace(branch, config=dataclasses.replace(config, num_frames=frames), at=at)


def _frames(branch: Branch, graph: Graph) -> int:
    """Frames of a video that a branch sees."""
    decoded = graph.decode.num_frames + (graph.decode.clips.num_frames if graph.decode.clips is not None else 0)
    return len(range(decoded)[branch.at])


def _decode(graph: Graph, refs: Sequence[VideoRef]) -> tuple[list[Clip], float]:
    """Clips of the videos that decode, and the seconds that one took."""
    clips: list[Clip] = []
    seconds, began, failure = 0.0, time.perf_counter(), None
    with graph.decoder(ring=1) as worker:
        for ref in refs:
            for outcome in worker([ref]).results:
                failure = outcome.failure or failure
                if outcome.video is not None:
                    clips += clips_of([outcome.copied()])
                    seconds += outcome.seconds
            if clips and time.perf_counter() - began > DECODE_SECONDS:
                break
    if not clips:
        raise VideoError(f"none of {len(refs)} videos that were tried decodes: {failure.message if failure else ''}")
    return clips, seconds / len(clips)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
