"""The inline engine: everything in this process, but for decoding, which runs in child processes that can be killed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from typing import Any

from pipeline.engines.lanes import Decoded
from pipeline.engines.work import Encoded, clips_of, encode, without_frames, write_unit
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from pipeline.trace import Span, timed
from stages.decode import DecodeOutcome
from stages.types import VideoRef
from stages.write import WriteConfig
from store.commits import CommitRow


class InlineEngine:
    """Each stage has threads of its own, so that CLIP and pose run side by side."""

    def __init__(self, graph: Graph, write: WriteConfig, *, lanes: int) -> None:
        self._lanes = lanes
        self.warnings: list[str] = []
        self.graph = graph
        self.writer = graph.writer(write)
        self._stages = {branch.modality.path: branch.build() for branch in graph.branches}
        self._threads = {
            branch.modality.path: ThreadPoolExecutor(branch.parallel, branch.modality.kind) for branch in graph.branches
        }
        self._ready = {path: self._threads[path].submit(stage.setup) for path, stage in self._stages.items()}

    def capacity(self) -> int:
        return self._lanes

    def lane(self) -> InlineLane:
        return InlineLane(self)

    def call(self, branch: Branch, method: str, *arguments: Any) -> Any:
        """Call a method of a branch's stage, such as ``encode_text``."""
        path = branch.modality.path
        return self.submit(path, getattr(self._stages[path], method), *arguments).result()

    def encode(self, branch: Branch, decoded: Decoded) -> Future[tuple[Encoded, Span]]:
        path = branch.modality.path
        return self.submit(path, timed, branch.modality.kind, None, encode, self._stages[path], branch, decoded.clips)

    def submit(self, path: str, function: Any, *arguments: Any) -> Future[Any]:
        self._ready[path].result()
        return self._threads[path].submit(function, *arguments)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)


class InlineLane:
    """A decoder in a child process; encoders and writer are the engine's. There is no worker to lose: a decoding
    process that dies is its ``DecodeWorker``'s business."""

    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine
        # Chunks are read where they lie while the next one is decoded.
        self._decoder = engine.graph.decoder(ring=3)
        self._decoder.setup()

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        chunk, span = timed("decode", None, self._decoder, refs)
        outcomes = without_frames(chunk.results)
        return Decoded(outcomes, outcomes, clips_of(chunk.results), chunk.remaining, span, chunk.retries)

    def encode(self, branch: Branch, decoded: Decoded) -> Future[tuple[Encoded, Span]]:
        return self._engine.encode(branch, decoded)

    def wait(self, handles: Sequence[Future[tuple[Encoded, Span]]]) -> list[Span]:
        wait_futures(handles)
        return [span for _, span in (future.result() for future in handles)]

    def write(
        self,
        unit: Unit,
        facts: Sequence[list[DecodeOutcome]],
        handles: Mapping[str, Sequence[Future[tuple[Encoded, Span]]]],
    ) -> tuple[dict[str, list[CommitRow]], Span]:
        outcomes = list(itertools.chain(*facts))
        encoded = {path: [future.result()[0] for future in futures] for path, futures in handles.items()}
        return timed("write", None, write_unit, self._engine.writer, self._engine.graph, unit, outcomes, encoded)

    def cancel(self) -> None:
        self._decoder.cancel()

    def close(self) -> None:
        self._decoder.close()
