"""The decoding stage in this process, and what it hands on."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stages.decode.api import decode_video
from stages.decode.backends import BACKENDS, check_backend, load_backend
from stages.decode.sampling import ClipSampling
from stages.decode.source import hash_file, open_regular
from stages.types import DecodedVideo, VideoFailure, VideoRef
from store.errors import RetryError, UsageError, VideoError, VilpError
from store.printable import one_line


@dataclass(frozen=True)
class DecodeConfig:
    """How videos are decoded.

    backend         ``pyav``, ``decord``, or ``module:function`` for one of your own (see ``stages.decode.backends``)
    num_frames      evenly spaced frames a video, T
    max_short_side  pixels; larger frames are shrunk to it; None for no cap
    chunk_bytes     bytes of frames that a worker decodes ahead of its consumer; one larger video makes a chunk alone
    deadline_s      seconds that a worker may neither read nor compute anything (a file system that does not answer)
    cpu_deadline_s  CPU seconds that one video may take
    memory_bytes    memory that a worker may allocate, frames in shared memory not counted
    clips           clips of successive frames, which follow the T frames; None for none. With them T may be 0
    """

    backend: str = "pyav"
    num_frames: int = 16
    max_short_side: int | None = 480
    chunk_bytes: int = 64 << 20
    deadline_s: float = 120.0
    cpu_deadline_s: float = 300.0
    memory_bytes: int = 4 << 30
    clips: ClipSampling | None = None

    def __post_init__(self) -> None:
        check_backend(self.backend)
        if self.num_frames < (1 if self.clips is None else 0):
            raise UsageError(f"num_frames is {self.num_frames}; allowed: more than 0")
        for name in ("max_short_side", "chunk_bytes", "deadline_s", "cpu_deadline_s", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}; allowed: more than 0")

    @property
    def all_frames(self) -> int:
        """Frames a video, with those of the clips."""
        return self.num_frames + (0 if self.clips is None else self.clips.num_frames)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DecodeConfig:
        """The config of which ``data`` is ``dataclasses.asdict``."""
        clips = data["clips"]
        return cls(**{**data, "clips": None if clips is None else ClipSampling(**clips)})


def decoder_record(config: DecodeConfig) -> dict[str, Any]:
    """What changes the pictures of the frames that are taken, as plain JSON values, for content-addressed ids."""
    packages = {"pyav": ["av"], "decord": ["decord", "av"]}.get(config.backend, [])
    record: dict[str, Any] = {
        "decoder": config.backend,
        "decoder_versions": {package: importlib.metadata.version(package) for package in packages},
        "max_short_side": config.max_short_side,
    }
    if config.max_short_side is not None:
        import cv2

        record["resize"] = f"area, opencv {cv2.__version__}"
    return record


@dataclass(frozen=True)
class DecodeOutcome:
    """What became of one video: either ``video`` or ``failure``.

    sha256, num_bytes  of the whole file; None where it could not be read, or was never read to its end
    seconds            wall time of reading and decoding
    """

    ref: VideoRef
    video: DecodedVideo | None
    failure: VideoFailure | None
    sha256: str | None
    num_bytes: int | None
    seconds: float

    def copied(self) -> DecodeOutcome:
        """The same with frames of its own: those of a ``DecodeWorker`` are views that show other frames later."""
        if self.video is None:
            return self
        return replace(self, video=replace(self.video, frames=self.video.frames.copy()))


class Decoder:
    """Decodes in this process: simple, but a native crash or hang takes the process with it (see ``DecodeWorker``)."""

    def __init__(self, config: DecodeConfig) -> None:
        self.config = config

    def setup(self) -> None:
        """Import the backend. Raises ``UsageError`` or ``MissingError`` where that is not possible."""
        load_backend(self.config.backend)

    def __call__(self, refs: Sequence[VideoRef]) -> list[DecodeOutcome]:
        """One outcome a video, in order."""
        return [self.decode(ref) for ref in refs]

    def decode(self, ref: VideoRef, on_hash: Callable[[str, int], None] | None = None) -> DecodeOutcome:
        """Hash and decode one video; where the environment may be at fault, once more. Raises only ``MemoryError``.

        ``on_hash`` is told the SHA-256 and the size in bytes before decoding begins.
        """
        began = time.perf_counter()
        for _attempt in range(2):
            sha256: str | None = None
            num_bytes: int | None = None
            video: DecodedVideo | None = None
            failure: VideoFailure | None = None
            try:
                # Hashing reads the file to its end, so that a fault of the disk shows before demuxers take it for the
                # end of the video.
                with open_regular(ref.path) as fd:
                    sha256, num_bytes = hash_file(ref.path, fd)
                if on_hash is not None:
                    on_hash(sha256, num_bytes)
                video = self._frames(ref)
            except MemoryError:
                raise
            except Exception as error:
                failure = _failure(error)
            if failure is None or failure.kind not in RetryError.KINDS:
                break
        return DecodeOutcome(ref, video, failure, sha256, num_bytes, time.perf_counter() - began)

    def _frames(self, ref: VideoRef) -> DecodedVideo:
        config = self.config
        video = decode_video(
            ref.path,
            config.num_frames,
            backend=config.backend,
            start=ref.start,
            end=ref.end,
            max_short_side=config.max_short_side,
            clips=config.clips,
        )
        if config.backend not in BACKENDS:
            _check(video, config)
        return video


def _check(video: DecodedVideo, config: DecodeConfig) -> None:
    """Hold a user's decoder to what the other stages rely on."""
    frames = np.asarray(video.frames)
    if frames.ndim != 4 or frames.shape[::3] != (config.num_frames, 3) or frames.dtype != np.uint8:
        raise VideoError(
            f"decoder {config.backend!r} gave frames of shape {list(frames.shape)} and type {frames.dtype}; "
            f"allowed: uint8 [{config.num_frames}, H, W, 3]"
        )


def _failure(error: Exception) -> VideoFailure:
    if isinstance(error, VilpError):
        known = error.kind in VideoError.KINDS + RetryError.KINDS
        return VideoFailure(error.kind if known else "decode-failed", one_line(str(error)))
    # The system's own errors, not those of a codec library that are derived from them.
    system = isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins"
    return VideoFailure("io-error" if system else "decode-failed", one_line(f"{type(error).__name__}: {error}"))
