"""The Ray engine: decoders, encoders and writers are actors, on this machine or on a cluster.

Frames lie once in Ray's object store, from which both branches read them; features go from the encoders to a writer
without passing through this process. Actors take small fractions of a CPU, since what they use is set by ``setup`` and
by their number, and Ray's own counting would leave cores idle; Ray would also set OMP_NUM_THREADS from it.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.exceptions

from pipeline.engines.lanes import Decoded
from pipeline.engines.work import Encoded, clips_of, encode, without_frames, write_unit
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from stages.decode import DecodeConfig, DecodeOutcome, DecodeWorker
from stages.types import Clip, VideoRef
from stages.write import ShardWriter, WriteConfig
from store.commits import CommitRow
from store.errors import VilpError

ACTOR_CPUS = 0.01


class _Decoder:
    """A supervised decoder in an actor. A dead decoding process costs one video; a dead actor costs one call,
    retried."""

    def __init__(self, config: DecodeConfig) -> None:
        self._worker = DecodeWorker(config)
        self._worker.setup()

    def decode(self, refs: Sequence[VideoRef]) -> tuple[Any, list[Clip]]:
        chunk = self._worker(refs)
        return (without_frames(chunk.results), chunk.remaining), clips_of(chunk.results)


class _Encoder:
    """A CLIP or pose stage in an actor."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._stage = branch.build()
        self._stage.setup()

    def encode(self, clips: list[Clip]) -> tuple[Encoded, bool]:
        return encode(self._stage, self._branch, clips), True

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        return getattr(self._stage, method)(*arguments)


class _Writer:
    """A writer in an actor, beside the features that it reads."""

    def __init__(self, graph: Graph, config: WriteConfig) -> None:
        self._graph = graph
        self._writer = ShardWriter(config)

    def write(
        self, unit: Unit, outcomes: Sequence[DecodeOutcome], paths: Sequence[str], *encoded: Encoded
    ) -> dict[str, list[CommitRow]]:
        by_path: dict[str, list[Encoded]] = {branch.modality.path: [] for branch in self._graph.branches}
        for path, part in zip(paths, encoded, strict=True):
            by_path[path].append(part)
        return write_unit(self._writer, self._graph, unit, outcomes, by_path)


def _get(refs: Any) -> Any:
    """``ray.get`` that raises our own errors as they were raised, without Ray's wrapping."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, VilpError) else None
        raise (cause or error) from None


class RayLane:
    """A lane whose decoder is an actor."""

    def __init__(self, config: DecodeConfig) -> None:
        self._actor = _remote(_Decoder).remote(config)

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        facts, clips = self._actor.decode.options(num_returns=2).remote(list(refs))
        outcomes, remaining = _get(facts)
        return Decoded(outcomes, clips, remaining)

    def cancel(self) -> None:
        self.close()

    def close(self) -> None:
        if ray.is_initialized():
            ray.kill(self._actor)


class RayEngine:
    """Connects to a cluster, or starts one on this machine, and ends what it started.

    address         of a running cluster; None starts one here
    object_bytes    size of the object store of a cluster that is started here
    """

    # A worker or a node died, more often than Ray's own retries mend. Errors of the stages themselves are not among
    # these.
    lost: tuple[type[Exception], ...] = (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.ObjectLostError,
        ray.exceptions.NodeDiedError,
    )

    def __init__(self, graph: Graph, write: WriteConfig, *, address: str | None, object_bytes: int, cpus: int) -> None:
        self._graph = graph
        own: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": object_bytes, "include_dashboard": False}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ray.init(
            address=address or "local",  # an address in the environment is not what was asked for
            log_to_driver=False,  # nothing that a worker prints may reach standard output
            logging_level=logging.ERROR,
            configure_logging=False,
            **({} if address else own),
        )
        for number, handler in handlers.items():  # Ray puts one of its own on SIGTERM
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self._encoders: dict[str, list[Any]] = {}
        self._turn: dict[str, Any] = {}
        for branch in graph.branches:
            count = max(1, gpus)
            share = 1.0 / len(graph.branches) if gpus else 0.0
            actors = [
                _remote(_Encoder, num_gpus=share, max_concurrency=branch.parallel).remote(branch) for _ in range(count)
            ]
            self._encoders[branch.modality.path] = actors
            self._turn[branch.modality.path] = itertools.cycle(actors)
        self._lock = threading.Lock()
        self._writer = _remote(_Writer).remote(graph, write)

    def call(self, branch: Branch, method: str, *arguments: Any) -> Any:
        """Call a method of a branch's stage, such as ``encode_text``."""
        return _get(self._encoders[branch.modality.path][0].call.remote(method, arguments))

    def lane(self) -> RayLane:
        return RayLane(self._graph.decode)

    def encode(self, branch: Branch, decoded: Decoded) -> tuple[Any, Any]:
        """References to the features, which stay in the object store, and to a flag that they are there."""
        with self._lock:
            actor = next(self._turn[branch.modality.path])
        features, done = actor.encode.options(num_returns=2).remote(decoded.clips)
        return features, done

    def wait(self, handles: Sequence[tuple[Any, Any]]) -> None:
        _get([done for _, done in handles])

    def write(
        self, unit: Unit, outcomes: Sequence[DecodeOutcome], handles: Mapping[str, Sequence[tuple[Any, Any]]]
    ) -> dict[str, list[CommitRow]]:
        paths = [path for path, pairs in handles.items() for _ in pairs]
        features = [features for pairs in handles.values() for features, _ in pairs]
        return _get(self._writer.write.remote(unit, list(outcomes), paths, *features))

    def close(self) -> None:
        ray.shutdown()


def _remote(cls: type, *, num_gpus: float = 0.0, max_concurrency: int = 1) -> Any:
    return ray.remote(cls).options(
        num_cpus=ACTOR_CPUS,
        num_gpus=num_gpus,
        max_concurrency=max_concurrency,
        max_restarts=-1,
        max_task_retries=3,
        scheduling_strategy="SPREAD",
    )
