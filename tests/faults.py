"""Stages that kill a real process in the middle of its work, and decoders that know on which node they are.

``$FAULT`` names the fault, ``$FAULT_ONCE`` a file: where it is not there yet, it is made and the fault happens once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_pose
import pytest

from pipeline.graph import Branch, Graph, make_graph
from stages.decode import decode_video
from stages.pose.base import Persons, PoseConfig
from stages.types import Clip, DecodedVideo
from store.errors import UsageError


def python_path() -> str:
    """``PYTHONPATH`` of workers that have to find the project and its tests."""
    tests = Path(__file__).resolve().parent
    return f"{tests.parent}:{tests}"


def kill(fault: str, pid: int) -> None:
    """Kill a process where the fault is the one that was asked for, and wait for the end."""
    if os.environ.get("FAULT") != fault:
        return
    once = os.environ.get("FAULT_ONCE")
    if once:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)


def decode(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes; at ``c.avi`` the decoding process may die, or the Ray actor over it."""
    if Path(path).name == "c.avi":
        kill("decoding-process", os.getpid())
        kill("decoder", os.getppid())
    return decode_video(path, num_frames, **arguments)


def on_doomed_node(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes, but for ever on the node ``doomed``, which says that it has begun."""
    if os.environ.get("NODE") == "doomed":
        Path(os.environ["FAULT_ONCE"]).touch()
        time.sleep(600)
    return decode_video(path, num_frames, **arguments)


def on_late_node(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes, but everywhere not before the node ``late`` has decoded something."""
    folder = Path(os.environ["FAULT_ONCE"])
    (folder / os.environ.get("NODE", "first")).touch()
    while not (folder / "late").exists():
        time.sleep(0.05)
    return decode_video(path, num_frames, **arguments)


class Estimator(plain_pose.PlainEstimator):
    """May refuse to be set up, and may die at its second call."""

    def __init__(self, config: PoseConfig) -> None:
        super().__init__(config)
        self.calls = 0

    def setup(self) -> None:
        if os.environ.get("FAULT") == "setup":
            raise UsageError("threads is 3; allowed: an even number")

    def __call__(self, clips: Sequence[Clip]) -> list[list[Persons]]:
        self.calls += 1
        if self.calls == 2:
            kill("pose", os.getpid())
        return super().__call__(clips)


class MortalStage:
    """A stage that may die at its second call."""

    def __init__(self, stage: Any, fault: str) -> None:
        self.stage, self.fault, self.calls = stage, fault, 0

    def __call__(self, clips: Sequence[Clip]) -> Any:
        self.calls += 1
        if self.calls == 2:
            kill(self.fault, os.getpid())
        return self.stage(clips)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)


@dataclass(frozen=True)
class MortalBranch(Branch):
    def build(self) -> Any:
        return MortalStage(super().build(), self.modality.kind)


class HangingStage(MortalStage):
    """A stage that encodes for ever on the node ``doomed``, which says that it has begun."""

    def __call__(self, clips: Sequence[Clip]) -> Any:
        if os.environ.get("NODE") == "doomed":
            Path(os.environ["FAULT_ONCE"]).touch()
            time.sleep(600)
        return self.stage(clips)


@dataclass(frozen=True)
class HangingBranch(Branch):
    def build(self) -> Any:
        return HangingStage(super().build(), self.modality.kind)


def use_branches(monkeypatch: pytest.MonkeyPatch, cls: type[Branch]) -> None:
    """Let extractions run with branches of another class."""

    def make(*arguments: Any) -> Graph:
        graph = make_graph(*arguments)
        return Graph(graph.decode, tuple(cls(b.config, b.modality, b.frames, b.at) for b in graph.branches))

    monkeypatch.setattr("pipeline.extraction.make_graph", make)
