"""What every file of poses is read into, and how its frames are matched to those that are stored."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stages.types import Clip, VideoFailure
from stages.weights import file_digest

# Two countings of one file may differ by this many frames at its end: a header's, or a decoder that drops the last one.
TOLERANCE = 2
# Estimators put some joints a little outside of a picture that cuts a person off, and are not sure of them. Where more
# of what they saw lies farther outside than this, it was another picture.
OUTSIDE, MARGIN = 0.2, 0.1
# No person is smaller than this many pixels: coordinates that are all as small are fractions.
FRACTIONS = 2
# Names of clips cut out of Kinetics' videos end in the seconds of the cut, which skeleton files leave out.
_SECONDS = re.compile(r"_\d{6}_\d{6}$")

MATCHING = {
    "frame": "nearest that the file covers",
    "at_most": "half its spacing",
    "tolerance": TOLERANCE,
    "outside": {"share": OUTSIDE, "margin": MARGIN},
}


@dataclass(frozen=True)
class VideoPoses:
    """All persons of one video, a row each.

    frames     int64 [M], ascending: which frame, counted from 0
    keypoints  float [M, 17, 3]: x, y, confidence
    boxes      float [M, 5]: x1, y1, x2, y2, score
    persons    int64 [M]: who is who through the video; None where the file does not say
    size       width and height of the picture that coordinates are pixels of: (1, 1) for fractions, None for the
               video's own
    covered    int64, ascending: frames that the file speaks about; None where it lists persons alone, so that a frame
               without one has nobody
    """

    frames: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    persons: np.ndarray | None = None
    size: tuple[float, float] | None = (1, 1)
    covered: np.ndarray | None = None


class PoseSource(Protocol):
    """A file or folder of poses of many videos."""

    format: str

    def digest(self) -> str:
        """SHA-256 (hex) over everything that the numbers come from, computed once a process."""
        ...

    def open(self) -> None:
        """Read what has to be in memory. Raises ``UsageError`` or ``MissingError`` for what cannot be used."""
        ...

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of this name."""
        ...

    def example(self) -> str:
        """The name of some entry, for messages."""
        ...

    def read(self, key: str) -> Any:
        """``VideoPoses`` of an entry, or the maps of one (see ``heatmaps``). Raises ``UsageError``, ``MissingError`` or
        whatever Python says of values that are of another type."""
        ...


def find_entry(source: PoseSource, video_id: str) -> str | None:
    """The entry of a video: its id, or the last part of it (skeleton files name videos without their folder), also
    without the seconds of a Kinetics clip. None where there is none."""
    name = video_id.rpartition("/")[2]
    candidates = (video_id, name, _SECONDS.sub("", video_id), _SECONDS.sub("", name))
    return next((key for key in candidates if key in source), None)


def match_frames(clip: Clip, covered: np.ndarray, name: str) -> np.ndarray | VideoFailure:
    """For each stored frame of a clip the place in ``covered`` (ascending frame numbers) of the one that stands for it.

    That is the nearest one, at most half the spacing of ``covered`` away, or ``TOLERANCE`` frames. A stored frame
    without one, or a file that goes on after the video's end, makes the clip ``pose-unmatched``: the poses are those
    of another video, or of another cut of it.
    """
    video = clip.video
    if not len(covered):
        return VideoFailure("pose-unmatched", f"its entry in {name} covers no frame")
    beyond = int(covered[-1]) - (video.num_decodable - 1)
    if beyond > TOLERANCE and not video.partial:
        return VideoFailure(
            "pose-unmatched",
            f"{name} goes on to frame {covered[-1]}, the video ends with frame {video.num_decodable - 1}",
        )
    after = np.searchsorted(covered, video.indices).clip(0, len(covered) - 1)
    before = (after - 1).clip(0)
    closer = np.abs(covered[before] - video.indices) <= np.abs(covered[after] - video.indices)
    nearest = np.where(closer, before, after)
    spacing = int(np.median(np.diff(covered))) if len(covered) > 1 else 1
    apart = np.abs(covered[nearest] - video.indices) > max(TOLERANCE, spacing // 2)
    if apart.any():
        return VideoFailure(
            "pose-unmatched",
            f"{apart.sum()} of {len(apart)} frames have no entry in {name}, the first is frame "
            f"{video.indices[apart][0]}; it covers {len(covered)} frames from {covered[0]} to {covered[-1]}",
        )
    return nearest


def check_end(clip: Clip, last: int, name: str) -> VideoFailure | None:
    """``pose-unmatched`` where persons are listed after the end of the video."""
    if clip.video.partial or last - (clip.video.num_decodable - 1) <= TOLERANCE:
        return None
    return VideoFailure(
        "pose-unmatched",
        f"{name} has somebody in frame {last}, the video ends with frame {clip.video.num_decodable - 1}",
    )


def check_places(clip: Clip, poses: VideoPoses, name: str) -> VideoFailure | None:
    """``pose-unmatched`` where the joints are not in pixels of the video's picture, as far as that shows: many lie
    outside of it, all within ``FRACTIONS`` pixels of its corner, or the picture is the video's lying on its side."""
    own = (clip.video.width, clip.video.height)
    width, height = poses.size or own
    pixels = poses.size != (1, 1)
    aspects = width / height, own[0] / own[1]
    if pixels and math.isclose(math.prod(aspects), 1, rel_tol=0.02) and not math.isclose(*aspects, rel_tol=0.1):
        return VideoFailure(
            "pose-unmatched",
            f"{name} is about pictures of {width:g} x {height:g}, the video has {own[0]} x {own[1]}: one was turned",
        )
    seen = poses.keypoints[poses.keypoints[..., 2] > 0]
    if pixels and len(seen) and np.abs(seen[:, :2]).max() <= FRACTIONS:
        return VideoFailure(
            "pose-unmatched",
            f"all joints in {name} lie within {FRACTIONS} pixels of the corner, such as ({seen[0, 0]:g}, "
            f"{seen[0, 1]:g}): write pixels, not fractions",
        )
    places = seen[:, :2] / (width, height)
    beyond = np.abs(places - 0.5).max(1, initial=0) - 0.5
    outside = beyond > MARGIN
    share = seen[outside, 2].sum() / max(seen[:, 2].sum(), np.finfo(float).tiny)
    if share <= OUTSIDE:
        return None
    x, y = seen[beyond.argmax(), :2]
    what = f"the picture of {width:g} x {height:g}" if pixels else "0 to 1"
    return VideoFailure(
        "pose-unmatched",
        f"{share:.0%} of the joints in {name} lie outside of {what}, the farthest at ({x:g}, {y:g}): they are those of "
        "a picture of another size, or of another video",
    )


def first_number(numbers: Iterable[int]) -> int:
    """Whether the numbers of a whole source's frames count from 0 or from 1: by the smallest of them."""
    return min(1, min(numbers, default=0))


def split_number(name: str) -> tuple[str, int] | None:
    """``("img_", 12)`` of ``img_00012``: a frame's name and number; None where it does not end in one."""
    match = re.fullmatch(r"(.*?)(\d+)", name)
    return (match[1], int(match[2])) if match else None


def digest_of_files(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 (hex) over the names below ``root`` and the contents of files, or that of the only file; computed once a
    process as long as their sizes and times stay the same."""
    if list(files) == [root]:
        return file_digest(root)
    stats = [file.stat() for file in files]
    return _tree_digest(root, tuple(files), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=4)
def _tree_digest(root: Path, files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
