"""A table of videos: CSV or Parquet with the columns path, label, split, and optionally group, start and end.

``path`` is relative to the manifest's folder, which is the root; an absolute path is allowed below that folder only.
``label`` is a name, or an integer. ``split`` holds "train", "test" or nothing; several splits are columns ``split1``,
``split2`` and so on. ``group`` says what was cut from one recording (default: the file). ``start`` and ``end`` are
seconds; several rows may name one file where these differ.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.base import (
    ROWS_AT_ONCE,
    TEST,
    TRAIN,
    UNUSED,
    Dataset,
    FileInfo,
    Videos,
    file_info,
    need_videos,
    scan_videos,
    stem,
    video_columns,
)
from store.errors import MissingError, UsageError

HINT = "the paths in it are relative to its folder; put the videos there"
NAMES = ("manifest.csv", "manifest.parquet")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    group: str | None
    splits: tuple[str, ...]
    start: float | None
    end: float | None


def load(root: Path) -> Dataset:
    """``root`` is the manifest, or a folder that holds ``manifest.csv`` or ``manifest.parquet``.

    Rows are read and checked a few thousand at a time and kept as columns, so that a manifest of a million rows takes
    a few hundred megabytes.
    """
    manifest = _find(root)
    folder = manifest.parent
    columns, rows = _read(manifest)
    split_columns = _split_columns(manifest, columns)
    parsed = (_parse(_where(manifest, number), number, values, split_columns, folder) for number, values in rows)
    table = _columns(parsed, len(split_columns))
    if not table.num_rows:
        raise UsageError(f"{manifest} has no rows, only names of columns; give it one row a video")
    _refuse_duplicates(table, manifest)
    class_names = _class_names(table["class_name"])
    files = scan_videos(folder)
    paths = table["path"].combine_chunks().dictionary_encode()
    listed = paths.dictionary.to_pylist()
    known = set(listed)
    # A listed file may have any extension, so the scan need not have seen it.
    found = [files.get(path) or _stat(folder / path) for path in listed]
    on_disk = pa.array([info is not None for info in found])
    for name in ("bytes", "mtime_ns"):
        values = pa.array([None if info is None else getattr(info, name) for info in found], pa.int64())
        table = table.append_column(name, values.take(paths.indices))
    table = table.append_column("label", pc.index_in(table["class_name"], pa.array(class_names)))
    present = table.filter(on_disk.take(paths.indices)).sort_by([("path", "ascending"), ("from", "ascending")])
    dataset = Dataset(
        name="manifest",
        root=folder,
        class_names=class_names,
        num_splits=len(split_columns),
        videos=Videos(_with_ids(present).select(video_columns(len(split_columns)).names)),
        missing=tuple(sorted(path for path, info in zip(listed, found, strict=True) if info is None)),
        unlisted=tuple(path for path in files if path not in known),
        licence="unknown",
        expected_videos=None,
    )
    return need_videos(dataset, f"{folder} for the {table.num_rows:,} rows of {manifest.name}", HINT)


def _columns(rows: Iterator[_Row], num_splits: int) -> pa.Table:
    """Columns of the rows: what the plan takes of them, and ``line``, ``from`` (start, or 0), ``key`` and ``short``, of
    which ids are made."""
    plan = video_columns(num_splits)
    fields = [field for field in plan if field.name not in ("video_id", "label", "bytes", "mtime_ns")]
    own = [("line", pa.int32()), ("from", pa.float64()), ("key", pa.string()), ("short", pa.string())]
    schema = pa.schema([*fields, *own])
    batches = []
    while chunk := list(itertools.islice(rows, ROWS_AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist([_row(row) for row in chunk], schema=schema))
    return pa.Table.from_batches(batches, schema=schema).combine_chunks()


def _row(row: _Row) -> dict[str, Any]:
    cut = _cut(row)
    return {
        "path": row.path,
        "class_name": row.label,
        "source": row.group or row.path,
        **{f"split{number}": subset for number, subset in enumerate(row.splits, start=1)},
        "start": row.start,
        "end": row.end,
        "line": row.line,
        "from": row.start or 0.0,
        "key": row.path + cut,
        "short": stem(row.path) + cut,
    }


def _with_ids(table: pa.Table) -> pa.Table:
    """With ``video_id``: the path without its extension, or with it where two would share one."""
    short = table["short"].combine_chunks().dictionary_encode()
    shared = np.bincount(short.indices.to_numpy(), minlength=1)[short.indices.to_numpy()] > 1
    return table.append_column("video_id", pc.if_else(pa.array(shared), table["key"], table["short"]))


def _find(root: Path) -> Path:
    candidates = [root] if root.is_file() else [root / name for name in NAMES]
    present = [path for path in candidates if path.is_file()]
    if not present:
        looked = " and ".join(map(str, candidates))
        raise MissingError(
            f"no manifest: looked for {looked}; pass --root FILE.csv or FILE.parquet", kind="missing-data"
        )
    if len(present) > 1:
        raise UsageError(f"both {present[0]} and {present[1].name} are there; pass one of them as --root")
    return present[0]


def _where(manifest: Path, number: int) -> str:
    return f"{manifest}, {'row' if manifest.suffix.lower() == '.parquet' else 'line'} {number}"


def _read(manifest: Path) -> tuple[Sequence[str], Iterator[tuple[int, Mapping[str, Any]]]]:
    """Column names, and the values of each row with its number: that of its (last) line in a CSV, from 1 in Parquet."""
    if manifest.suffix.lower() == ".csv":
        return _csv_header(manifest), _csv_rows(manifest)
    if manifest.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(manifest)
        except pa.ArrowInvalid as error:
            raise UsageError(f"{manifest} is not a Parquet file: {error}") from None
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False)
        return file.schema_arrow.names, enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    raise UsageError(f"manifest is {manifest.name!r}; allowed: .csv, .parquet")


@contextlib.contextmanager
def _csv_reader(manifest: Path) -> Iterator[csv.DictReader[str]]:
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            yield reader
        except UnicodeDecodeError:  # in the part that was read ahead, of which the reader knows no line
            _refuse_undecodable(manifest)
            raise
        except csv.Error as error:
            raise UsageError(f"{manifest}, line {reader.line_num + 1} is not CSV: {error}") from None


def _refuse_undecodable(manifest: Path) -> None:
    """Raise ``UsageError`` for the first line that is not UTF-8."""
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{_where(manifest, number)} is not UTF-8 (byte 0x{line[error.start]:02x}); save it as UTF-8"
                ) from None


def _csv_header(manifest: Path) -> Sequence[str]:
    with _csv_reader(manifest) as reader:
        return list(reader.fieldnames or ())


def _csv_rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _csv_reader(manifest) as reader:
        for row in reader:
            if None in row or None in row.values():
                where = _where(manifest, reader.line_num)
                raise UsageError(f"{where} has another number of fields than the header; quote values with commas")
            yield reader.line_num, row


def _split_columns(manifest: Path, columns: Sequence[str]) -> list[str]:
    absent = [name for name in ("path", "label") if name not in columns]
    if absent:
        naming = "; its first line names them, with commas between" if manifest.suffix.lower() == ".csv" else ""
        there = ", ".join(columns) or "none"
        raise UsageError(f"{manifest} has no column {' and '.join(absent)}; the columns are: {there}{naming}")
    numbered = sorted((c for c in columns if re.fullmatch(r"split[1-9]\d*", c)), key=lambda c: int(c[5:]))
    if numbered and numbered != [f"split{number}" for number in range(1, len(numbered) + 1)]:
        raise UsageError(f"{manifest} has the columns {', '.join(numbered)}; number splits from split1 without gaps")
    if ("split" in columns) == bool(numbered):
        raise UsageError(f"{manifest} has the columns {', '.join(columns)}; one split needs split, several split1, ...")
    return numbered or ["split"]


def _parse(where: str, number: int, values: Mapping[str, Any], split_columns: list[str], folder: Path) -> _Row:
    splits = []
    for column in split_columns:
        subset = _text(values.get(column))
        if subset not in (TRAIN, TEST, UNUSED):
            raise UsageError(f"{where}: {column} is {subset!r}; allowed: train, test, or nothing")
        splits.append(subset)
    label = _text(values.get("label"))
    if not label:
        raise UsageError(f"{where}: label is empty; give the name or the number of the class")
    start, end = (_seconds(where, name, values.get(name)) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UsageError(f"{where}: end is {end:g}, start is {start or 0.0:g}; the end must be later (seconds)")
    path = _relative(where, _text(values.get("path")), folder)
    return _Row(number, path, label, _text(values.get("group")) or None, tuple(splits), start, end)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # a Parquet column of integers with gaps, read as floats
        value = int(value)
    return "" if value is None else str(value).strip()


def _seconds(where: str, name: str, value: Any) -> float | None:
    text = _text(value)
    if not text or text == "nan":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"{where}: {name} is {text!r}; allowed: seconds from 0 on, or nothing")
    return seconds


def _relative(where: str, path: str, folder: Path) -> str:
    """``path`` relative to ``folder``, which it may not leave."""
    if not path:
        raise UsageError(f"{where}: path is empty")
    base = os.path.abspath(folder)
    relative = os.path.relpath(os.path.join(base, path), base)
    if relative == os.curdir or relative.split(os.sep)[0] == os.pardir:
        raise UsageError(
            f"{where}: path {path!r} lies outside {base}, the folder of the manifest; move the manifest above all its "
            "videos, and name it there with --root"
        )
    return PurePosixPath(relative).as_posix()


def _refuse_duplicates(table: pa.Table, manifest: Path) -> None:
    keys = table["key"].combine_chunks().dictionary_encode()
    if len(keys.dictionary) == len(keys):
        return
    codes = keys.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    second = int(order[1:][codes[order][1:] == codes[order][:-1]].min())
    first = int(np.flatnonzero(codes == codes[second])[0])
    lines = table["line"]
    raise UsageError(
        f"{_where(manifest, lines[second].as_py())}: {table['path'][second].as_py()!r} stands in "
        f"{_where(manifest, lines[first].as_py())} too; clips of one file need start and end"
    )


def _class_names(labels: pa.ChunkedArray) -> tuple[str, ...]:
    """Sorted by name; by number where all labels are integers."""
    names = pc.unique(labels).to_pylist()
    if all(re.fullmatch(r"\d+", label) for label in names):
        return tuple(sorted(names, key=lambda label: (int(label), label)))
    return tuple(sorted(names))


def _cut(row: _Row) -> str:
    if row.start is None and row.end is None:
        return ""
    return f"@{row.start or 0.0:g}-{'' if row.end is None else f'{row.end:g}'}"


def _stat(path: Path) -> FileInfo | None:
    """A listed file may have any extension, so the scan need not have seen it."""
    return file_info(path) if path.is_file() else None
