"""Lists of persons in JSON: COCO keypoint results, COCO annotations, and what AlphaPose writes.

Every entry has ``image_id`` and ``keypoints`` (x, y, confidence of each joint, pixels), and perhaps a box (``bbox`` or
AlphaPose's ``box``: x, y, width, height), ``score`` and AlphaPose's ``idx``. Which frame of which video it belongs to:

* in a file with ``images`` (COCO annotations), or where one lies in the same folder: by the ``file_name`` of its image,
  ``<video>/<number>.jpg``. Those images are all frames that the file covers;
* else by ``image_id``: ``<video>/<number>.jpg``, or ``<number>.jpg`` or a number in a file of one video, which is named
  as the video, or ``alphapose-results.json`` in a folder of that name.

AlphaPose numbers the frames of a video from 0, without leading zeros. Pictures on a disk are numbered as they are: from
0 where any of them has that number, else from 1. An annotation's visibility flags count as confidence 1. A box score
is the entry's where it lies in 0..1 (AlphaPose's does not), else the mean confidence of the joints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.pose.imports.base import VideoPoses, digest_of_files, first_number, split_number
from stages.pose.skeletons import boxes_of, to_coco
from store.errors import UsageError

JOINTS = (17, 26, 133, 136)
ALPHAPOSE_NAME = "alphapose-results"


class _Picture(NamedTuple):
    """A frame as a file names it. ``counted``: numbered by AlphaPose, from 0."""

    video: str
    number: int
    counted: bool
    size: tuple[float, float] | None


class DetectionsSource:
    """See ``stages.pose.imports.base.PoseSource``."""

    format = "coco"

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._files = [file for file in files if file.suffix == ".json"]

    def digest(self) -> str:
        return digest_of_files(self._root, self._files)

    def open(self) -> None:
        contents = {file: _read(file) for file in self._files}
        self._images: dict[Any, _Picture] = {}
        for file, content in contents.items():
            if isinstance(content, Mapping):
                for image in content["images"]:
                    size = (image["width"], image["height"]) if {"width", "height"} <= set(image) else None
                    name = _picture(str(image["file_name"]), self._video_of(file), file)
                    self._images[image["id"]] = name._replace(counted=False, size=size)
        self._rows: dict[str, list[tuple[_Picture, Mapping[str, Any]]]] = defaultdict(list)
        for file, content in contents.items():
            for row in content.get("annotations", ()) if isinstance(content, Mapping) else content:
                picture = self._picture_of(row, file)
                self._rows[picture.video].append((picture, row))
        self._covered: dict[str, set[int]] = defaultdict(set)
        for picture in self._images.values():
            self._covered[picture.video].add(picture.number)
            self._rows.setdefault(picture.video, [])
        listed = [picture for rows in self._rows.values() for picture, _ in rows] + list(self._images.values())
        self._first = first_number(picture.number for picture in listed if not picture.counted)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def example(self) -> str:
        return next(iter(self._rows), "nothing")

    def read(self, key: str) -> VideoPoses:
        rows = sorted(self._rows[key], key=lambda row: row[0].number)
        frames = np.array([p.number - (0 if p.counted else self._first) for p, _ in rows], np.int64)
        keypoints = np.zeros((len(rows), 17, 3))
        for place, (_, row) in enumerate(rows):
            joints = np.asarray(row["keypoints"], np.float64).reshape(-1, 3)
            if "num_keypoints" in row:  # an annotation: 2 is visible, 1 hidden but known
                joints[:, 2] = joints[:, 2] > 0
            keypoints[place] = to_coco(joints, allowed=JOINTS, what=f"{self._root.name}: a person of {key!r}")
        there = np.flatnonzero(np.any(keypoints[..., 2] > 0, axis=1))
        rows, frames, keypoints = [rows[place] for place in there], frames[there], keypoints[there]
        covered = np.array(sorted(self._covered[key]), np.int64) - self._first if key in self._covered else None
        sizes = {picture.size for picture, _ in rows}
        if len(sizes) > 1:
            raise UsageError(
                f"{self._root.name}: pictures of {key!r} have the sizes {', '.join(sorted(map(str, sizes)))}; allowed: "
                "one a video (None: not in the list of images)"
            )
        return VideoPoses(
            frames,
            keypoints,
            _boxes([row for _, row in rows], keypoints),
            _identities([row for _, row in rows], frames),
            size=sizes.pop() if sizes else None,
            covered=covered,
        )

    def _picture_of(self, row: Mapping[str, Any], file: Path) -> _Picture:
        try:
            image_id = row["image_id"]
            if image_id in self._images:
                return self._images[image_id]
            if isinstance(image_id, int):
                return _Picture(self._video_of(file), image_id, False, None)
            return _picture(str(image_id), self._video_of(file), file)
        except (KeyError, TypeError):
            raise UsageError(
                f"{file}: an entry has no image_id; allowed: COCO keypoint results, or AlphaPose's"
            ) from None

    def _video_of(self, file: Path) -> str:
        """The video that a file is about by its name."""
        name = file.relative_to(self._root) if file != self._root else Path(file.name)
        if name.stem != ALPHAPOSE_NAME:
            return name.with_suffix("").as_posix()
        return name.parent.as_posix() if len(name.parts) > 1 else file.parent.name


def _read(file: Path) -> Any:
    try:
        content = json.loads(file.read_bytes())
        rows = content["annotations"] if isinstance(content, dict) and "annotations" in content else content
        rows = rows["images"] if isinstance(rows, dict) else rows
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of objects")
        return content
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{file} holds no list of persons ({error!r}); allowed: COCO keypoint results") from None


def _picture(name: str, video: str, file: Path) -> _Picture:
    folder, _, base = name.rpartition("/")
    found = split_number(base.rpartition(".")[0] or base)
    if found is None:
        raise UsageError(f"{file} names a picture {name!r} without a number; allowed: <video>/<number>.jpg")
    prefix, number = found
    counted = not folder and not prefix and base.partition(".")[0] == str(number)
    return _Picture(folder or video, number, counted, None)


def _boxes(rows: Sequence[Mapping[str, Any]], keypoints: np.ndarray) -> np.ndarray:
    boxes = boxes_of(keypoints)
    for place, row in enumerate(rows):
        given = row.get("bbox", row.get("box"))
        if given is not None:
            x, y, width, height = (float(value) for value in given[:4])
            boxes[place, :4] = x, y, x + width, y + height
        if 0 <= float(row.get("score", -1)) <= 1:
            boxes[place, 4] = row["score"]
    return boxes


def _identities(rows: Sequence[Mapping[str, Any]], frames: np.ndarray) -> np.ndarray | None:
    """AlphaPose's ``idx`` where it followed the persons: a number for each, distinct within a frame."""
    given = [np.ravel(row.get("idx", ())) for row in rows]
    if not rows or not all(len(value) == 1 for value in given):
        return None
    ids = np.concatenate(given).astype(np.int64)
    return ids if len(np.unique(np.column_stack((frames, ids)), axis=0)) == len(ids) else None
