"""A decoder for tests that fails as native code fails: what it does is written in the file that it decodes.

The first word of the file is the deed, the second a grey value, the third a size in pixels. ``crash-once`` and its like
do it only while the file named in ``$POISON_ONCE`` is not there.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages.decode import decode_video
from stages.types import DecodedVideo
from store.errors import RetryError


def decode(path: str, num_frames: int, **_: Any) -> DecodedVideo:
    """Frames of one grey value, which is the second word of the file, after the deed in the first."""
    deed, value, *size = Path(path).read_text().split()
    if deed.endswith("-once"):
        deed = deed.removesuffix("-once") if _first_time() else "fine"
    _do(deed, path)
    side = int(size[0]) if size else 8
    return DecodedVideo(
        frames=np.full((num_frames, side, side, 3), int(value), np.uint8),
        indices=np.arange(num_frames, dtype=np.int32),
        pts=np.arange(num_frames) / 25,
        num_decodable=num_frames,
        num_claimed=None,
        fps=25.0,
        width=side,
        height=side,
    )


def marked(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes, but for files whose name begins with a deed and a space."""
    _do(Path(path).name.partition(" ")[0], path)
    return decode_video(path, num_frames, **arguments)


def stuck(path: str, num_frames: int, **arguments: Any) -> DecodedVideo:
    """What PyAV decodes, but for files in a folder ``run``, which take for ever."""
    while Path(path).parent.name == "run":
        time.sleep(1)
    return decode_video(path, num_frames, **arguments)


def malformed(path: str, num_frames: int, **_: Any) -> DecodedVideo:
    """Frames of the wrong number."""
    return DecodedVideo(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), np.zeros(1), 1, None, 25.0, 8, 8)


def _first_time() -> bool:
    try:
        os.close(os.open(os.environ["POISON_ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _do(deed: str, path: str) -> None:
    match deed:
        case "crash":
            os.abort()
        case "exit":
            os._exit(7)
        case "loop":
            while True:
                pass
        case "toil":
            began = time.process_time()
            while time.process_time() < began + 1.0:
                pass
        case "sleep":
            while True:
                time.sleep(1)
        case "eat":
            hoard = []
            while True:
                hoard.append(np.ones(1 << 24, np.uint8))
        case "starve":
            # In a control group with little memory, as on a machine that runs out of it: the kernel kills the process.
            if group := os.environ.get("POISON_CGROUP"):
                Path(group, "cgroup.procs").write_text(str(os.getpid()))
                _do("eat", path)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "print":
            print("to standard output", flush=True)
            os.write(1, b"natively too\n")
            print("to standard error", file=sys.stderr, flush=True)
        case "missing":
            raise RetryError(f"{path} was there a moment ago", kind="file-missing")
        case "raise":
            raise ZeroDivisionError("of the decoder's own")
        case "unplugged":
            raise OSError(errno.EIO, "Input/output error")
        case "ugly":
            raise ValueError("\x1b]0;owned\x07 \udcff\n" + "second line")
        case "no-room":
            # As where the machine has no shared memory left for frames: the memory file cannot grow.
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
