"""What runs in the actors of the Ray engine: a stage each, built and set up on the node where it works."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engines.environment import machine_environment, refuse_other
from pipeline.engines.work import Encoded, clips_of, encode, without_frames, write_unit
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from pipeline.trace import Span, timed
from stages.decode import DecodedChunk


class Worker:
    """A stage in an actor. It is built and set up by a call and not when the actor starts, so that errors arrive as
    they were raised.

    driver  environment of the driver, to be the same here; ``node`` is this one's name
    """

    def __init__(self, build: Callable[[], Any], driver: Mapping[str, Any], node: str) -> None:
        self._build, self._driver, self._node = build, driver, node
        self._lock = threading.Lock()
        self._stage: Any = None

    def setup(self) -> None:
        """Refuse a node that is not like the driver's, then set up the stage, unless another lane had that done."""
        with self._lock:
            if self._stage is None:
                stage = self._build()
                refuse_other(_environment(stage), self._driver, self._node)
                stage.setup()
                self._stage = stage


@dataclass(frozen=True)
class Whole:
    """A list or dictionary that travels as one: Ray would pack its elements one by one, which takes longer."""

    value: Any


class Decoder(Worker):
    """A supervised decoder in an actor. A dead decoding process costs a video, a dead actor the attempt at a unit."""

    def decode(self, refs: Whole) -> tuple[tuple[DecodedChunk, Span], Whole]:
        chunk, span = timed("decode", self._node, self._stage, refs.value)
        facts = dataclasses.replace(chunk, results=without_frames(chunk.results))
        return (facts, span), Whole(clips_of(chunk.results))


class Encoder(Worker):
    """A CLIP or pose stage in an actor."""

    def encode(self, branch: Branch, clips: Whole) -> tuple[Encoded, Span]:
        return timed(branch.modality.kind, self._node, encode, self._stage, branch, clips.value)

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        return getattr(self._stage, method)(*arguments)


class Writer(Worker):
    """A writer in an actor, beside the features that it reads."""

    def write(self, graph: Graph, unit: Unit, paths: Sequence[str], *parts: Any) -> Whole:
        """``parts`` are an encoding for each of ``paths``, then the chunks that were decoded."""
        encoded: dict[str, list[Encoded]] = {branch.modality.path: [] for branch in graph.branches}
        for path, part in zip(paths, parts, strict=False):
            encoded[path].append(part)
        chunks: Sequence[tuple[DecodedChunk, Span]] = parts[len(paths) :]
        outcomes = [outcome for chunk, _ in chunks for outcome in chunk.results]
        return Whole(timed("write", self._node, write_unit, self._stage, graph, unit, outcomes, encoded))


def _environment(stage: Any) -> dict[str, Any]:
    own = stage.environment() if hasattr(stage, "environment") else {}
    return {**machine_environment(), **own}
