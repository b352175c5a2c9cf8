"""What OpenPose writes with ``--write_json``: a file a frame, ``<video>_<number>_keypoints.json``.

The files of a video lie in a folder of its name, or all together. BODY_25 and COCO-18 are told apart by the number of
values. Coordinates are pixels of the video (``--keypoint_scale 0``, the default), or fractions of the picture
(``--keypoint_scale 3``) in all files alike, of which some lie a little below 0 or above 1. Those from -1 to 1 (4 and 6)
are refused. The files do not say what else OpenPose may have been told: pixels of its network's input or of the video
that it draws (1 and 2) show where they lie outside of the video's picture, fractions of the longer side (5) do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.pose.coco import NUM_JOINTS
from stages.pose.imports.base import FRACTIONS, VideoPoses, digest_of_files, first_number
from stages.pose.skeletons import boxes_of, to_coco
from store.errors import UsageError

SUFFIX = "_keypoints.json"
JOINTS = (18, 25)
# Fractions lie this far below 0 at most where a joint is seen at the very edge.
BELOW = 0.05
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
        self._size = self._find_size()

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
        return VideoPoses(frames, keypoints, boxes_of(keypoints), size=self._size, covered=covered)

    def _find_size(self) -> tuple[float, float] | None:
        """The size of the picture (see ``VideoPoses``): by the first person, whose coordinates show what all are.

        Fractions are looked for in every file, since somebody at the lower right has no negative coordinate where they
        run from -1. Files that cannot be read cost their videos alone, see ``read``.
        """
        fractions = None
        for file in self._files:
            try:
                people = _people(file)
            except UsageError:
                continue
            seen = people[people[..., 2] > 0][:, :2]
            if not len(seen):
                continue
            lowest, highest = seen.min(), seen.max()
            if fractions is None and highest > FRACTIONS:
                return None
            fractions = fractions or file
            if highest > FRACTIONS:
                raise UsageError(
                    f"{file} has a coordinate {highest:g}, a pixel, but {fractions} has fractions; write all with the "
                    "same --keypoint_scale"
                )
            if lowest < -BELOW:
                raise UsageError(
                    f"{file} has a coordinate {lowest:g}; allowed: pixels or fractions from 0 to 1; write the files "
                    "with --keypoint_scale 0 or 3"
                )
        return None if fractions is None else (1, 1)

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
