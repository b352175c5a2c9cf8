"""The process that decodes for a ``DecodeWorker``: ``python -m stages.decode.child SOCKET PARENT SEGMENT...``.

Arguments are inherited descriptors and the parent's process id. Both directions of the socket carry one JSON object a
line. The parent sends the config, then requests ``{"segment", "offset", "refs"}``; the child answers ``ready`` or
``error`` to the config, and to a request, for each video in turn, ``start``, ``hashed`` and ``done``, or ``failed``
where memory ran out; ``end`` closes it with the number of videos that fitted into the chunk.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from stages.decode.segments import SegmentWriter, SharedMemoryError
from stages.decode.stage import DecodeConfig, DecodeOutcome, Decoder
from stages.types import VideoRef
from store.errors import VilpError
from store.printable import one_line

_PR_SET_PDEATHSIG = 1


class _Child:
    def __init__(self, connection: socket.socket, segments: list[SegmentWriter]) -> None:
        self._connection, self._segments = connection, segments
        self._requests = connection.makefile("r", encoding="ascii")
        # A video that did not fit into one chunk is likely to open the next.
        self._held: DecodeOutcome | None = None

    def run(self) -> None:
        self._config = DecodeConfig.from_dict(json.loads(self._requests.readline()))
        self._decoder = Decoder(self._config)
        try:
            self._decoder.setup()
        except VilpError as error:
            return self._send(error=str(error), type=type(error).__name__, kind=error.kind)
        _limit(self._config)
        self._send(ready=True)
        for line in self._requests:
            self._serve(**json.loads(line))
        return None

    def _serve(self, segment: int, offset: int, refs: list[list[Any]]) -> None:
        writer = self._segments[segment]
        for i, fields in enumerate(refs):
            self._send(start=i, cpu=time.process_time())
            try:
                outcome = self._outcome(VideoRef(*fields))
                frames = None if outcome.video is None else outcome.video.frames
                if frames is not None and offset and offset + frames.nbytes > self._config.chunk_bytes:
                    self._held = outcome
                    return self._send(end=i)
                begin = offset
                if frames is not None:
                    offset = writer.write(begin, frames)
            except SharedMemoryError as error:
                return self._send(failed=str(error), kind="out-of-memory")
            except MemoryError as error:
                why = one_line(str(getattr(error, "strerror", None) or error))
                message = f"the decoder asked for more memory than it may have: {why}"
                return self._send(failed=message, kind="decoder-memory")
            self._send(done=i, offset=begin, next_offset=offset, **_described(outcome))
        return self._send(end=len(refs))

    def _outcome(self, ref: VideoRef) -> DecodeOutcome:
        held, self._held = self._held, None
        if held is not None and held.ref == ref:
            return held
        return self._decoder.decode(ref, on_hash=lambda sha256, size: self._send(hashed=[sha256, size]))

    def _send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode("ascii") + b"\n")


def _described(outcome: DecodeOutcome) -> dict[str, Any]:
    message: dict[str, Any] = {
        "sha256": outcome.sha256,
        "num_bytes": outcome.num_bytes,
        "seconds": outcome.seconds,
        "failure": outcome.failure and [outcome.failure.kind, outcome.failure.message],
    }
    if (video := outcome.video) is not None:
        message["shape"] = video.frames.shape
        message["video"] = {
            "indices": video.indices.tolist(),
            "pts": video.pts.tolist(),
            "num_decodable": video.num_decodable,
            "num_claimed": video.num_claimed,
            "fps": video.fps,
            "width": video.width,
            "height": video.height,
        }
    return message


def _limit(config: DecodeConfig) -> None:
    """Bound what this process may do: memory (private, not the shared frames), threads, core dumps."""
    _lower(resource.RLIMIT_DATA, config.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    if config.max_short_side is not None:
        import cv2

        cv2.setNumThreads(1)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def main(arguments: list[str]) -> None:
    """Decode what the parent asks for, until it ends: ``CONNECTION PARENT SEGMENT...``, file descriptors but for the
    parent's process id."""
    connection, parent, *segments = map(int, arguments)
    # Even a decoder that hangs in native code must not outlive the process that asked for it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    _Child(socket.socket(fileno=connection), [SegmentWriter(fd) for fd in segments]).run()


if __name__ == "__main__":
    main(sys.argv[1:])
