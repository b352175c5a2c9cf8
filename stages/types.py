"""The values that travel between stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class VideoRef:
    """One video of the plan. ``start`` and ``end`` (seconds) cut a clip out of a longer file; None means the file's."""

    slot: int
    video_id: str
    path: str
    start: float | None = None
    end: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], root: Path) -> VideoRef:
        """The video of a row of the plan, whose path is relative to ``root``."""
        return cls(row["slot"], row["video_id"], str(root / row["path"]), row["start"], row["end"])


@dataclass(frozen=True)
class DecodedVideo:
    """Frames sampled evenly over the frames that decode, or in clips, and what was learnt about the file.

    frames         uint8 [T, H, W, 3], RGB, upright (display rotation applied)
    indices        int32 [T], positions among the decodable frames of the clip, see ``stages.decode.sampling``
    pts            float64 [T], presentation time in seconds
    num_decodable  frames that decode (of the clip, where start and end cut one out)
    num_claimed    frames that the header or the packet index claims; None where neither says
    fps            average frame rate, frames a second; 0.0 where unknown
    width, height  of the upright source frame in pixels, before any size cap
    """

    frames: np.ndarray
    indices: np.ndarray
    pts: np.ndarray
    num_decodable: int
    num_claimed: int | None
    fps: float
    width: int
    height: int

    @property
    def partial(self) -> bool:
        """True where far fewer frames decode than the file claims (a truncated file, not an off-by-one header)."""
        return self.num_claimed is not None and self.num_decodable < min(0.9 * self.num_claimed, self.num_claimed - 2)


@dataclass(frozen=True)
class VideoFailure:
    """Why a video gave no frames: a stable error kind (see ``store.errors``) and a one-line message."""

    kind: str
    message: str


@dataclass(frozen=True)
class Clip:
    """A decoded video of the plan: what the CLIP and pose stages take, in batches."""

    ref: VideoRef
    video: DecodedVideo


@dataclass(frozen=True)
class StageOutput:
    """What a stage that can fail on single clips returns.

    arrays    one row a clip; the rows of failed clips hold the fill value
    failures  by slot (``ref.slot``), for the clips that failed
    """

    arrays: dict[str, np.ndarray]
    failures: dict[int, VideoFailure]
