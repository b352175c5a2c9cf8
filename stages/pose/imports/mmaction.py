"""Skeleton annotations of mmaction2 and PYSKL: one pickle for a dataset.

It holds a list of annotations, bare or under the key ``annotations``. Each names its video (``frame_dir``), the size of
its pictures (``img_shape``, height and width) and ``total_frames``, and comes in one of two flavours:

* dense: ``keypoint`` [M, T, V, 2 or 3] of M persons in all T frames, with ``keypoint_score`` [M, T, V]; a person who is
  not there is zero;
* Kinetics: a row a person and frame, with ``frame_inds`` [n] and ``box_score`` [n]. ``keypoint`` [n, V, 3] may be in
  the annotation; in the published files it is elsewhere, in pickles that map names of videos to it (``kpfiles``): they
  are looked for in the folders beside the annotations whose names hold ``kpfiles``, as ``raw_file`` or ``frame_dir``
  name them.

Persons are in the order of their detections, so nothing says who is who through a video. Kinetics' frames are counted
from 1, which shows where some video has somebody in frame ``total_frames``; all others from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.imports.base import VideoPoses, digest_of_files
from stages.pose.imports.pickles import load_pickle
from stages.pose.skeletons import boxes_of, to_coco
from store.errors import MissingError, UsageError

JOINTS = (17, 18, 26, 133, 136)


class MMActionSource:
    """See ``stages.pose.imports.base.PoseSource``."""

    format = "mmaction2"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = sorted(folder for folder in path.parent.glob("*kpfiles*") if folder.is_dir())

    def digest(self) -> str:
        kpfiles = self._find_kpfiles()
        return digest_of_files(self._path.parent if kpfiles else self._path, [self._path, *kpfiles])

    def open(self) -> None:
        content = load_pickle(self._path)
        if isinstance(content, Mapping):
            content = content.get("annotations")
        if not isinstance(content, list) or not all(isinstance(entry, Mapping) for entry in content):
            raise UsageError(f"{self._path} holds no list of annotations; name a skeleton pickle of mmaction2")
        self._entries: dict[str, Mapping[str, Any]] = {}
        for entry in content:
            absent = {"frame_dir", "total_frames", "img_shape"} - set(entry)
            if absent:
                raise UsageError(
                    f"{self._path}: an annotation has no {min(absent)!r}; name a skeleton pickle of mmaction2"
                )
            if entry["frame_dir"] in self._entries:
                raise UsageError(f"{self._path} has {entry['frame_dir']!r} twice; allowed: one annotation a video")
            self._entries[str(entry["frame_dir"])] = entry
        self._kpfiles = {file.name: file for file in self._find_kpfiles()}
        compressed = [entry for entry in self._entries.values() if "frame_inds" in entry]
        if compressed and not self._kpfiles and not any("keypoint" in entry for entry in compressed):
            raise MissingError(
                f"{self._path} tells when persons are there, but holds no keypoints: unpack the kpfiles of the same "
                f"release into {self._path.parent / 'kpfiles'}",
                kind="missing-data",
            )
        self._first = int(_counts_from_one(compressed))
        self._spacing = math.gcd(*(int(step) for entry in compressed for step in np.diff(np.unique(_frames(entry)))))

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def example(self) -> str:
        return next(iter(self._entries), "nothing")

    def read(self, key: str) -> VideoPoses:
        entry = self._entries[key]
        height, width = (float(side) for side in entry["img_shape"])
        poses = self._compressed(key, entry) if "frame_inds" in entry else self._dense(key, entry)
        frames, keypoints, boxes, covered = poses
        return VideoPoses(frames, keypoints, boxes, size=(width, height), covered=covered)

    def _dense(self, key: str, entry: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        joints = np.asarray(entry.get("keypoint", ()), np.float64)
        scores = entry.get("keypoint_score")
        total = int(entry["total_frames"])
        if joints.ndim != 4 or joints.shape[1] != total or (scores is None) != (joints.shape[3] == 3):
            raise UsageError(
                f"{self._path}: keypoint of {key!r} is {list(joints.shape)}, for {total} frames; allowed: [M, T, V, 2] "
                "with keypoint_score, or [M, T, V, 3] without"
            )
        if scores is not None:
            joints = np.concatenate((joints, np.asarray(scores, np.float64)[..., None]), axis=-1)
        persons, _, count, _ = joints.shape
        keypoints = self._coco(joints.transpose(1, 0, 2, 3).reshape(-1, count, 3), key)
        frames = np.repeat(np.arange(total), persons)
        there = (keypoints[..., 2] > 0).any(1)
        return frames[there], keypoints[there], boxes_of(keypoints[there]), np.arange(total)

    def _compressed(self, key: str, entry: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        frames = _frames(entry) - self._first
        joints = np.asarray(entry["keypoint"] if "keypoint" in entry else self._from_kpfile(key, entry), np.float64)
        if joints.ndim != 3 or len(joints) != len(frames) or joints.shape[2] != 3:
            raise UsageError(
                f"{self._path}: keypoint of {key!r} is {list(joints.shape)}, for {len(frames)} entries of frame_inds; "
                "allowed: [n, V, 3]"
            )
        keypoints = self._coco(joints, key)
        boxes = boxes_of(keypoints)
        if "box_score" in entry:
            boxes[:, 4] = np.asarray(entry["box_score"], np.float64).clip(0, 1)
        order = np.argsort(frames, kind="stable")
        start = int(frames.min(initial=0)) % max(1, self._spacing)
        covered = np.arange(start, int(entry["total_frames"]), max(1, self._spacing))
        return frames[order], keypoints[order], boxes[order], covered

    def _find_kpfiles(self) -> list[Path]:
        return [file for folder in self._folders for file in sorted(folder.rglob("*.pkl"))]

    def _from_kpfile(self, key: str, entry: Mapping[str, Any]) -> Any:
        names = [Path(str(entry.get("raw_file", key))).name, f"{key}.pkl"]
        file = next((self._kpfiles[name] for name in names if name in self._kpfiles), None)
        if file is None:
            raise MissingError(
                f"keypoints of {key!r} are missing: no {names[0]} in {', '.join(map(str, self._folders)) or 'kpfiles'}",
                kind="missing-data",
            )
        content = _kpfile(file)
        if isinstance(content, Mapping):
            content = content.get(key, content)
        if isinstance(content, Mapping):
            content = content.get("keypoint")
        if content is None:
            raise UsageError(f"{file} has no keypoints of {key!r}")
        return content

    def _coco(self, keypoints: np.ndarray, key: str) -> np.ndarray:
        return to_coco(keypoints, allowed=JOINTS, what=f"{self._path}: {key!r}")


@lru_cache(maxsize=4)
def _kpfile(path: Path) -> Any:
    """A file holds many videos, and videos come in order."""
    return load_pickle(path)


def _frames(entry: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(entry["frame_inds"], np.int64)


def _counts_from_one(entries: Sequence[Mapping[str, Any]]) -> bool:
    frames = [_frames(entry) for entry in entries]
    ends = any((each == entry["total_frames"]).any() for each, entry in zip(frames, entries, strict=True))
    return ends and all((each > 0).all() for each in frames)
