"""A decoder for tests that holds a run in its middle for as long as the test wants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stages.decode import decode_video
from stages.types import DecodedVideo

OPTIONS = ("--decoder", "gate:decode")


def gate_of(videos: Path) -> Path:
    """The file that keeps the gate closed while it is there."""
    return videos.with_name(f"{videos.name}-closed")


def decode(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes; videos in a folder ``run`` wait at the gate."""
    folder = Path(path).parent
    while folder.name == "run" and gate_of(folder.parent).exists():
        time.sleep(0.02)
    return decode_video(path, num_frames, **arguments)
