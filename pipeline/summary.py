"""What a run did, for people and for programs."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from store.commits import PARTIAL, QUARANTINED, CommitRow
from store.groups import read_groups
from store.objects import Objects, is_remote
from store.plan import Plan
from store.printable import command
from store.quarantine import next_steps
from store.schema import Modality

# Frames that heads read of a video unless told otherwise.
DEFAULT_FRAMES = 8


@dataclass
class Summary:
    """Outcome of an extraction; all counts are of videos.

    planned        of the store; ``missing`` are listed or planned and not on the disk, ``unlisted`` are in no list
    executed       of this run, the ``partial`` and the ``quarantined`` (by error kind) among them
    failures       ``video_id``, ``kind`` and ``message`` of every video that this run quarantined
    retried_units  of which something was done again because a worker or a node died: ``shard`` (None: the class names),
                   how many ``times``, and ``why``, a line each
    stage_seconds  by stage, added up over workers
    quarantine     where the report on all quarantined videos of the store lies; None where there are none
    next_steps     lines on what can be done about them
    profile        what ``Trace.to_dict`` gives; None without a trace
    next_command   what one does next, to copy into a shell
    """

    store: str
    dataset: str
    planned: int
    missing: int
    unlisted: int
    groups: list[str]
    executed: int = 0
    partial: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    retried_units: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    quarantine: str | None = None
    next_steps: list[str] = field(default_factory=list)
    profile: dict[str, Any] | None = None
    next_command: str = ""

    @property
    def done(self) -> int:
        """Videos of this run that have features now."""
        return self.executed - sum(self.quarantined.values())

    @property
    def videos_per_second(self) -> float:
        return self.executed / self.seconds if self.seconds else 0.0

    def add(self, rows: Mapping[str, Iterable[CommitRow]], plan: Plan) -> None:
        """Count a committed unit; ``rows`` by group path."""
        seconds: dict[str, float] = defaultdict(float, self.stage_seconds)
        worst: dict[int, CommitRow] = {}
        decoded: dict[int, float] = {}
        for path, group_rows in rows.items():
            for row in group_rows:
                if row.slot not in worst or row.status == QUARANTINED:
                    worst[row.slot] = row
                decoded[row.slot] = row.decode_seconds
                if not path.startswith("frames/"):
                    seconds[path.split("/")[0]] += row.stage_seconds
        seconds["decode"] += sum(decoded.values())
        self.stage_seconds = dict(seconds)
        self.executed += len(worst)
        self.partial += sum(row.status == PARTIAL for row in worst.values())
        bad = [row for row in worst.values() if row.status == QUARANTINED]
        self.quarantined = dict(Counter(self.quarantined) + Counter(row.error_kind for row in bad))
        slots = np.array(sorted(row.slot for row in bad), np.int64)
        ids = dict(zip(slots.tolist(), plan.at(slots, "video_id")["video_id"].to_pylist(), strict=True))
        self.failures += [
            {"video_id": ids[row.slot], "kind": row.error_kind, "message": row.error_message} for row in bad
        ]

    def retried(self, shard: int | None, why: Sequence[str]) -> None:
        """Something of a unit was done again, for one reason each time."""
        self.retried_units.append({"shard": shard, "times": len(why), "why": list(why)})

    def note_quarantine(self, objects: Objects, report: str | None, rows: pa.Table) -> None:
        """Of the whole store, as the run leaves it: key of the report, and its rows."""
        self.quarantine = None if report is None else objects.describe(report)
        self.next_steps = next_steps(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rate = round(self.videos_per_second, 3)
        return {**asdict(self), "done": self.done, "videos_per_second": rate}


def training_command(objects: Objects, ours: Collection[str], templates: Sequence[str]) -> str:
    """A ``train-head`` that reads what a store holds: of several groups of a kind one of ``ours`` (paths), of several
    text sets that of ``templates``."""
    groups = [group.modality for group in read_groups(objects).values()]

    def choose(kind: str, fits: Callable[[Modality], bool], parent: str = "") -> tuple[Modality | None, list[str]]:
        """The first group of a kind that fits, and the option that names it where there are several."""
        there = sorted((m for m in groups if (m.kind, m.parent) == (kind, parent)), key=lambda m: not fits(m))
        return next(iter(there), None), [f"--{kind}", there[0].id] if len(there) > 1 else []

    clip, options = choose("clip", lambda m: m.path in ours)
    pose, pose_options = choose("pose", lambda m: m.path in ours)
    video, _ = choose("video", lambda m: m.path in ours)
    if clip is not None:
        # The default head reads poses and both kinds of tokens.
        default = pose is not None and {"value", "penult"} <= clip.arrays.keys()
        options += pose_options if default else ["--head", "vcs"]
        options += choose("text", lambda m: list(m.record["templates"]) == list(templates), clip.path)[1]
        frames = clip.length("frame")
        options += ["--frames", str(frames)] if frames < DEFAULT_FRAMES else []
    elif video is not None:
        options = ["--head", "mean", "--video", video.id]
    else:
        options = ["--head", "pose", *pose_options]
    url = objects.url if is_remote(objects.url) else os.path.relpath(objects.url)
    return command("train-head", "--store", url, *options)
