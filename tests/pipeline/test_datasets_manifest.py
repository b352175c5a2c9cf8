"""The manifest: both formats, clips cut from one file, and row numbers in errors."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import load_dataset
from store.errors import MissingError, UsageError


def write(folder: Path, text: str, *files: str, name: str = "manifest.csv") -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / name).write_text(text)
    return folder / name


def test_csv(tmp_path):
    text = 'path,label,split,group\n"b, c.mp4",run,test,\na.mp4,jump,train,film\nx/gone.mp4,jump,train,\n'
    manifest = write(tmp_path, text, "a.mp4", "b, c.mp4", "x/extra.avi")
    dataset = load_dataset("manifest", manifest)
    assert [(v.video_id, v.path, v.label, v.class_name, v.source, v.splits, v.start) for v in dataset.videos] == [
        ("a", "a.mp4", 0, "jump", "film", ("train",), None),
        ("b, c", "b, c.mp4", 1, "run", "b, c.mp4", ("test",), None),
    ]
    assert dataset.missing == ("x/gone.mp4",)
    assert dataset.unlisted == ("x/extra.avi",)
    assert load_dataset("manifest", tmp_path) == dataset


def test_parquet_with_several_splits_numbers_for_labels_and_cuts(tmp_path):
    table = pa.table(
        {
            "path": ["a.mp4", "a.mp4", "b.mp4"],
            "label": [10, 9, 9],
            "split1": ["train", "test", "train"],
            "split2": ["test", None, "train"],
            "start": [0.0, 2.5, None],
            "end": [2.5, None, None],
        }
    )
    write(tmp_path, "", "a.mp4", "b.mp4", name="unused.txt")
    pq.write_table(table, tmp_path / "clips.parquet")
    dataset = load_dataset("manifest", tmp_path / "clips.parquet")
    assert dataset.class_names == ("9", "10")
    assert [(v.video_id, v.label, v.splits, v.start, v.end, v.source) for v in dataset.videos] == [
        ("a@0-2.5", 1, ("train", "test"), 0.0, 2.5, "a.mp4"),
        ("a@2.5-", 0, ("test", ""), 2.5, None, "a.mp4"),
        ("b", 0, ("train", "train"), None, None, "b.mp4"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label,split\na.mp4,run,train\na.mp4,run,test\n", r"line 3: 'a\.mp4' stands in .*line 2 too"),
        ("path,label,split\na.mp4,run,val\n", r"line 2: split is 'val'; allowed: train, test"),
        ("path,label,split\na.mp4,,train\n", r"line 2: label is empty"),
        ("path,label,split\n,run,train\n", r"line 2: path is empty"),
        ("path,label,split\n../a.mp4,run,train\n", r"line 2: path '\.\./a\.mp4' lies outside"),
        ("path,label,split\n/etc/a.mp4,run,train\n", r"'/etc/a\.mp4' lies outside /.*; .* name it there with --root"),
        ("path,label,split\na.mp4,run\n", r"line 2 has another number of fields"),
        ("path,label,split,start,end\na.mp4,run,train,2,1\n", r"line 2: end is 1, start is 2"),
        ("path,label,split,start\na.mp4,run,train,-1\n", r"line 2: start is '-1'; allowed: seconds"),
        ("path,label,split,start\na.mp4,run,train,soon\n", r"line 2: start is 'soon'"),
        ("path,split\na.mp4,train\n", r"no column label; the columns are: path, split; its first line names them"),
        (
            "path;label;split\na.mp4;run;train\n",
            r"no column path and label; the columns are: path;label;split; .*",
        ),
        ("a.mp4,run,train\n", r"no column path and label; the columns are: a\.mp4, run, train; its first line names"),
        ("", r"no column path and label; the columns are: none; its first line names them, with commas"),
        ("path,label,split\n", r"has no rows, only names of columns; give it one row a video"),
        ("path,label\na.mp4,run\n", r"one split needs split"),
        ("path,label,split1,split3\na.mp4,run,train,test\n", r"without gaps"),
    ],
)
def test_wrong_rows_are_named(tmp_path, text, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_dataset("manifest", write(tmp_path, text, "a.mp4"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 5000])
def test_the_line_that_is_not_utf8_is_named(tmp_path, number):
    lines = [b"path,label,split", *(b"a%d.mp4,run,train" % row for row in range(6000))]
    lines[number - 1] += b"\xe9"
    (tmp_path / "manifest.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(UsageError, match=rf"manifest\.csv, line {number} is not UTF-8 \(byte 0xe9\); save it"):
        load_dataset("manifest", tmp_path)


def test_absolute_paths_below_the_manifest_are_allowed(tmp_path):
    manifest = write(tmp_path, f"path,label,split\n{tmp_path}/x/a.mp4,run,train\n", "x/a.mp4")
    assert load_dataset("manifest", manifest).videos[0].path == "x/a.mp4"


def test_other_files(tmp_path):
    with pytest.raises(UsageError, match=r"'list\.txt'; allowed: \.csv, \.parquet"):
        load_dataset("manifest", write(tmp_path, "", name="list.txt"))
    with pytest.raises(UsageError, match="not a Parquet file"):
        load_dataset("manifest", write(tmp_path, "hello", name="x.parquet"))
    with pytest.raises(MissingError, match=r"for the 1 rows.*1 listed videos are missing"):
        load_dataset("manifest", write(tmp_path, "path,label,split\na.mp4,run,train\n"))
