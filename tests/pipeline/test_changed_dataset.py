"""A dataset that changed under its plan is noticed, and said in one line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import Vilp
from runs import arguments, digest, make_videos, plain_config

from pipeline.extraction import extract
from store import FeatureStore, StoreError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "videos", each=2)


def test_added_removed_touched_and_changed_videos(videos: Path, vilp: Vilp, tmp_path: Path) -> None:
    store, victim = tmp_path / "s", videos / "jump" / "0.mp4"
    extract(plain_config(videos, store))
    good, data = digest(store), victim.read_bytes()
    shutil.copy(victim, videos / "run" / "later.mp4")
    assert "1 videos are new since the plan was made; add them with --update" in vilp(*arguments(videos, store)).err
    (videos / "run" / "later.mp4").unlink()

    victim.unlink()
    assert "1 videos of the plan are gone, the first 'jump/0'" in vilp(*arguments(videos, store)).err
    sources = vilp("verify", "--store", store, "--sources")
    assert (sources.code, f"{victim} is gone" in sources.out) == (1, True)

    victim.write_bytes(data + b"more")
    resized = vilp(*arguments(videos, store))
    assert (resized.code, "'jump/0'; restore them, or extract into a new store" in resized.line) == (1, True)

    victim.write_bytes(bytes(reversed(data)))
    os.utime(victim, (1, 1))
    (compare,) = re.findall("compare their contents with: vilp-pipe (.*)", vilp(*arguments(videos, store)).err)
    sources = vilp(*shlex.split(compare))
    assert (sources.code, f"{victim} has other contents than" in sources.out) == (1, True)

    victim.write_bytes(data)
    assert vilp("verify", "--store", store, "--sources").code == 0
    assert digest(store) == good


def manifest(videos: Path, *rows: str) -> None:
    (videos / "manifest.csv").write_text("\n".join(("path,label,split", *rows)))


@pytest.mark.parametrize("changed", ["jump/0.mp4,run,train", "jump/0.mp4,jump,test"])
def test_labels_and_splits_that_changed_in_a_manifest_are_noticed(videos: Path, tmp_path: Path, changed: str) -> None:
    others = ["jump/1.mp4,jump,test", "run/0.mp4,run,train", "run/1.mp4,run,test"]
    manifest(videos, "jump/0.mp4,jump,train", *others)
    config = plain_config(videos, tmp_path / "s", dataset="manifest")
    extract(config)
    manifest(videos, changed, *others)
    assert "have another label, source or split" in extract(config).warnings[0]


def test_classes_that_changed_are_named(videos: Path, tmp_path: Path) -> None:
    extract(plain_config(videos, tmp_path / "s"))
    (videos / "jump").rename(videos / "leap")
    with pytest.raises(
        StoreError, match=r"folder with 2 classes was asked for \('leap' is new, 'jump' is gone\); name"
    ):
        extract(plain_config(videos, tmp_path / "s"))


def test_a_file_beside_one_of_the_same_stem_leaves_its_slot_alone(videos: Path, tmp_path: Path) -> None:
    extract(plain_config(videos, tmp_path / "s"))
    shutil.copy(videos / "jump" / "0.mp4", videos / "jump" / "0.avi")
    extract(plain_config(videos, tmp_path / "s", update=True))
    paths = FeatureStore.open(tmp_path / "s").videos["path"].to_pylist()
    assert len(paths) == len(set(paths)) == 5
