"""The quarantine report says what the commits say, and is kept as whole as everything else."""

from __future__ import annotations

import shlex
from pathlib import Path

import duckdb
import pyarrow as pa
import stores

from store import FeatureStore
from store.commits import QUARANTINED
from store.layout import QUARANTINE
from store.local import LocalObjects
from store.quarantine import SCHEMA, damaged_reports, next_steps, retry_command, write_report
from store.verify import restore, verify_store


def built(root: Path) -> LocalObjects:
    return stores.build(root, statuses={2: QUARANTINED, 7: QUARANTINED})


def test_the_report_says_which_why_and_how_to_try_again(tmp_path: Path) -> None:
    objects = built(tmp_path / "a store")
    key = write_report(objects, FeatureStore.open(objects.url).quarantined())
    assert key is not None
    rows = duckdb.sql(f"SELECT * FROM '{objects.path(key)}' ORDER BY \"group\", slot").fetchall()
    assert [(row[0], row[1], row[2], row[3], row[6]) for row in rows] == [
        ("v2", "class 0/v2.avi", stores.CLIP.path, "decode-failed", 2),
        ("v7", "class 1/v7.avi", stores.CLIP.path, "decode-failed", 7),
        ("v2", "class 0/v2.avi", stores.POSE.path, "decode-failed", 2),
        ("v7", "class 1/v7.avi", stores.POSE.path, "decode-failed", 7),
    ]
    command = shlex.split(rows[0][7])
    assert command == ["vilp-pipe", "extract", "--store", objects.url, "--retry-quarantined"]


def test_a_group_is_tried_again_with_the_settings_that_the_first_run_had_not() -> None:
    first = {"frames": 4, "pose": "none", "det_weights": None, "templates": ["{}."], "views": ["center"]}
    first["modalities"] = ["clip", "pose", "video", "text"]
    plain = ["vilp-pipe", "extract", "--store", "a s", "--retry-quarantined"]
    assert shlex.split(retry_command("a s", first, first)) == plain
    later = {**first, "pose": "onnx", "det_weights": "/a b/d.onnx", "modalities": ["pose"], "engine": "inline"}
    words = ["--modality", "pose", "--pose", "onnx", "--det-weights", "/a b/d.onnx"]
    assert shlex.split(retry_command("a s", later, first)) == [*plain[:4], *words, plain[-1]]
    onnx = {**first, "pose": "onnx", "det_weights": "/d", "pose_weights": "/p"}
    words = ["--pose", "mmpose", "--det-weights", "/d"]
    assert shlex.split(retry_command("a s", {**onnx, "pose": "mmpose", "pose_weights": None}, onnx))[4:-1] == words
    other = {**onnx, "pose_config": "rtmo", "pose_weights": None}
    assert shlex.split(retry_command("a s", other, onnx))[4:-1] == ["--det-weights", "/d", "--pose-config", "rtmo"]
    later = {**first, "views": ["center", "flip"], "templates": ["a {}.", "b {}."], "frames": 8}
    words = ["--frames", "8", "--views", "center,flip", "--templates", "a {}.|b {}."]
    assert shlex.split(retry_command("a s", later, first)) == [*plain[:4], *words, plain[-1]]
    later = {**first, "modalities": ["posefeat"], "posefeat": ["/train.pkl", "/test.pkl"], "posefeat_split": 2}
    words = ["--modality", "posefeat", "--posefeat", "/train.pkl", "--posefeat", "/test.pkl", "--posefeat-split", "2"]
    assert shlex.split(retry_command("a s", later, first)) == [*plain[:4], *words, plain[-1]]


def test_what_can_be_done_is_said() -> None:
    def steps(*rows: tuple[str, str]) -> list[str]:
        found = [{"kind": kind, "retry": retry} for kind, retry in rows]
        return next_steps(pa.Table.from_pylist(found, schema=pa.schema([SCHEMA.field("kind"), SCHEMA.field("retry")])))

    again = ["to try these again: one", "to try these again: two"]
    assert steps(("not-a-video", "one"), ("no-frames", "two"), ("no-frames", "one")) == again
    (mend,) = steps(("pose-unmatched", "one"))
    assert "until the file of poses is mended" in mend
    assert steps(("pose-unmatched", "two"), ("no-frames", "one")) == [again[0], mend]
    assert steps() == []


def test_one_report_is_kept_and_none_where_nothing_is_quarantined(tmp_path: Path) -> None:
    objects = built(tmp_path / "s")
    table = FeatureStore.open(objects.url).quarantined()
    keys = [write_report(objects, table), write_report(objects, table), write_report(objects, table.slice(0, 1))]
    assert keys[0] == keys[1] != keys[2]
    assert list(objects.list(QUARANTINE)) == [keys[2]]
    assert write_report(objects, table.slice(0, 0)) is None
    assert list(objects.list(QUARANTINE)) == []


def test_a_damaged_report_is_found_and_cleared_away(tmp_path: Path) -> None:
    objects = built(tmp_path / "s")
    digest = verify_store(objects).digest
    key = write_report(objects, FeatureStore.open(objects.url).quarantined())
    assert key is not None
    assert verify_store(objects).digest == digest
    data = objects.get(key) or b""
    for position in (0, len(data) // 2, len(data) - 1):
        objects.put(key, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert damaged_reports(objects) == [key]
        report = verify_store(objects)
        assert [problem.key for problem in report.problems] == [key]
    assert restore(objects, report) == []
    assert verify_store(objects).digest == digest
