"""Exports, read back with tarfile, json, numpy and pandas alone."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import s3server
import stores

from pipeline.export import export
from store import FeatureStore, MissingError, StoreError, UsageError
from store.commits import PARTIAL, QUARANTINED
from store.local import LocalObjects
from store.objects import open_objects
from store.schema import ArraySpec, Modality

STATUSES = {1: PARTIAL, 5: QUARANTINED}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    stores.build(tmp_path / "s", the_plan=stores.plan(14), statuses=STATUSES)
    return FeatureStore.open(tmp_path / "s")


def read_tars(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members by sample and extension, as WebDataset groups them: neighbours with one name up to the first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        before = None
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                assert key == before or key not in samples, "members of a sample stand apart"
                file = tar.extractfile(member)
                assert file is not None
                assert extension not in samples.setdefault(key, {})
                samples[key][extension] = file.read()
                before = key
    return samples


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_webdataset_holds_what_the_store_holds(store: FeatureStore, tmp_path: Path) -> None:
    done = export(store, tmp_path / "out", shard_bytes=40_000)
    samples = read_tars(tmp_path / "out")
    whole = store.load()
    assert (done.videos, done.left_out, done.present) == (len(samples), 1, 0) == (13, 1, 0)
    assert done.files == len(list((tmp_path / "out").glob("*.tar"))) > 1
    seen = set()
    for sample in samples.values():
        facts = json.loads(sample["json"])
        row = whole.video_ids.index(facts["video_id"])
        seen.add(row)
        for name in ("cls", "value", "keypoints", "boxes"):
            values = np.load(io.BytesIO(sample[f"{name}.npy"]))
            assert values.dtype == whole[name].numpy().dtype
            np.testing.assert_array_equal(values, whole[name][row].numpy())
        assert int(sample["cls"]) == facts["label"] == whole.labels[row]
        assert facts["class_name"] == store.class_names[facts["label"]]
        assert facts["split1"] == ("test" if facts["slot"] % 3 == 0 else "train")
        assert facts["status"] == ("partial" if facts["slot"] == 1 else "ok")
        assert (facts["width"], facts["height"]) == (320, 240)
    assert len(seen) == 13


def test_npy_files_and_their_index(store: FeatureStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", to="npy", split=1, subset="test", arrays=("cls", "keypoints"), frames=2)
    whole = store.load(split=1, subset="test", arrays=("cls", "keypoints"), frames=2)
    index = pd.read_parquet(tmp_path / "out" / "index.parquet")
    assert index.video_id.tolist() == list(whole.video_ids)
    assert index.label.tolist() == whole.labels.tolist()
    for name in ("cls", "keypoints"):
        values = np.stack([np.load(tmp_path / "out" / file) for file in index[f"{name}_file"]])
        np.testing.assert_array_equal(values, whole[name].numpy())
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["arrays"]["cls"]["shape"] == [1, 2, 6]
    assert about["pose_frames"] == [0, 6]
    assert about["class_names"] == ["a", "b"]


@pytest.mark.parametrize("to", ["webdataset", "npy"])
def test_class_names_come_with_features_of_clip(store: FeatureStore, tmp_path: Path, to: str) -> None:
    done = export(store, tmp_path / "out", to=to, arrays=("cls",))
    about = json.loads((tmp_path / "out" / "export.json").read_text())["texts"]
    assert done.texts == tuple(about)
    (name,) = done.texts
    whole = store.text()
    assert about[name]["logit_scale"] == whole.logit_scale
    assert about[name]["class_names"] == list(whole.class_names)
    for array, facts in about[name]["arrays"].items():
        values = np.load(tmp_path / "out" / "text" / name / f"{array}.npy")
        np.testing.assert_array_equal(values, getattr(whole, array).numpy())
        assert (list(values.shape), str(values.dtype)) == (facts["shape"], facts["dtype"])
    (tmp_path / "out" / "text" / name / "token_kinds.npy").unlink()
    whole_again = export(store, tmp_path / "out", to=to, arrays=("cls",))
    assert (tmp_path / "out" / "text" / name / "token_kinds.npy").exists()
    assert whole_again.texts == (name,)
    assert export(store, tmp_path / "poses", to=to, arrays=("keypoints",)).texts == ()
    assert not (tmp_path / "poses" / "text").exists()


def test_a_store_without_class_names_exports_its_features(tmp_path: Path) -> None:
    stores.build(tmp_path / "s", modalities=(stores.CLIP,))
    objects = LocalObjects(tmp_path / "s")
    for key in [key for key in objects.list() if "/commits/" in key and "/text/" in key]:
        objects.delete(key)
    assert export(FeatureStore.open(tmp_path / "s"), tmp_path / "out").texts == ()


def test_the_index_of_tars_says_where_each_video_is(store: FeatureStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", shard_bytes=40_000)
    for row in pd.read_parquet(tmp_path / "out" / "index.parquet").itertuples():
        with tarfile.open(tmp_path / "out" / row.file) as tar:
            assert f"{row.key}.cls" in tar.getnames()


def test_tars_mix_classes_unless_told_otherwise(store: FeatureStore, tmp_path: Path) -> None:
    for shuffle in (True, False):
        export(store, tmp_path / str(shuffle), shuffle=shuffle)
    mixed, kept = (list(read_tars(tmp_path / str(shuffle))) for shuffle in (True, False))
    assert sorted(mixed) == kept != mixed


@pytest.mark.parametrize("size", [1, 40_000, 10**9])
def test_tars_have_about_the_size_that_is_asked_for(store: FeatureStore, tmp_path: Path, size: int) -> None:
    export(store, tmp_path / "out", arrays=("keypoints",), shard_bytes=size)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) == {1: 13, 40_000: 3, 10**9: 1}[size]
    assert size == 1 or max(sizes) <= size + tarfile.RECORDSIZE


@pytest.mark.parametrize(
    ("to", "point", "count"),
    [
        ("webdataset", "object-written", 3),
        pytest.param("webdataset", "object-flushed", 2, marks=pytest.mark.slow),
        pytest.param("webdataset", "object-renamed", -1, marks=pytest.mark.slow),
        pytest.param("npy", "object-written", 3, marks=pytest.mark.slow),
        pytest.param("npy", "object-renamed", -1, marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_after_a_kill(store: FeatureStore, tmp_path: Path, to: str, point: str, count: int) -> None:
    options: dict[str, Any] = {"to": to, "arrays": ("cls",), "shard_bytes": 10_000}
    export(store, tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")
    out = tmp_path / "out"
    code = (
        "import sys; from pipeline.export import export; from store import FeatureStore;"
        "export(FeatureStore.open(sys.argv[1]), sys.argv[2], to=sys.argv[3], arrays=('cls',), shard_bytes=10_000)"
    )
    where = {"VILP_FAILPOINT": f"{point}:{count % len(whole)}"}  # -1: the last but the index
    ended = subprocess.run([sys.executable, "-c", code, store.url, str(out), to], env={**os.environ, **where})
    assert ended.returncode == -signal.SIGKILL
    assert not (out / "index.parquet").exists()
    left = contents(out)
    assert len(left) >= 2 or point != "object-renamed"
    export(store, out, **options)
    assert contents(out) == whole


def test_what_is_there_is_not_written_again(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(store, out, shard_bytes=20_000)
    gone = sorted(out.glob("*.tar"))[1]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if path != gone}
    gone.unlink()
    done = export(store, out, shard_bytes=20_000)
    assert done.files - done.present == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert gone.exists()


@pytest.mark.parametrize(
    "change",
    [{"arrays": ("cls",)}, {"split": 1}, {"frames": 2}, {"shard_bytes": 30_000}, {"to": "npy"}, {"shuffle": False}],
)
def test_another_export_is_not_mixed_into_one(store: FeatureStore, tmp_path: Path, change: dict[str, Any]) -> None:
    export(store, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="holds an export of other features or with other settings"):
        export(store, tmp_path / "out", **change)
    assert contents(tmp_path / "out") == before


def test_features_that_changed_are_another_export(store: FeatureStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", split=1, subset="train")
    stores.build(tmp_path / "t", the_plan=stores.plan(14), statuses={})
    with pytest.raises(UsageError, match="other features"):
        export(FeatureStore.open(tmp_path / "t"), tmp_path / "out", split=1, subset="train")


def test_a_folder_with_other_things_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty \('thesis.txt'\)"):
        export(store, tmp_path / "out")
    with pytest.raises(UsageError, match="holds no export"):
        export(store, tmp_path / "s")
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine"}


HOSTILE = (
    *("../../escaped", "/etc/passwd", "a/../../b", "..", ".", "con", "v.npy", "a.b.c", "-rf", "x" * 500),
    *("line\nbreak", "\x1b[2Jgone", "<b>bold</b>", "имя видео", "\u202egnp.exe"),
)


@pytest.mark.parametrize("to", ["webdataset", "npy"])
def test_names_cannot_leave_the_folder(tmp_path: Path, to: str) -> None:
    plan = stores.plan(len(HOSTILE))
    videos = plan.videos.set_column(1, "video_id", pa.array(HOSTILE))
    stores.build(tmp_path / "s", the_plan=stores.plan(len(HOSTILE)).__class__(**{**vars(plan), "videos": videos}))
    export(FeatureStore.open(tmp_path / "s"), tmp_path / "in" / "out", to=to)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"out"}
    names = list(contents(tmp_path / "in" / "out"))
    assert all(
        re.fullmatch(r"(text/plain-[0-9a-f]{8}/|[a-z]+/)?[a-z0-9_-]+\.(npy|tar|json|parquet)", name) for name in names
    )
    if to == "webdataset":
        samples = read_tars(tmp_path / "in" / "out")
        assert all(re.fullmatch(r"[0-9]{8}-[a-z0-9-]{1,60}", key) for key in samples)
        assert {json.loads(sample["json"])["video_id"] for sample in samples.values()} == set(HOSTILE)
    assert pd.read_parquet(tmp_path / "in" / "out" / "index.parquet").video_id.tolist() == list(HOSTILE)


def test_a_store_with_a_path_for_an_array_is_refused(tmp_path: Path) -> None:
    odd = Modality("clip", "odd", {"num_frames": 1, "views": ["center"]}, {"x..y": ArraySpec((1,), "float16", ("a",))})
    stores.build(tmp_path / "deep" / "s", modalities=(odd,))
    with pytest.raises(StoreError, match="names an array"):
        export(FeatureStore.open(tmp_path / "deep" / "s"), tmp_path / "out")


def test_to_a_bucket(store: FeatureStore, tmp_path: Path, s3: s3server.S3Server) -> None:
    url = f"s3://{s3server.BUCKET}/export"
    export(store, url, shard_bytes=40_000)
    export(store, tmp_path / "out", shard_bytes=40_000)
    place = open_objects(url)
    assert {key: place.get(key) for key in place.list()} == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"to": "hdf5"}, UsageError, "format is 'hdf5'; allowed: webdataset, npy"),
        ({"shard_bytes": 0}, UsageError, "shard-size is 0 bytes"),
        ({"arrays": ("nothing",)}, UsageError, "arrays is 'nothing'; allowed"),
        ({"subset": "train"}, UsageError, "no split is named"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_made(
    store: FeatureStore, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        export(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_selection_without_features_says_so(tmp_path: Path) -> None:
    stores.build(tmp_path / "s", shards=())
    with pytest.raises(MissingError, match="no video of the selection has features"):
        export(FeatureStore.open(tmp_path / "s"), tmp_path / "out")


def test_a_damaged_store_gives_no_file(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"{stores.CLIP.path}/cls/c.1.0.0.0"
    objects = LocalObjects(store.url)
    data = bytearray(objects.get(key) or b"")
    data[5] ^= 1
    objects.put(key, bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        export(store, tmp_path / "out", arrays=("cls",), shuffle=False, shard_bytes=4_000)
    assert not (tmp_path / "out" / "index.parquet").exists()


def test_memory_does_not_grow_with_the_store(tmp_path: Path, peak_of: Callable[[Callable[[], object]], int]) -> None:
    wide = Modality(
        "clip",
        "wide",
        {"num_frames": 1, "views": ["center"]},
        {"cls": ArraySpec((1, 1, 1 << 16), "float32", ("view", "frame", "channel"))},
    )
    stores.build(tmp_path / "s", modalities=(wide,), the_plan=stores.plan(192))  # 48 MB
    opened = FeatureStore.open(tmp_path / "s")
    assert peak_of(lambda: export(opened, tmp_path / "small", shard_bytes=2 << 20)) < 12 << 20
    assert peak_of(lambda: export(opened, tmp_path / "large", shard_bytes=64 << 20)) > 40 << 20


@pytest.fixture
def peak_of() -> Callable[[Callable[[], object]], int]:
    """Peak of what Python and numpy allocate while a function runs, in bytes."""
    import tracemalloc

    def peak(call: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return peak
