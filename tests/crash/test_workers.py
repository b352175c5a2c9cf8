"""Workers that die in the middle of their work: the run ends with the digest of an undisturbed one, and says what was
done again. Each test kills the real process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import faults
import pytest
from extractions import small_config
from runs import digest

from cli.console import as_json
from pipeline.config import ExtractConfig
from pipeline.engines.lanes import UNIT_ATTEMPTS
from pipeline.extraction import extract
from pipeline.summary import Summary
from store import MissingError, StoreError, UsageError

pytestmark = pytest.mark.timeout(150)

# What the summary says of each, and how many units it may hit: two lanes, and CLIP may be at the class names too.
DEATHS = {
    "decoding-process": (r"wave \(left\)/c was decoded once more: the decoding process was killed from outside", 1),
    "decoder": (r"began again: the decoder on node \S+ \(\w{8}\) was lost: its process died", 1),
    "clip": (r"began again: the clip encoder on node \S+ \(\w{8}\) was lost: its process died", 3),
    "pose": (r"began again: the pose encoder on node \S+ \(\w{8}\) was lost: its process died", 2),
}


def config(videos: Path, store: Path, engine: str) -> ExtractConfig:
    return small_config(
        videos, store, engine=engine, decoder="faults:decode", pose="faults:Estimator", pose_frames=8
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    store = tmp_path_factory.mktemp("undisturbed") / "s"
    extract(config(small_videos, store, "inline"))
    return digest(store)


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    faults.use_branches(monkeypatch, faults.MortalBranch)
    monkeypatch.setenv("FAULT_ONCE", str(tmp_path / "once"))
    return monkeypatch


def check(summary: Summary, why: str, most: int, once: Path) -> None:
    assert once.exists(), "nothing was killed"
    assert (summary.executed, summary.done, summary.quarantined) == (7, 6, {"not-a-video": 1})
    assert 1 <= len(summary.retried_units) <= most
    for retry in summary.retried_units:
        assert retry["times"] == len(retry["why"]) == 1
        assert re.match(why, retry["why"][0]), retry
    assert json.loads(as_json(summary.to_dict()))["retried_units"] == summary.retried_units


@pytest.mark.parametrize(
    "fault", [fault if fault == "decoder" else pytest.param(fault, marks=pytest.mark.slow) for fault in DEATHS]
)
def test_a_worker_that_dies_costs_a_repetition(
    small_videos: Path,
    undisturbed: str,
    tmp_path: Path,
    mortal: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    """The summary alone tells of it; standard output is the caller's."""
    mortal.setenv("FAULT", fault)
    summary = extract(config(small_videos, tmp_path / "s", "ray"))
    check(summary, *DEATHS[fault], tmp_path / "once")
    assert capfd.readouterr().out == ""
    assert digest(tmp_path / "s") == undisturbed


def test_a_decoding_process_that_dies_costs_a_repetition_inline(
    small_videos: Path, undisturbed: str, tmp_path: Path, mortal: pytest.MonkeyPatch
) -> None:
    mortal.setenv("FAULT", "decoding-process")
    summary = extract(config(small_videos, tmp_path / "s", "inline"))
    check(summary, *DEATHS["decoding-process"], tmp_path / "once")
    assert digest(tmp_path / "s") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("point", ["array-written:20", "commit-flushed:10"])
def test_a_writer_that_dies_in_the_middle_of_a_unit(
    small_videos: Path, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """A writer dies in the middle of its third unit, of four; its successor would as well."""
    monkeypatch.setenv("VILP_FAILPOINT", point)
    summary = extract(config(small_videos, tmp_path / "s", "ray"))
    assert summary.executed == 7
    assert summary.retried_units
    for retry in summary.retried_units:
        assert all("began again: the writer on node" in why for why in retry["why"])
        assert retry["times"] < UNIT_ATTEMPTS
    assert digest(tmp_path / "s") == undisturbed


@pytest.mark.slow
def test_what_always_kills_its_worker_ends_the_run(
    small_videos: Path, undisturbed: str, tmp_path: Path, mortal: pytest.MonkeyPatch
) -> None:
    mortal.setenv("FAULT", "decoder")
    mortal.delenv("FAULT_ONCE")
    with pytest.raises(StoreError, match=rf"shard \d was begun {UNIT_ATTEMPTS} times.*the decoder on node") as error:
        extract(config(small_videos, tmp_path / "s", "ray"))
    assert error.value.kind == "too-many-failures"
    mortal.delenv("FAULT")
    extract(config(small_videos, tmp_path / "s", "inline"))
    assert digest(tmp_path / "s") == undisturbed


@pytest.mark.slow
def test_an_error_of_a_setup_arrives_as_it_was_raised(
    small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "setup")
    with pytest.raises(UsageError) as error:
        extract(config(small_videos, tmp_path / "s", "ray"))
    assert str(error.value) == "threads is 3; allowed: an even number"
    monkeypatch.delenv("FAULT")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # nowhere on the workers is the decoder's module
    with pytest.raises(MissingError, match="decoder 'faults:decode' cannot be imported") as missing:
        extract(config(small_videos, tmp_path / "s", "ray"))
    assert missing.value.kind == "missing-package"
