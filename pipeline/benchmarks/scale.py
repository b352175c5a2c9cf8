"""The engines themselves: how their cost a unit and their memory grow with the number of units, with stages that do
nothing.

Run as ``python -m pipeline.benchmarks.scale ENGINE UNITS`` it prints the figures of one run, as a JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Row, make_row
from pipeline.benchmarks.clips import ClipSet
from pipeline.engines.lanes import run_lanes
from pipeline.engines.sizing import Sizing
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from pipeline.progress import Progress
from stages.decode import DecodeConfig, DecodedChunk, DecodeOutcome
from stages.pose.base import PoseConfig
from stages.types import Clip, DecodedVideo, VideoRef
from stages.write import WriteConfig
from store.commits import OK, CommitRow
from store.lease import WHOLE, Lease
from store.schema import ArraySpec, Modality

SHARD_LEN = 64
MULTIPLES = (1, 4, 16)
CPU, WALL, MEMORY = "scheduler CPU ms a unit", "wall ms a unit", "growth of the submitter, MB"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds, CPU time and memory of the process that hands out the units, with few units and with many."""
    comparisons = []
    for engine in config.engines:
        title = f"scheduling by the {engine} engine"
        progress.begin(title, len(MULTIPLES))
        rows: list[Row] = []
        for multiple in MULTIPLES:
            figures = measure(engine, config.units * multiple)
            seconds = [figures.pop("seconds") / multiple]
            name = f"ours, {config.units * multiple:,} units"
            rows.append(make_row(name, seconds, rows[0].rounds if rows else seconds, config.units, "units", figures))
            progress.advance(1)
        progress.end()
        notes = (
            f"decoding, CLIP, pose and writing do nothing, on units of {SHARD_LEN} videos; what is left is the engine",
            f"seconds are those that {config.units:,} units take; 1 times faster: the cost a unit does not grow",
            "scheduler CPU: of the process that hands out units, all its threads; start-up is not counted",
        )
        comparisons.append(Comparison("scale", title, rows[0].name, tuple(rows), notes))
    return comparisons


def measure(engine: str, units: int) -> dict[str, float]:
    """The figures of one run, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, engine, str(units)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"scheduling with {engine} failed: {' '.join(done.stderr.split()[-60:])}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Idle:
    """Every stage: it takes what it is given and does nothing."""

    def setup(self) -> None:
        pass

    def environment(self) -> dict[str, Any]:
        return {}


class IdleDecoder(Idle):
    """Gives one black pixel a video."""

    def __call__(self, refs: Sequence[VideoRef]) -> DecodedChunk:
        frames = np.zeros((1, 1, 1, 3), np.uint8)
        video = DecodedVideo(frames, np.zeros(1, np.int32), np.zeros(1), 1, 1, 25.0, 1, 1)
        return DecodedChunk([DecodeOutcome(ref, video, None, None, None, 0.0) for ref in refs], [])

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


class IdleEncoder(Idle):
    """Gives one zero a clip, float32 [N, 1]."""

    def __call__(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        return {"x": np.zeros((len(clips), 1), np.float32)}


class IdleWriter(Idle):
    """Writes nothing, and commits every video."""

    def __call__(
        self, shard: int, modality: Modality, outcomes: Sequence[DecodeOutcome], *rest: object
    ) -> list[CommitRow]:
        return [CommitRow(outcome.ref.slot, OK) for outcome in outcomes]


class IdleBranch(Branch):
    """A branch whose encoder does nothing."""

    def build(self) -> Any:
        return IdleEncoder()


class IdleGraph(Graph):
    """A graph of stages that do nothing."""

    def decoder(self, *, ring: int) -> Any:
        return IdleDecoder()

    def writer(self, config: WriteConfig) -> Any:
        return IdleWriter()


def idle_graph() -> IdleGraph:
    """The graph of an extraction of CLIP and pose, with stages that do nothing."""
    frames = Modality("frames", "idle", {}, {})
    arrays = {"x": ArraySpec((1,), "float32", ("embed",))}
    kinds = (Modality(kind, "idle", {}, arrays) for kind in ("clip", "pose"))
    branches = (IdleBranch(PoseConfig(), modality, frames, slice(None)) for modality in kinds)
    return IdleGraph(DecodeConfig(num_frames=1), tuple(branches))


def make_units(graph: Graph, count: int) -> Iterator[Unit]:
    """Units of made-up videos, each made when it is asked for."""
    groups = tuple(graph.modalities())
    for shard in range(count):
        slots = range(shard * SHARD_LEN, (shard + 1) * SHARD_LEN)
        refs = tuple(VideoRef(slot, f"class/video-{slot}", f"/videos/class/video-{slot}.mp4") for slot in slots)
        yield Unit.whole(shard, refs, groups)


def run_units(engine_name: str, count: int, lanes: int) -> dict[str, float]:
    """Run units in this process, and what that cost it from the first result on."""
    graph = idle_graph()
    write = WriteConfig("nowhere", SHARD_LEN, Lease(WHOLE.name, 0, ""))
    engine: Any
    if engine_name == "inline":
        from pipeline.engines.inline import InlineEngine

        engine = InlineEngine(graph, write, lanes=lanes)
    else:
        from pipeline.engines.ray import RayEngine

        engine = RayEngine(graph, write, Sizing(None, 1 << 20, 1 << 10, 1 << 20), address=None)
    done, most = 0, 0
    try:
        for _ in run_lanes(engine, graph, make_units(graph, count), Path.cwd()):
            if done == 0:
                began, cpu, memory = time.perf_counter(), time.process_time(), resident_bytes()
            done += 1
            if done % 64 == 0 or done == count:
                most = max(most, resident_bytes())
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    finally:
        engine.close()
    if done != count:
        raise RuntimeError(f"{done} of {count} units came back, so the time says nothing")
    a_unit = 1000 / (count - 1)
    return {"seconds": seconds, CPU: cpu * a_unit, WALL: seconds * a_unit, MEMORY: (most - memory) / 1e6}


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


if __name__ == "__main__":
    from pipeline.benchmarks import scale  # classes that travel to workers need the module's own name

    print(json.dumps(scale.run_units(sys.argv[1], int(sys.argv[2]), lanes=2)))
