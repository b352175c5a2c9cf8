"""The write stage: what the other stages made of one shard's videos becomes committed rows of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.decode import DecodeOutcome
from stages.types import StageOutput, VideoFailure
from store.commits import OK, PARTIAL, QUARANTINED, CommitRow
from store.lease import Lease
from store.objects import open_objects
from store.schema import Modality
from store.writer import write_shard


@dataclass(frozen=True)
class WriteConfig:
    """Where to write and under which lease."""

    store: str
    shard_len: int
    lease: Lease


@dataclass(frozen=True)
class Targets:
    """Slots of one shard of a group: those that it still lacks, and those that it has committed (a video that is tried
    again is in both)."""

    missing: frozenset[int]
    kept: frozenset[int]


class ShardWriter:
    """Writes shards of any group. A video that failed in any stage has rows of fill and a commit row that says why."""

    def __init__(self, config: WriteConfig) -> None:
        self.config = config
        self._objects = config.lease.guard(open_objects(config.store))

    def setup(self) -> None:
        """Nothing to load; here because every stage has it."""

    def __call__(
        self,
        shard: int,
        modality: Modality,
        outcomes: Sequence[DecodeOutcome],
        outputs: Sequence[StageOutput],
        stage_seconds: float,
        targets: Targets,
    ) -> list[CommitRow]:
        """Commit one shard of ``modality``. ``outputs`` together have one row for each outcome that has a video, in
        order; ``stage_seconds`` is what the stage took for all of them. Returns the rows as committed.
        """
        ordered = sorted(range(len(outcomes)), key=lambda number: outcomes[number].ref.slot)
        # What was decoded for the sake of another group, and is committed in this one, stays as it is.
        ordered = [number for number in ordered if outcomes[number].ref.slot in targets.missing]
        failures = {slot: failure for output in outputs for slot, failure in output.failures.items()}
        decoded = sum(outcome.video is not None for outcome in outcomes)
        each = stage_seconds / decoded if decoded else 0.0
        rows = [commit_row(outcome, failures.get(outcome.ref.slot), each) for outcome in outcomes]
        arrays = {name: _rows(name, modality, outcomes, outputs) for name in modality.arrays}
        return write_shard(
            self._objects,
            modality,
            shard,
            self.config.shard_len,
            {name: values[ordered] for name, values in arrays.items()},
            [rows[number] for number in ordered],
            self.config.lease.stamp(),
            expected=targets.kept,
        )


def commit_row(outcome: DecodeOutcome, failure: VideoFailure | None, stage_seconds: float) -> CommitRow:
    """The commit row of one video: quarantined where decoding or the stage failed."""
    failure = outcome.failure or failure
    video = outcome.video
    status = QUARANTINED if failure is not None else PARTIAL if video is not None and video.partial else OK
    return CommitRow(
        slot=outcome.ref.slot,
        status=status,
        error_kind=failure.kind if failure else "",
        error_message=failure.message if failure else "",
        source_sha256=outcome.sha256 or "",
        fps=video.fps if video else 0.0,
        frames=video.num_decodable if video else 0,
        claimed=-1 if video is None or video.num_claimed is None else video.num_claimed,
        width=video.width if video else 0,
        height=video.height if video else 0,
        decode_seconds=outcome.seconds,
        stage_seconds=stage_seconds if video else 0.0,
    )


def frames_output(outcomes: Sequence[DecodeOutcome], modality: Modality, at: slice) -> StageOutput:
    """Rows of a frames group: index and time of the decoded frames that are its own."""
    videos = [outcome.video for outcome in outcomes if outcome.video is not None]
    facts: Mapping[str, list[np.ndarray]] = {
        "index": [video.indices[at] for video in videos],
        "pts": [video.pts[at] for video in videos],
    }
    arrays = {name: np.array(facts[name]).reshape(-1, *spec.shape) for name, spec in modality.arrays.items()}
    return StageOutput(arrays, {})


def _rows(
    name: str, modality: Modality, outcomes: Sequence[DecodeOutcome], outputs: Sequence[StageOutput]
) -> np.ndarray:
    spec = modality.arrays[name]
    rows = np.full((len(outcomes), *spec.shape), spec.fill, dtype=spec.dtype)
    decoded = [number for number, outcome in enumerate(outcomes) if outcome.video is not None]
    if decoded:
        rows[decoded] = np.concatenate([output.arrays[name] for output in outputs if len(output.arrays[name])])
    return rows
