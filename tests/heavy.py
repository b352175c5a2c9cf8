"""Extractions of large frames by a slow CLIP, whose memory is measured from outside.

``python -m heavy SETTINGS CPUS`` runs one on a machine that says it has so many CPUs; SETTINGS is a JSON object (see
``extractions.small_config``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extractions import small_config

from pipeline import extraction
from pipeline.engines import ray as ray_engine
from pipeline.graph import Branch, Graph, make_graph
from stages.types import Clip, DecodedVideo


def decode(path: str, num_frames: int, **_: Any) -> DecodedVideo:
    """Frames of the size that the file says, made in no time."""
    width, height = map(int, Path(path).read_text().split())
    frames = np.full((num_frames, height, width, 3), 128, np.uint8)
    times = np.arange(num_frames)
    return DecodedVideo(frames, times.astype(np.int32), times / 25, num_frames, None, 25.0, width, height)


class SlowStage:
    """A stage that takes ten times as long a clip as ``decode`` does."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage

    def __call__(self, clips: Sequence[Clip]) -> Any:
        began = time.perf_counter()
        for clip in clips:
            np.full(clip.video.frames.shape, 128, np.uint8)
        time.sleep(10 * (time.perf_counter() - began))
        return self.stage(clips)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)


@dataclass(frozen=True)
class SlowBranch(Branch):
    def build(self) -> Any:
        return SlowStage(super().build())


def slow_graph(*arguments: Any) -> Graph:
    graph = make_graph(*arguments)
    return Graph(graph.decode, tuple(SlowBranch(b.config, b.modality, b.frames, b.at) for b in graph.branches))


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    import heavy  # classes that travel to workers need the module's own name

    extraction.make_graph = heavy.slow_graph
    extraction.cpus = ray_engine.cpus = lambda: int(sys.argv[2])
    summary = extraction.extract(small_config(settings.pop("root"), settings.pop("store"), **settings))
    print(json.dumps(summary.to_dict()))
