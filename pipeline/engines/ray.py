"""The Ray engine: decoders, encoders and writers are actors, on this machine or on a cluster.

Every node has encoders and a writer of its own, which its lanes share: frames lie once in the node's object store, from
which both branches read them, features go from the encoders to the writer without passing through this process, and
neither crosses the network. Where the cluster has GPUs, encoders run on those alone, and nodes without one send them
the frames that they decode. Nodes that join while a run goes on get lanes, and nodes that die lose them.

Actors take small fractions of a CPU, since what they use is set by ``setup`` and by their number, and Ray's own
counting would leave cores idle; Ray would also set OMP_NUM_THREADS from it. Ray neither restarts an actor nor repeats a
call: the lane that waits for it learns of the loss, its unit begins again, and the actor is replaced.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engines.actors import Decoder, Encoder, Whole, Writer
from pipeline.engines.environment import machine_environment
from pipeline.engines.lanes import Decoded, WorkerLostError
from pipeline.engines.sizing import Sizing, cpus, machine_memory
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from pipeline.trace import Span
from stages.decode import DecodedChunk
from stages.types import VideoRef
from stages.write import WriteConfig
from store.commits import CommitRow
from store.errors import StoreError, VilpError

ACTOR_CPUS = 0.01

# What Ray raises where a worker or a node died, or objects with it, in words. Errors of the stages themselves are not
# among these.
_LOST: dict[type[Exception], str] = {
    ray.exceptions.OutOfMemoryError: "Ray killed it, since its machine was running out of memory",
    ray.exceptions.ActorDiedError: "its process died",
    ray.exceptions.ActorUnavailableError: "it cannot be reached",
    ray.exceptions.ActorUnschedulableError: "its node is gone",
    ray.exceptions.NodeDiedError: "its node died",
    ray.exceptions.ObjectLostError: "what it was to read was lost with another node",
    ray.exceptions.RayActorError: "it died",
    ray.exceptions.WorkerCrashedError: "its process crashed",
}


@dataclass(eq=False)
class _Actor:
    """An actor, what to call it for people, the id of its node, and whether it is known to have died."""

    handle: Any
    name: str
    node: str
    died: bool = False

    def get(self, reference: Any) -> Any:
        """``ray.get`` that raises our own errors as they were raised, and ``WorkerLostError`` where the actor died, or
        something that it needs."""
        try:
            return ray.get(reference)
        except tuple(_LOST) as error:
            # A task error says that the actor lives, and reports the death of another.
            self.died |= not isinstance(error, ray.exceptions.RayTaskError)
            words = next(words for kind, words in _LOST.items() if isinstance(error, kind))
            raise WorkerLostError(f"{self.name} was lost: {words}") from error
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, VilpError) else error) from None


@dataclass(frozen=True)
class _Encoding:
    """Features, which stay in the object store, and the span of the call, which is there when they are."""

    features: Any
    span: Any
    encoder: _Actor


@dataclass
class _Node:
    """A node of the cluster: how many lanes it holds and has, and what they share."""

    id: str
    name: str
    room: int
    lanes: int = 0
    encoders: dict[str, list[_Actor]] = field(default_factory=dict)
    writer: _Actor = field(init=False)


class RayEngine:
    """Connects to a cluster, or starts one on this machine, and ends what it started.

    address  of a running cluster; None starts one here
    """

    def __init__(self, graph: Graph, write: WriteConfig, sizing: Sizing, *, address: str | None) -> None:
        self.graph, self._write, self._sizing = graph, write, sizing
        self._plain = machine_environment()
        self._environments = {
            branch.modality.path: {**self._plain, **branch.environment()} for branch in graph.branches
        }
        self._turns = {branch.modality.path: itertools.count() for branch in graph.branches}
        self._nodes: dict[str, _Node] = {}
        # Nodes that were there when the run began, and those that joined later and are not like the driver's.
        self._first: frozenset[str] | None = None
        self._left_out: set[str] = set()
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        # Not in the main thread: there, an exception that a signal raises would be lost if Ray was just forking. Ray's
        # processes die with the thread that starts them, so it lives as long as they do.
        self._thread = ThreadPoolExecutor(1, "ray")
        try:
            self._thread.submit(_connect, address, sizing).result()
            if threading.current_thread() is threading.main_thread():
                # Ray has put its own handler in front, which aborts a process that takes seconds to end.
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            self._gpus = any(_gpus(node) for node in _living().values())
        except BaseException:
            self.close()
            raise

    def capacity(self) -> int:
        """Lanes that the living nodes hold. Starts workers on nodes that are new, and replaces those that died."""
        found = _living()
        with self._lock:
            self._first = self._first or frozenset(found)
            for gone in self._nodes.keys() - found.keys():
                del self._nodes[gone]
            for new in found.keys() - self._nodes.keys() - self._left_out:
                if self._room(found[new]) or (self._gpus and _gpus(found[new])):
                    self._nodes[new] = self._start(found[new])
            for node in self._nodes.values():
                self._mend(node)
            return sum(node.room for node in self._nodes.values())

    def lane(self) -> RayLane:
        with self._lock:
            node = max(self._nodes.values(), key=lambda node: node.room - node.lanes, default=None)
            if node is None:
                raise WorkerLostError("every node of the cluster was lost")
            node.lanes += 1
        return RayLane(self, node)

    def leave(self, node: _Node) -> None:
        """A lane of the node is closed."""
        with self._lock:
            node.lanes -= 1

    def call(self, branch: Branch, method: str, *arguments: Any) -> Any:
        """Call a method of a branch's stage, such as ``encode_text``. May raise ``WorkerLostError``."""
        self.capacity()
        encoder = self.encoder(branch.modality.path)
        self.set_up(encoder, encoder.handle.setup.remote())
        return encoder.get(encoder.handle.call.remote(method, arguments))

    def set_up(self, actor: _Actor, setup: Any) -> None:
        """Wait for the setup of an actor. A node that is not like the driver's ends the run where it was there from the
        beginning; one that joined later is left out from then on, with a warning and a ``WorkerLostError``."""
        try:
            actor.get(setup)
        except StoreError as error:
            if error.kind != "store-mismatch" or actor.node in (self._first or ()):
                raise
            with self._lock:
                if actor.node not in self._left_out:
                    self._left_out.add(actor.node)
                    self._nodes.pop(actor.node, None)
                    self.warnings.append(f"{str(error).partition(';')[0]}; it joined late, and is left out")
            raise WorkerLostError(str(error).partition(";")[0]) from error

    def encoder(self, path: str, node: _Node | None = None) -> _Actor:
        """The encoder of a branch whose turn it is: one of the node's, or of any where the node has none."""
        with self._lock:
            found = node.encoders[path] if node else []
            found = found or [encoder for other in self._nodes.values() for encoder in other.encoders[path]]
            if not found:
                raise WorkerLostError(f"every {path.partition('/')[0]} encoder was lost with its node")
            return found[next(self._turns[path]) % len(found)]

    def decoder(self, node: _Node) -> _Actor:
        """A new decoder on the node."""
        # What it returns is copied to the object store before its next call.
        build = functools.partial(self.graph.decoder, ring=1)
        return self._actor(Decoder, "decoder", node, build, self._plain)

    def close(self) -> None:
        self._thread.submit(ray.shutdown).result()
        _print_deaths(True)
        self._thread.shutdown()

    def _room(self, found: Mapping[str, Any]) -> int:
        """Lanes of a node that was found in the cluster."""
        resources = found["Resources"]
        if not resources.get("CPU"):
            return 0
        store = resources.get("object_store_memory", 0)
        fitting = int(store // (self._sizing.lane_bytes + self._sizing.unit_bytes))
        return max(1, min(fitting, self._sizing.lanes(resources["CPU"], resources.get("memory", 0) + store)))

    def _start(self, found: Mapping[str, Any]) -> _Node:
        """Start the workers that the lanes of a node share."""
        name = f"{found['NodeManagerAddress']} ({found['NodeID'][:8]})"
        node = _Node(found["NodeID"], name, self._room(found))
        node.writer = self._writer(node)
        for branch in self.graph.branches:
            count = _gpus(found) if self._on_gpu(branch) else 1
            node.encoders[branch.modality.path] = [self._encoder(node, branch) for _ in range(count)]
        return node

    def _mend(self, node: _Node) -> None:
        """Replace what died of the workers that the lanes of a node share."""
        for branch in self.graph.branches:
            encoders = node.encoders[branch.modality.path]
            for place, encoder in enumerate(encoders):
                if encoder.died:
                    ray.kill(encoder.handle)
                    encoders[place] = self._encoder(node, branch)
        if node.writer.died:
            ray.kill(node.writer.handle)  # it may only be out of reach, and must not write any more
            node.writer = self._writer(node)

    def _writer(self, node: _Node) -> _Actor:
        return self._actor(Writer, "writer", node, functools.partial(self.graph.writer, self._write), self._plain)

    def _encoder(self, node: _Node, branch: Branch) -> _Actor:
        options = {
            "num_gpus": 1 / len(self.graph.branches) if self._on_gpu(branch) else 0,
            "max_concurrency": branch.parallel,
        }
        environment = self._environments[branch.modality.path]
        return self._actor(Encoder, f"{branch.modality.kind} encoder", node, branch.build, environment, **options)

    def _on_gpu(self, branch: Branch) -> bool:
        return self._gpus and branch.config.device != "cpu"

    def _actor(
        self,
        cls: type,
        what: str,
        node: _Node,
        build: Callable[[], Any],
        environment: Mapping[str, Any],
        **options: Any,
    ) -> _Actor:
        place = NodeAffinitySchedulingStrategy(node.id, soft=False)
        remote: Any = ray.remote(cls).options(num_cpus=ACTOR_CPUS, scheduling_strategy=place, **options)
        return _Actor(remote.remote(build, environment, node.name), f"the {what} on node {node.name}", node.id)


class RayLane:
    """A lane on one node: a decoder of its own, the encoders and the writer of the node."""

    def __init__(self, engine: RayEngine, node: _Node) -> None:
        self._engine, self._node = engine, node
        self._decoder = engine.decoder(node)
        # All at once, while the first chunk is being decoded.
        actors = [self._decoder, node.writer, *itertools.chain(*node.encoders.values())]
        self._setups = {actor: actor.handle.setup.remote() for actor in actors}
        self._set_up: set[_Actor] = set()

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        decoder = self._ready(self._decoder)
        facts, clips = decoder.handle.decode.options(num_returns=2).remote(Whole(refs))
        chunk: DecodedChunk
        span: Span
        chunk, span = decoder.get(facts)
        return Decoded(chunk.results, facts, clips, chunk.remaining, span, chunk.retries)

    def encode(self, branch: Branch, decoded: Decoded) -> _Encoding:
        encoder = self._ready(self._engine.encoder(branch.modality.path, self._node))
        features, span = encoder.handle.encode.options(num_returns=2).remote(branch, decoded.clips)
        return _Encoding(features, span, encoder)

    def wait(self, handles: Sequence[_Encoding]) -> list[Span]:
        return [handle.encoder.get(handle.span) for handle in handles]

    def write(
        self, unit: Unit, facts: Sequence[Any], handles: Mapping[str, Sequence[_Encoding]]
    ) -> tuple[dict[str, list[CommitRow]], Span]:
        writer = self._ready(self._node.writer)
        paths = [path for path, encodings in handles.items() for _ in encodings]
        features = [encoding.features for encodings in handles.values() for encoding in encodings]
        written: tuple[dict[str, list[CommitRow]], Span] = writer.get(
            writer.handle.write.remote(self._engine.graph, unit, paths, *features, *facts)
        ).value
        return written

    def cancel(self) -> None:
        if ray.is_initialized():
            ray.kill(self._decoder.handle)

    def close(self) -> None:
        self.cancel()
        self._engine.leave(self._node)

    def _ready(self, actor: _Actor) -> _Actor:
        """The actor, set up."""
        if actor not in self._set_up:
            self._engine.set_up(actor, self._setups.pop(actor, None) or actor.handle.setup.remote())
            self._set_up.add(actor)
        return actor


def _connect(address: str | None, sizing: Sizing) -> None:
    """Join the cluster at ``address``, or start one of this machine alone."""
    # Workers of a running cluster have its environment, not ours, and need what opens a store in a bucket.
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    own: dict[str, Any] = {"runtime_env": {"env_vars": credentials}} if credentials else {}
    if address is None:
        memory = machine_memory()
        object_bytes = sizing.object_bytes(sizing.lanes(cpus(), memory), memory)
        own = {
            "num_cpus": cpus(),
            "object_store_memory": object_bytes,
            "include_dashboard": False,
            # Frames that nobody needs any more would stay for a second, in which a fast machine decodes gigabytes.
            "_system_config": {"free_objects_period_milliseconds": 50},
        }
    # Ray would print the errors of calls that nobody waits for any more, once another one has ended the run.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # It also prints every death of a worker on standard output, which belongs to the caller; the summary tells of it.
    # There is no public switch (ray 2.58.0); ``log_to_driver`` is about what workers print.
    _print_deaths(False)
    ray.init(
        address=address or "local",  # an address in the environment is not what was asked for
        log_to_driver=False,  # nothing that a worker prints may reach standard output
        logging_level=logging.ERROR,
        configure_logging=False,
        **own,
    )


def _print_deaths(wanted: bool) -> None:
    ray._private.worker._worker_logs_enabled = wanted


def _living() -> dict[str, dict[str, Any]]:
    """Nodes of the cluster that are alive, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _gpus(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("GPU", 0))
