"""Verdicts on bad video files, by decoding processes that cannot read what permission bits forbid."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mutants import Mutant

from stages.decode import DecodeConfig, DecodeOutcome, DecodeWorker
from stages.types import VideoRef

FRAMES = 8

# What a decoding process may have resident at its peak, the libraries and the frames that it shares included.
PEAK_BYTES = 512 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; two runs must agree on all of it."""

    status: str
    message: str
    sha256: str | None
    num_bytes: int | None
    num_decodable: int
    num_claimed: int | None
    frames: str


def verdict(outcome: DecodeOutcome) -> Verdict:
    video, failure = outcome.video, outcome.failure
    if video is None:
        assert failure is not None
        assert failure.message.isprintable()
        assert "/proc/self/fd" not in failure.message
        return Verdict(failure.kind, failure.message, outcome.sha256, outcome.num_bytes, 0, None, "")
    assert video.frames.shape[::3] == (FRAMES, 3)
    assert video.indices.tolist() == [i * video.num_decodable // FRAMES for i in range(FRAMES)]
    pixels = hashlib.sha256(video.frames.tobytes() + video.pts.tobytes()).hexdigest()
    status = "partial" if video.partial else "ok"
    return Verdict(status, "", outcome.sha256, outcome.num_bytes, video.num_decodable, video.num_claimed, pixels)


def judge(mutants: Iterable[Mutant], backend: str) -> tuple[dict[Path, Verdict], int]:
    """A verdict on each mutant, and the peak of the resident memory of the processes that decoded them, in bytes."""
    return where_permission_bits_bite(lambda: _judge(list(mutants), backend))


def _judge(mutants: list[Mutant], backend: str) -> tuple[dict[Path, Verdict], int]:
    refs = [VideoRef(slot, str(slot), str(mutant.path)) for slot, mutant in enumerate(mutants)]
    verdicts: dict[Path, Verdict] = {}
    peak = 0
    with DecodeWorker(DecodeConfig(backend=backend, num_frames=FRAMES, memory_bytes=2 * PEAK_BYTES)) as worker:
        while refs:
            chunk = worker(refs)
            refs = chunk.remaining
            verdicts |= {mutants[outcome.ref.slot].path: verdict(outcome) for outcome in chunk.results}
            if worker._child is not None:  # None where the last video ended it
                peak = max(peak, resident_peak(worker._child.pid))
    return verdicts, peak


def where_permission_bits_bite(deed: Callable[[], T]) -> T:
    """Do it in a thread whose child processes cannot read what permission bits forbid, though they be root's."""
    with ThreadPoolExecutor(1, initializer=_give_up_capabilities) as thread:
        return thread.submit(deed).result()


def _give_up_capabilities() -> None:
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability)  # fails for others than root: bits bite them anyway


def resident_peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
