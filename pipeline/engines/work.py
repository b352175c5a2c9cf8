"""What every engine does with a stage, wherever it runs it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from stages.decode import DecodeOutcome
from stages.types import Clip, StageOutput
from stages.write import ShardWriter, Targets, frames_output
from store.commits import CommitRow
from store.schema import Modality


@dataclass(frozen=True)
class Encoded:
    """What a stage made of a chunk, and the seconds that it took."""

    output: StageOutput
    seconds: float


def clips_of(outcomes: Sequence[DecodeOutcome]) -> list[Clip]:
    """The videos of a chunk that decoded."""
    return [Clip(outcome.ref, outcome.video) for outcome in outcomes if outcome.video is not None]


def without_frames(outcomes: Sequence[DecodeOutcome]) -> list[DecodeOutcome]:
    """The same outcomes with no frames in them: what is left to know once the frames have gone to the encoders."""
    return [
        outcome
        if outcome.video is None
        else dataclasses.replace(
            outcome, video=dataclasses.replace(outcome.video, frames=outcome.video.frames[:0].copy())
        )
        for outcome in outcomes
    ]


def encode(stage: object, branch: Branch, clips: Sequence[Clip]) -> Encoded:
    """Run a stage on the frames of a chunk that belong to its branch."""
    began = time.perf_counter()
    output = stage([_only(clip, branch.at) for clip in clips])  # type: ignore[operator]
    if not isinstance(output, StageOutput):  # stages that cannot fail on a single clip return plain arrays
        output = StageOutput(output, {})
    return Encoded(output, time.perf_counter() - began)


def _only(clip: Clip, at: slice) -> Clip:
    video = clip.video
    picked = dataclasses.replace(video, frames=video.frames[at], indices=video.indices[at], pts=video.pts[at])
    return Clip(clip.ref, picked)


def write_unit(
    writer: ShardWriter,
    graph: Graph,
    unit: Unit,
    outcomes: Sequence[DecodeOutcome],
    encoded: Mapping[str, Sequence[Encoded]],
) -> dict[str, list[CommitRow]]:
    """Commit every group of a unit; returns the rows by group path."""
    rows: dict[str, list[CommitRow]] = {}
    for branch in graph.branches:
        if branch.frames.path in unit.groups and branch.frames.path not in rows:
            output = frames_output(outcomes, branch.frames, branch.at)
            rows[branch.frames.path] = writer(
                unit.shard, branch.frames, outcomes, [output], 0.0, _targets(unit, branch.frames)
            )
        path = branch.modality.path
        if path in unit.groups:
            parts = encoded[path]
            seconds = sum(part.seconds for part in parts)
            outputs = [part.output for part in parts]
            rows[path] = writer(
                unit.shard, branch.modality, outcomes, outputs, seconds, _targets(unit, branch.modality)
            )
    return rows


def _targets(unit: Unit, modality: Modality) -> Targets:
    return Targets(unit.missing[modality.path], unit.kept[modality.path])
