"""A decoder that is one frame late, as those are that trust a seek."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stages.decode.pyav_backend import decode as right
from stages.types import DecodedVideo


def decode(path: str, num_frames: int, **options: Any) -> DecodedVideo:
    video = right(path, num_frames, **options)
    return dataclasses.replace(video, frames=np.roll(video.frames, 1, axis=0))
