"""A thousand bad files: each is decoded, ``partial`` or quarantined with a kind that fits, and no file costs another.

A sample of them runs in the quick suite.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutants import Mutant, make_mutants, sources
from shared_data import find_shared

from stages.decode import DecodeConfig, DecodeOutcome, DecodeWorker
from stages.types import VideoRef

FRAMES = 8
SEED = 0

# What a decoding process may have resident at its peak, the libraries and the frames that it shares included.
PEAK_BYTES = 512 << 20

SOME = pytest.param(60, id="60")
ALL = pytest.param(1000, id="1000", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


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
    with ThreadPoolExecutor(1, initializer=permission_bits_bite) as thread:
        return thread.submit(_judge, list(mutants), backend).result()


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


def permission_bits_bite() -> None:
    """What this thread starts from now on cannot read what permission bits forbid, though it be root's."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability)  # fails for others than root: bits bite them anyway


def resident_peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.fixture(scope="module", params=[SOME, ALL])
def mutants(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Mutant]:
    folder, shared = tmp_path_factory.mktemp("mutants"), find_shared()
    originals = sources(folder / "originals", shared and shared / "data")
    made = make_mutants(folder / "mutants", originals, count=request.param, seed=SEED)
    assert len(made) >= request.param
    return made


def test_each_is_judged_fairly_and_twice_the_same(mutants: list[Mutant]) -> None:
    verdicts, peak = judge(mutants, "pyav")
    again, _ = judge(reversed(mutants), "pyav")
    unfit = [
        f"{mutant.family}: {mutant.what}: {found.status}, {found.num_decodable} frames: {found.message}"
        for mutant in mutants
        if not fits(mutant, found := verdicts[mutant.path])
    ]
    assert unfit == []
    assert again == verdicts
    assert peak < PEAK_BYTES


def fits(mutant: Mutant, found: Verdict) -> bool:
    counted = mutant.frames is None or not found.frames or found.num_decodable in mutant.frames
    return found.status in mutant.fits and counted


# decord reserves memory for as many frames as a header or an index claims, and aborts where it gets none.
MISLEADING = ("duration", "size", "flip header", "flip index")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutants", [1000], indirect=True)
def test_decord_refuses_or_agrees(mutants: list[Mutant]) -> None:
    """What decord does not decode exactly is refused; what makes it abort costs itself alone."""
    pytest.importorskip("decord")
    exact, _ = judge(mutants, "pyav")
    verdicts, peak = judge(mutants, "decord")
    again, _ = judge(reversed(mutants), "decord")
    assert again == verdicts
    assert peak < PEAK_BYTES
    for mutant in mutants:
        found, expected = verdicts[mutant.path], exact[mutant.path]
        if found.frames:
            # Its older FFmpeg makes a picture of a packet that is cut, or not.
            assert abs(found.num_decodable - expected.num_decodable) <= 1, mutant
        elif mutant.family in MISLEADING:
            assert found.status in mutant.fits | {"decode-failed", "decoder-crash", "decoder-memory"}, mutant
        else:
            assert found.status in mutant.fits | {"decode-failed"}, mutant
    assert {"decoder-crash", "ok", "partial"} <= {found.status for found in verdicts.values()}
