"""Class scores of videos as mmaction2 dumps them when it tests: one pickle, in one of two layouts.

* a list with a dictionary a video (mmaction2 1.x): ``pred_score`` [C], or ``pred_scores`` with it under ``item``,
  and the true class as ``gt_label`` or ``gt_labels``;
* a list with an array [C] a video (0.x).

Neither need name its videos: they come in the order of the annotations that were tested, which a second file holds: a
skeleton pickle of mmaction2 (of one of its splits), a list of annotations, or a text file whose lines begin with names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.imports.pickles import load_pickle
from store.errors import MissingError, UsageError

# Where a dictionary may name its video.
_NAMES = ("frame_dir", "video_id", "filename")


@dataclass(frozen=True)
class ClassScores:
    """Scores of one video: ``values`` float64 [C], and its true class as the file counts them; None where it does not
    say."""

    values: np.ndarray
    label: int | None


def read_scores(path: Path, annotations: Path | None = None) -> dict[str, ClassScores]:
    """Scores by name of video (the last part of its path, without suffix). Raises ``UsageError`` for a file that is in
    neither layout, holds scores that are not finite, or does not fit its annotations, ``MissingError`` where a file is
    not there, or none tells the names."""
    for file in (path, annotations):
        if file is not None and not file.is_file():
            raise MissingError(f"no file {file}; name class scores that mmaction2 dumped", kind="missing-data")
    content = load_pickle(path)
    if not isinstance(content, list) or not content:
        raise UsageError(f"{path} holds no list of scores; name a file that mmaction2 dumped when it tested")
    scores = [_scores(path, entry) for entry in content]
    lengths = {len(entry.values) for entry in scores}
    if len(lengths) > 1:
        raise UsageError(f"{path} holds scores of {min(lengths)} and of {max(lengths)} classes; allowed: one number")
    names: Sequence[str | None] = [_own_name(entry) for entry in content]
    if not all(names):
        if annotations is None:
            raise MissingError(
                f"{path} does not name its videos; give the annotations that were tested with --late-annotations",
                kind="missing-data",
            )
        names = _in_order(annotations, scores)
    found = {str(name): entry for name, entry in zip(names, scores, strict=True)}
    if len(found) < len(names):
        raise UsageError(
            f"{path} has scores of {len(names)} videos with {len(found)} names; allowed: one entry a video"
        )
    return found


def _scores(path: Path, entry: Any) -> ClassScores:
    label = None
    if isinstance(entry, Mapping):
        values = _item(next((entry[key] for key in ("pred_score", "pred_scores") if key in entry), None))
        truth = _item(next((entry[key] for key in ("gt_label", "gt_labels") if key in entry), None))
        label = None if truth is None else int(np.asarray(truth).ravel()[0])
    else:
        values = entry
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise UsageError(
            f"{path}: an entry is no list of finite scores, one a class; name a file that mmaction2 dumped"
        )
    return ClassScores(array, label)


def _item(value: Any) -> Any:
    return value.get("item") if isinstance(value, Mapping) else value


def _own_name(entry: Any) -> str | None:
    named = [entry[key] for key in _NAMES if key in entry] if isinstance(entry, Mapping) else []
    return _stem(str(named[0])) if named else None


def _stem(name: str) -> str:
    """A name without folder and suffix; names of HMDB51 hold dots that are none."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.lower() in ("avi", "mp4", "mkv", "webm", "mov") else last


def _in_order(path: Path, scores: Sequence[ClassScores]) -> list[str]:
    """Names of the annotations that the scores are of: of the one list that has their number and their classes."""
    fitting = [
        entries
        for entries in _lists(path)
        if len(entries) == len(scores)
        and all(_agree(one[1], own.label) for one, own in zip(entries, scores, strict=True))
    ]
    names = {tuple(_stem(name) for name, _ in entries) for entries in fitting}
    if len(names) != 1:
        counts = ", ".join(str(len(entries)) for entries in _lists(path)) or "none"
        raise UsageError(
            f"{path} has {len(names)} lists of {len(scores)} videos with the classes of the scores (its lists have: "
            f"{counts}); give the list that was tested, as a text file with a name a line"
        )
    return list(names.pop())


def _agree(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _lists(path: Path) -> Iterator[list[tuple[str, int | None]]]:
    """Names and classes of the videos of every list of a file of annotations."""
    if path.suffix in (".txt", ".csv"):
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        yield [(line[0], int(line[-1]) if len(line) > 1 and line[-1].isdecimal() else None) for line in lines]
        return
    content = load_pickle(path)
    annotations = content.get("annotations") if isinstance(content, Mapping) else content
    if not isinstance(annotations, list) or not all(isinstance(a, Mapping) and "frame_dir" in a for a in annotations):
        raise UsageError(f"{path} holds no list of annotations; name a skeleton pickle of mmaction2, or a text file")
    entries = [(str(a["frame_dir"]), None if a.get("label") is None else int(a["label"])) for a in annotations]
    splits = content.get("split", {}) if isinstance(content, Mapping) else {}
    yield from ([entry for entry in entries if entry[0] in set(chosen)] for chosen in splits.values())
    yield entries
