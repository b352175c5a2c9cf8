"""Decoding in a process of its own, which may crash, hang or run out of memory: each costs exactly one video."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.decode.process import DecodeProcess, DecodeProcessError
from stages.decode.segments import SegmentReader
from stages.decode.stage import DecodeConfig, DecodeOutcome
from stages.types import DecodedVideo, VideoFailure, VideoRef


@dataclass(frozen=True)
class DecodedChunk:
    """Outcomes of the first videos that were submitted, and the rest, to be submitted again. ``retries`` are lines that
    say which videos were decoded once more, and why."""

    results: list[DecodeOutcome]
    remaining: list[VideoRef]
    retries: list[str] = field(default_factory=list)


class DecodeWorker:
    """A killable decoding process.

    ``submit`` starts to decode, ``result`` waits for it; between the two the caller is free, and it may submit the next
    chunk before it has used up the last. A chunk holds at most ``chunk_bytes`` of frames, and at least one video.

    Frames are read-only views on shared memory. Those of one ``result`` stay as they are until ``ring - 1`` further
    results have returned; from then on they may show other frames. With the default one chunk can be decoded while its
    two predecessors are still read; a caller that copies the frames out before it submits again needs a ring of 1.

    Where the process dies, hangs or runs out of memory, the video that it was at is decoded once more, first of all in
    a fresh process. What fails again is a ``VideoFailure``: ``decoder-crash``; ``decoder-timeout`` (too much CPU time,
    which a suspended machine does not spend); ``decoder-memory``; or, where the environment may be at fault,
    ``timeout`` (nothing read and no CPU time used, though nobody stopped it) or ``out-of-memory`` (killed from outside,
    as the kernel does when memory is short, or no shared memory left).

    The process is killed by the system when the thread that started it ends; a worker then starts another.
    """

    def __init__(self, config: DecodeConfig, *, ring: int = 3) -> None:
        self.config = config
        self._ring = ring
        self._segments: list[SegmentReader] = []
        self._turn = -1
        self._child: DecodeProcess | None = None
        self._chunk: _Chunk | None = None
        self._cancelled = False

    def setup(self) -> None:
        """Start the process, with the backend imported; raises ``UsageError`` or ``MissingError`` where that fails."""
        if not self._segments:
            self._segments = [SegmentReader() for _ in range(self._ring)]
        self._running()

    def __call__(self, refs: Sequence[VideoRef]) -> DecodedChunk:
        """``submit`` and ``result`` in one."""
        self.submit(refs)
        return self.result()

    def submit(self, refs: Sequence[VideoRef]) -> None:
        """Begin to decode ``refs``, at least one. The result of the last ``submit`` must have been fetched."""
        if self._chunk is not None:
            raise RuntimeError("submit was called twice without result in between")
        if not refs:
            raise ValueError("submit needs at least one video")
        self.setup()
        self._turn = (self._turn + 1) % self._ring
        self._chunk = _Chunk(tuple(refs), self._turn)
        self._request(self._chunk)

    def result(self) -> DecodedChunk:
        """Wait for what was submitted: one outcome a video, in order, for the first videos; no video makes it raise."""
        if self._chunk is None:
            raise RuntimeError("result was called without submit before it")
        chunk = self._chunk
        while not chunk.complete:
            try:
                self._collect(chunk)
            except DecodeProcessError as fault:
                self._stop()
                if self._cancelled:
                    raise CancelledError("the decoding was cancelled") from None
                chunk.blame(fault)
            if not chunk.complete:
                self._request(chunk)
        self._chunk = None
        return DecodedChunk(chunk.outcomes, list(chunk.remaining), chunk.retries)

    def cancel(self) -> None:
        """Make a ``result`` that another thread waits for raise ``CancelledError``. Only ``close`` may follow."""
        self._cancelled = True
        child = self._child
        if child is not None:
            child.interrupt()

    def close(self) -> None:
        """Kill the process. Views that were handed out stay valid."""
        self._stop()
        for segment in self._segments:
            segment.close()
        self._segments, self._chunk = [], None

    def __enter__(self) -> DecodeWorker:
        self.setup()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> DecodeProcess:
        if self._child is None:
            self._child = DecodeProcess(self.config, [segment.fd for segment in self._segments])
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _request(self, chunk: _Chunk) -> None:
        refs = [dataclasses.astuple(ref) for ref in chunk.remaining]
        message = {"segment": chunk.segment, "offset": chunk.offset, "refs": refs}
        try:
            self._running().send(message)
        except OSError:  # it died while it had nothing to do, which is nobody's fault
            self._stop()
            self._running().send(message)

    def _collect(self, chunk: _Chunk) -> None:
        """Take in the answers to one request; raises ``DecodeProcessError``."""
        child = self._running()
        asked = len(chunk.remaining)
        while True:
            message = child.receive()
            if "start" in message:
                chunk.hashed = (None, None)
            elif "hashed" in message:
                chunk.hashed = (message["hashed"][0], message["hashed"][1])
            elif "done" in message:
                chunk.outcomes.append(self._outcome(chunk, message))
            elif "end" in message:
                chunk.full = message["end"] < asked
                return

    def _outcome(self, chunk: _Chunk, message: dict[str, Any]) -> DecodeOutcome:
        video = None
        if "video" in message:
            facts, shape = message["video"], tuple(message["shape"])
            frames = self._segments[chunk.segment].view(message["offset"], shape)
            chunk.offset = message["next_offset"]
            indices, pts = np.array(facts.pop("indices"), np.int32), np.array(facts.pop("pts"), np.float64)
            video = DecodedVideo(frames=frames, indices=indices, pts=pts, **facts)
        failure = VideoFailure(*message["failure"]) if message["failure"] else None
        ref = chunk.refs[len(chunk.outcomes)]
        return DecodeOutcome(ref, video, failure, message["sha256"], message["num_bytes"], message["seconds"])


@dataclass
class _Chunk:
    """What was submitted and how far it has come."""

    refs: tuple[VideoRef, ...]
    segment: int
    outcomes: list[DecodeOutcome] = field(default_factory=list)
    offset: int = 0
    full: bool = False
    suspect: int = -1
    hashed: tuple[str | None, int | None] = (None, None)
    retries: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.full or len(self.outcomes) == len(self.refs)

    @property
    def remaining(self) -> tuple[VideoRef, ...]:
        """The videos without an outcome."""
        return self.refs[len(self.outcomes) :]

    def blame(self, fault: DecodeProcessError) -> None:
        """Suspect the video at which the process was; condemn it where it was the first in a fresh process too."""
        if self.complete:
            return
        first = len(self.outcomes)
        if first != self.suspect:
            self.suspect = first
            self.retries.append(f"{self.refs[first].video_id} was decoded once more: {fault}")
            return
        ref, (sha256, num_bytes) = self.refs[first], self.hashed
        failure = VideoFailure(fault.kind, f"{ref.path!r}: {fault}")
        self.outcomes.append(DecodeOutcome(ref, None, failure, sha256, num_bytes, fault.seconds))
