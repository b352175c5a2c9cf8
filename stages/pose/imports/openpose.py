"""What OpenPose writes with ``--write_json``: a file a frame, ``<video>_<number>_keypoints.json``.

The files of a video lie in a folder of its name, or all together. BODY_25 and COCO-18 are told apart by the number of
values; coordinates are pixels of the video, or fractions (``--keypoint_scale 3``) where none is above 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.base import NUM_JOINTS
from stages.pose.imports.base import VideoPoses, digest_of_files, first_number
from stages.pose.skeletons import boxes_of, to_coco
from store.errors import UsageError

SUFFIX = "_keypoints.json"
JOINTS = (18, 25)
# What stands before the number where OpenPose read pictures: no name of a video.
_PICTURES = ("", "img", "image", "frame")


class OpenPoseSource:
    """See ``stages.pose.imports.base.PoseSource``."""

    format = "openpose"

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._files = [file for file in files if file.name.endswith(SUFFIX)]

    def digest(self) -> str:
        return digest_of_files(self._root, self._files)

    def open(self) -> None:
        self._entries: dict[str, dict[int, Path]] = {}
        for file in self._files:
            key, number = self._place(file)
            if number in self._entries.setdefault(key, {}):
                raise UsageError(f"{file} and {self._entries[key][number]} are the same frame of {key!r}; keep one")
            self._entries[key][number] = file
        self._first = first_number(number for numbers in self._entries.values() for number in numbers)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def example(self) -> str:
        return next(iter(self._entries), "nothing")

    def read(self, key: str) -> VideoPoses:
        numbers = sorted(self._entries[key])
        covered = np.array(numbers, np.int64) - self._first
        people = [_people(self._entries[key][number]) for number in numbers]
        keypoints = np.concatenate([np.zeros((0, NUM_JOINTS, 3)), *people])
        frames = np.repeat(covered, [len(persons) for persons in people])
        fractions = len(keypoints) > 0 and float(keypoints[..., :2].max()) <= 1
        return VideoPoses(frames, keypoints, boxes_of(keypoints), size=(1, 1) if fractions else None, covered=covered)

    def _place(self, file: Path) -> tuple[str, int]:
        match = re.fullmatch(r"(?:(.*?)_?)(\d+)", file.name.removesuffix(SUFFIX))
        if match is None:
            raise UsageError(f"{file} has no frame number; allowed: <video>_<number>{SUFFIX}, as OpenPose writes it")
        folder = file.parent.relative_to(self._root).as_posix().removeprefix(".")
        if folder and (match[1] in _PICTURES or match[1] == folder.rpartition("/")[2]):
            return folder, int(match[2])
        return f"{folder}/{match[1]}".lstrip("/"), int(match[2])


def _people(file: Path) -> np.ndarray:
    """Keypoints [M, 17, 3] of one frame."""
    try:
        content: Any = json.loads(file.read_bytes())
        values = [person.get("pose_keypoints_2d", person.get("pose_keypoints")) for person in content["people"]]
        people = [np.asarray(row, np.float64).reshape(-1, 3) for row in values if row]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{file} is not what OpenPose writes ({error!r}); remove it or write it again") from None
    coco = [to_coco(person, allowed=JOINTS, what=str(file)) for person in people]
    coco = [person for person in coco if person[:, 2].any()]
    return np.array(coco).reshape(-1, NUM_JOINTS, 3)
