"""A thousand bad files: each is decoded, ``partial`` or quarantined with a kind that fits, and no file costs another.

A sample of them runs in the quick suite.
"""

from __future__ import annotations

import pytest
from mutants import Mutant, make_mutants, sources
from shared_data import find_shared
from verdicts import PEAK_BYTES, Verdict, judge

SEED = 0
SOME = pytest.param(60, id="60")
ALL = pytest.param(1000, id="1000", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


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
