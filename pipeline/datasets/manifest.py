"""A table of videos: CSV or Parquet with the columns path, label, split, and optionally group, start and end.

``path`` is relative to the manifest's folder, which is the root; an absolute path is allowed below that folder only.
``label`` is a name, or an integer. ``split`` holds "train", "test" or nothing; several splits are columns ``split1``,
``split2`` and so on. ``group`` says what was cut from one recording (default: the file). ``start`` and ``end`` are
seconds; several rows may name one file where these differ.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datasets.base import (
    TEST,
    TRAIN,
    UNUSED,
    Dataset,
    FileInfo,
    Video,
    file_info,
    need_videos,
    scan_videos,
    stem,
    unique_ids,
)
from store.errors import MissingError, UsageError

HINT = "the paths in it are relative to its folder; put the videos there"
NAMES = ("manifest.csv", "manifest.parquet")


@dataclass(frozen=True)
class _Row:
    where: str
    path: str
    label: str
    group: str | None
    splits: tuple[str, ...]
    start: float | None
    end: float | None


def load(root: Path) -> Dataset:
    """``root`` is the manifest, or a folder that holds ``manifest.csv`` or ``manifest.parquet``."""
    manifest = _find(root)
    folder = manifest.parent
    columns, table = _read(manifest)
    split_columns = _split_columns(manifest, columns)
    rows = [_parse(where, values, split_columns, folder) for where, values in table]
    _refuse_duplicates(rows)
    class_names = _class_names(rows)
    label_of = {name: label for label, name in enumerate(class_names)}
    files = scan_videos(folder)
    found = {row.path: info for row in rows if (info := files.get(row.path) or _stat(folder / row.path)) is not None}
    present = sorted(
        (row for row in rows if row.path in found), key=lambda row: (row.path, row.start or 0.0, row.where)
    )
    ids = unique_ids([row.path + _cut(row) for row in present], [stem(row.path) + _cut(row) for row in present])
    videos = tuple(
        Video(
            video_id,
            row.path,
            label_of[row.label],
            row.label,
            row.group or row.path,
            row.splits,
            row.start,
            row.end,
            found[row.path].bytes,
            found[row.path].mtime_ns,
        )
        for row, video_id in zip(present, ids, strict=True)
    )
    missing = tuple(sorted({row.path for row in rows} - set(found)))
    unlisted = tuple(path for path in files if path not in found)
    dataset = Dataset("manifest", folder, class_names, len(split_columns), videos, missing, unlisted, "unknown", None)
    return need_videos(dataset, f"{folder} for the {len(rows):,} rows of {manifest.name}", HINT)


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


def _read(manifest: Path) -> tuple[Sequence[str], Sequence[tuple[str, Mapping[str, Any]]]]:
    """Column names, and for each row where it stands and its values."""
    if manifest.suffix.lower() == ".csv":
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                rows = [(f"{manifest}, line {reader.line_num}", row) for row in reader]
            except (csv.Error, UnicodeDecodeError) as error:
                raise UsageError(f"{manifest}, line {reader.line_num + 1} is not CSV in UTF-8: {error}") from None
        for where, row in rows:
            if None in row or None in row.values():
                raise UsageError(f"{where} has another number of fields than the header; quote values with commas")
        return list(reader.fieldnames or ()), rows
    if manifest.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(manifest)
        except pa.ArrowInvalid as error:
            raise UsageError(f"{manifest} is not a Parquet file: {error}") from None
        return table.column_names, [
            (f"{manifest}, row {number}", row) for number, row in enumerate(table.to_pylist(), 1)
        ]
    raise UsageError(f"manifest is {manifest.name!r}; allowed: .csv, .parquet")


def _split_columns(manifest: Path, columns: Sequence[str]) -> list[str]:
    numbered = sorted((c for c in columns if re.fullmatch(r"split[1-9]\d*", c)), key=lambda c: int(c[5:]))
    if numbered and numbered != [f"split{number}" for number in range(1, len(numbered) + 1)]:
        raise UsageError(f"{manifest} has the columns {', '.join(numbered)}; number splits from split1 without gaps")
    if ("split" in columns) == bool(numbered):
        raise UsageError(f"{manifest} has the columns {', '.join(columns)}; one split needs split, several split1, ...")
    absent = [name for name in ("path", "label") if name not in columns]
    if absent:
        raise UsageError(f"{manifest} has no column {' and '.join(absent)}; it has {', '.join(columns)}")
    return numbered or ["split"]


def _parse(where: str, values: Mapping[str, Any], split_columns: list[str], folder: Path) -> _Row:
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
    return _Row(where, path, label, _text(values.get("group")) or None, tuple(splits), start, end)


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
        raise UsageError(f"{where}: path {path!r} lies outside {folder}; move the manifest above all its videos")
    return PurePosixPath(relative).as_posix()


def _refuse_duplicates(rows: list[_Row]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for row in rows:
        first = seen.setdefault((row.path, row.start, row.end), row.where)
        if first != row.where:
            raise UsageError(f"{row.where}: {row.path!r} stands in {first} too; clips of one file need start and end")


def _class_names(rows: list[_Row]) -> tuple[str, ...]:
    """Sorted by name; by number where all labels are integers."""
    labels = {row.label for row in rows}
    if all(re.fullmatch(r"\d+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _cut(row: _Row) -> str:
    if row.start is None and row.end is None:
        return ""
    return f"@{row.start or 0.0:g}-{'' if row.end is None else f'{row.end:g}'}"


def _stat(path: Path) -> FileInfo | None:
    """A listed file may have any extension, so the scan need not have seen it."""
    return file_info(path) if path.is_file() else None
