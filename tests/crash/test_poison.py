"""Poisonous videos: each costs exactly itself, on either engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from extractions import limit_decoders, pose_config
from videos import numbered_frames, write_video

from pipeline.extraction import extract
from store import FeatureStore
from store.local import LocalObjects
from store.verify import verify_store

DEEDS = {"crash": "decoder-crash", "loop": "decoder-timeout", "eat": "decoder-memory"}
ENGINES = ["inline", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    root = tmp_path / "good"
    for name in ("run", "jump"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            write_video(root / name / f"f{number}.mp4", numbered_frames(5 + number, 64, 48))
    return root


@pytest.fixture
def poisoned(good: Path, tmp_path: Path) -> Path:
    """The good videos, and among them one for each deed."""
    root = tmp_path / "poisoned"
    for path in good.rglob("*.mp4"):
        target = root / path.relative_to(good)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for deed in DEEDS:
        write_video(root / "run" / f"{deed} .mp4", numbered_frames(5, 64, 48))
    return root


@pytest.mark.parametrize("engine", ENGINES)
def test_poison_costs_exactly_itself(
    good: Path, poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    # Far more CPU time than a start and the good videos take, so that a slow machine condemns none of them.
    limit_decoders(monkeypatch, memory_bytes=300 << 20)
    settings = {"engine": engine, "decoder": "poison:marked", "decode_seconds": 1.0, "shard_len": 4}
    extract(pose_config(good, tmp_path / "clean", **settings))
    summary = extract(pose_config(poisoned, tmp_path / "s", **settings))
    assert summary.quarantined == dict.fromkeys(DEEDS.values(), 1)
    assert {Path(failure["video_id"]).name.strip(): failure["kind"] for failure in summary.failures} == DEEDS
    clean, found = FeatureStore.open(tmp_path / "clean").load(), FeatureStore.open(tmp_path / "s").load()
    assert sorted(found.video_ids) == sorted(clean.video_ids)
    rows = [found.video_ids.index(name) for name in clean.video_ids]
    for name, values in clean.tensors.items():
        np.testing.assert_array_equal(found[name][rows].numpy(), values.numpy())
    assert verify_store(LocalObjects(tmp_path / "s")).digest


def test_what_took_too_long_is_decoded_where_it_may(good: Path, tmp_path: Path) -> None:
    write_video(good / "run" / "toil .mp4", numbered_frames(5, 64, 48))
    config = pose_config(good, tmp_path / "s", decoder="poison:marked", decode_seconds=0.5)
    summary = extract(config)
    assert summary.quarantined == {"decoder-timeout": 1}
    assert "raise --decode-seconds" in summary.failures[0]["message"]
    again = extract(dataclasses.replace(config, decode_seconds=60.0, retry_quarantined=True))
    assert (again.executed, again.done) == (1, 1)
