"""What the kernels of an extraction need alone: decoding and the image tower, with nothing around them.

Run as ``python -m pipeline.benchmarks.kernels LIST MODEL FRAMES TOKENS`` it prints the CPU seconds of one run over the
paths in LIST, one a line, as a JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pipeline.engines.sizing import cpus

T = TypeVar("T")


def measure(listing: Path, model: str, frames: int, tokens: str) -> dict[str, float]:
    """CPU seconds of ``decode`` and of ``clip`` (scaling and the tower) over the listed clips, in a process of its
    own."""
    command = [sys.executable, "-m", __name__, str(listing), model, str(frames), tokens]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the kernels failed: {' '.join(done.stderr.split()[-60:])}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_kernels(paths: Sequence[Path], model: str, frames: int, tokens: Sequence[str]) -> dict[str, float]:
    """The same in this process. All cores work at once, as in an extraction: a core alone is faster than one whose
    neighbours are busy too."""
    from stages.clip.config import ClipConfig
    from stages.clip.encoder import ClipEncoder
    from stages.decode import decode_video
    from stages.types import Clip, VideoRef

    encoder = ClipEncoder(ClipConfig(model=model, pretrained="none", num_frames=frames, tokens=tuple(tokens)))
    encoder.setup()
    with ThreadPoolExecutor(cpus()) as threads:
        decode, videos = _cpu(lambda: list(threads.map(lambda path: decode_video(path, frames), paths)))
    clips = [
        Clip(VideoRef(slot, path.stem, str(path)), video)
        for slot, (path, video) in enumerate(zip(paths, videos, strict=True))
    ]
    encoder(clips[:4])  # what the libraries prepare once is no kernel time
    clip, _ = _cpu(lambda: encoder(clips))
    return {"decode": decode, "clip": clip}


def _cpu(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of all threads of this process, and the result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


if __name__ == "__main__":
    listing, model, frames, tokens = sys.argv[1:]
    paths = [Path(line) for line in Path(listing).read_text().splitlines()]
    print(json.dumps(run_kernels(paths, model, int(frames), [name for name in tokens.split(",") if name])))
