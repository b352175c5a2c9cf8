"""``delete``, ``gc``, ``copy`` and ``merge`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import fixture_store
import pytest
import stores
from commands import Vilp
from fixture_store import CLIP, POSE, TEXT
from runs import arguments, make_videos

from store import FeatureStore
from store.local import LocalObjects


def test_delete(run: Vilp, tmp_path: Path) -> None:
    fixture_store.build(LocalObjects(tmp_path / "stores" / "mine"))
    planned = json.loads(run("delete", "clip/made", "--dry-run", "--json").out)
    assert (planned["dry_run"], planned["groups"], planned["unused_frames"]) == (True, [TEXT.path, CLIP.path], [])
    shown = run("delete", "clip/made", "--dry-run")
    assert f"{CLIP.path}: would be deleted" in shown.out
    done = json.loads(run("delete", "clip/made", "--json").out)
    assert done == {**planned, "dry_run": False}
    assert json.loads(run("verify", "--json").out)["ok"]
    again = run("delete", "clip/made")
    assert (again.code, again.out) == (1, "")
    assert f"group is 'clip/made'; this store has: frames/t4-pyav-0b288320, {POSE.path}" in again.err


def test_a_group_whose_setup_failed_shows_and_can_be_deleted(
    vilp: Vilp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, store = make_videos(tmp_path / "videos", each=1), tmp_path / "s"
    monkeypatch.setenv("FAULT", "setup")
    assert vilp(*arguments(videos, store, "--pose", "faults:Estimator")).code == 2
    lines = vilp("status", "--store", store).out.splitlines()
    empty = [lines[number - 1].split() for number, line in enumerate(lines) if "holds nothing yet" in line]
    assert [(kind, committed, left) for kind, committed, _, _, left, _ in empty] == [
        (path, "0", "2") for path in FeatureStore.open(store).groups
    ]
    pose = FeatureStore.open(store).group("pose").path
    assert f"remove it with: vilp-pipe delete {pose} --store {store}" in "\n".join(lines)
    assert vilp("delete", pose, "--store", store).code == 0
    assert [path.partition("/")[0] for path in FeatureStore.open(store).groups] == ["frames"]
    assert vilp("delete", "frames/t4", "--store", store).code == 0
    assert FeatureStore.open(store).groups == {}
    assert vilp("verify", "--store", store).code == 0


def test_gc(run: Vilp, tmp_path: Path) -> None:
    objects = fixture_store.build(LocalObjects(tmp_path / "s"))
    orphan = f"{POSE.path}/boxes/c.2.0.0.0"
    objects.put(orphan, b"x")
    objects.put("README.md", b"mine")
    shown = run("gc", "--store", "s", "--dry-run")
    assert shown.out.splitlines() == [
        f"would remove {orphan}: array without a commit",
        "left alone README.md: not known to be part of a store",
        f"1 objects would be removed from {tmp_path / 's'}",
    ]
    found = json.loads(run("gc", "--store", "s", "--json").out)
    assert [gone["key"] for gone in found["orphans"]] == [orphan]
    assert found["strangers"] == ["README.md"]
    assert objects.get(orphan) is None


def test_copy_and_merge(run: Vilp, tmp_path: Path) -> None:
    digest = json.loads(run("verify", "--store", stores.build(tmp_path / "whole").url, "--json").out)["digest"]
    stores.build(tmp_path / "a b", shards=(0, 2))
    stores.build(tmp_path / "c", shards=(1,))
    copied = json.loads(run("copy", "a b", "d e", "--json").out)
    assert (copied["sources"], copied["destination"], copied["shards"]) == (["a b"], "d e", 5)
    assert "6 shards brought to f" not in run("copy", "a b", "d e").out
    merged = run("merge", "d e", "c", "f g")
    assert merged.out.splitlines()[0].startswith("7 shards brought to f g, 0 were there, new groups: clip/")
    assert merged.out.splitlines()[1].endswith("vilp-pipe verify --store 'f g'")
    assert json.loads(run("verify", "--store", "f g", "--json").out)["digest"] == digest


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["copy", "nowhere", "x"], 1, "no feature store at"),
        (["merge", "s", "s"], 2, "is named twice"),
        (["merge", "s", "other"], 1, "have different plans: the number of videos is 10 and 9"),
        (["copy", "s", "more"], 1, "have different plans: the number of videos is 10 and 9"),
        (["gc", "--store", "nowhere"], 1, "no feature store"),
        (["delete", "pose/nothing", "--store", "s"], 1, "this store has"),
        (["copy", "s", "gs://bucket/x"], 2, "allowed: a directory, or s3://bucket/prefix"),
    ],
)
def test_an_error_is_one_line(run: Vilp, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    stores.build(tmp_path / "s", shards=(0,))
    stores.build(tmp_path / "other", shards=(0,), the_plan=stores.plan(9))
    stores.build(tmp_path / "more", the_plan=stores.plan(9))
    outcome = run(*arguments)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (code, "", 1)
    assert words in outcome.err
