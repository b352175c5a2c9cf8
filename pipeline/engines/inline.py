"""The inline engine: everything in this process, but for decoding, which runs in child processes that can be killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from typing import Any

from pipeline.engines.lanes import Decoded
from pipeline.engines.work import Encoded, clips_of, encode, without_frames, write_unit
from pipeline.graph import Branch, Graph
from pipeline.plan import Unit
from stages.decode import DecodeConfig, DecodeOutcome, DecodeWorker
from stages.types import VideoRef
from stages.write import ShardWriter, WriteConfig
from store.commits import CommitRow


class InlineLane:
    """A decoder in a child process."""

    def __init__(self, config: DecodeConfig) -> None:
        self._worker = DecodeWorker(config)
        self._worker.setup()

    def decode(self, refs: Sequence[VideoRef]) -> Decoded:
        chunk = self._worker(refs)
        return Decoded(without_frames(chunk.results), clips_of(chunk.results), chunk.remaining)

    def cancel(self) -> None:
        self._worker.cancel()

    def close(self) -> None:
        self._worker.close()


class InlineEngine:
    """Each stage has threads of its own, so that CLIP and pose run side by side."""

    lost: tuple[type[Exception], ...] = ()  # there is no worker to lose: a dead decoder is its lane's business

    def __init__(self, graph: Graph, write: WriteConfig) -> None:
        self._graph = graph
        self._writer = ShardWriter(write)
        self._stages = {branch.modality.path: branch.build() for branch in graph.branches}
        self._threads = {
            branch.modality.path: ThreadPoolExecutor(branch.parallel, branch.modality.kind) for branch in graph.branches
        }
        self._ready = {path: self._threads[path].submit(stage.setup) for path, stage in self._stages.items()}

    def call(self, branch: Branch, method: str, *arguments: Any) -> Any:
        """Call a method of a branch's stage, such as ``encode_text``."""
        path = branch.modality.path
        self._ready[path].result()
        return self._threads[path].submit(getattr(self._stages[path], method), *arguments).result()

    def lane(self) -> InlineLane:
        return InlineLane(self._graph.decode)

    def encode(self, branch: Branch, decoded: Decoded) -> Future[Encoded]:
        path = branch.modality.path
        self._ready[path].result()
        return self._threads[path].submit(encode, self._stages[path], branch, decoded.clips)

    def wait(self, handles: Sequence[Future[Encoded]]) -> None:
        wait_futures(handles)

    def write(
        self, unit: Unit, outcomes: Sequence[DecodeOutcome], handles: Mapping[str, Sequence[Future[Encoded]]]
    ) -> dict[str, list[CommitRow]]:
        encoded = {path: [future.result() for future in futures] for path, futures in handles.items()}
        return write_unit(self._writer, self._graph, unit, outcomes, encoded)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)
