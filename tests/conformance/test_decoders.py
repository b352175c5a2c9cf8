"""Every decoder gives the frames that an independent sequential decode gives: OpenCV's, with an FFmpeg of its own."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import videos

from stages.decode import BACKENDS, ClipSampling, decode_video
from stages.types import DecodedVideo
from store.errors import VideoError

FRAMES = 16

# decord brings an older FFmpeg, whose inverse transform rounds in another direction here and there. OpenCV converts
# ten-bit colour in fewer steps.
TOLERANCE = {"pyav": 0, "decord": 2}
TEN_BIT_TOLERANCE = 5

NOT_WITH_DECORD = {"odd-size", "odd-size-mjpeg", "ten-bit", "ts"}
MADE_UP = [
    "avi-h264-b", "avi-mpeg4-b", "mkv-h264-b", "mp4-fragmented", "mp4-h264-b", "odd-size", "odd-size-mjpeg",
    "one-frame", "rotated-180", "rotated-270", "rotated-90", "ten-bit", "three-frames", "ts", "vfr-avi", "vfr-mkv",
    "vfr-mp4",
]  # fmt: skip


def clips(shared: Path) -> list[Path]:
    with (shared / "data" / "clips.csv").open() as table:
        return [shared / "data" / row["where"] for row in csv.DictReader(table)]


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return videos.made_up_videos(tmp_path_factory.mktemp("made-up"))


def sequential(path: Path, wanted: set[int]) -> tuple[int, dict[int, np.ndarray]]:
    """Number of frames that OpenCV reads one after the other, and those that are wanted, RGB and upright."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count, pictures = 0, {}
    while capture.grab():
        if count in wanted:
            pictures[count] = capture.retrieve()[1][:, :, ::-1]
        count += 1
    return count, pictures


def assert_exact(path: Path, video: DecodedVideo, tolerance: int, clips: ClipSampling | None = None) -> None:
    count, pictures = sequential(path, set(video.indices.tolist()))
    assert video.num_decodable == count
    wanted = [i * count // FRAMES for i in range(FRAMES)]
    if clips is not None:
        wanted += clips.indices(count, cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)).ravel().tolist()
    np.testing.assert_array_equal(video.indices, wanted)
    assert (video.indices.dtype, video.pts.dtype, video.frames.dtype) == (np.int32, np.float64, np.uint8)
    assert (np.diff(video.pts[video.indices.argsort(kind="stable")]) >= 0).all()
    for index, frame in zip(video.indices.tolist(), video.frames, strict=True):
        expected = pictures[index]
        assert (video.height, video.width, 3) == frame.shape == expected.shape
        difference = np.maximum(frame, expected) - np.minimum(frame, expected)
        assert difference.max() <= tolerance, f"frame {index} of {path.name}"


def test_made_up_names_are_those_of_the_maker(made_up: dict[str, Path]) -> None:
    assert sorted(made_up) == MADE_UP


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_videos(made_up: dict[str, Path], name: str, backend: str) -> None:
    if backend == "decord" and name in NOT_WITH_DECORD:
        with pytest.raises(VideoError, match="choose the decoder pyav"):
            decode_video(made_up[name], FRAMES, backend=backend)
        return
    video = decode_video(made_up[name], FRAMES, backend=backend)
    assert_exact(made_up[name], video, TEN_BIT_TOLERANCE if name == "ten-bit" else TOLERANCE[backend])
    assert not video.partial


def test_neighbouring_frames_differ_by_more_than_any_tolerance(made_up: dict[str, Path]) -> None:
    # Otherwise a decoder that is off by one would pass on the videos above.
    for path in made_up.values():
        _, pictures = sequential(path, set(range(100)))
        frames = [pictures[i].astype(int) for i in sorted(pictures)]
        for one, next_one in pairwise(frames):
            assert np.abs(one - next_one).max() > 10 * TEN_BIT_TOLERANCE


def test_real_clips_with_pyav(shared: Path) -> None:
    for path in clips(shared):
        video = decode_video(path, FRAMES)
        assert_exact(path, video, TOLERANCE["pyav"])
        assert not video.partial


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_of_clips_of_some_real_videos(shared: Path, backend: str) -> None:
    sampling = ClipSampling(3, 16, 15.0)
    for path in clips(shared)[::24]:
        video = decode_video(path, FRAMES, backend=backend, clips=sampling)
        assert_exact(path, video, TOLERANCE[backend], sampling)
        np.testing.assert_array_equal(decode_video(path, 0, backend=backend, clips=sampling).frames, video.frames[16:])


@pytest.mark.slow
def test_real_clips_with_decord(shared: Path) -> None:
    for path in clips(shared):
        video = decode_video(path, FRAMES, backend="decord")
        assert_exact(path, video, TOLERANCE["decord"])
        assert not video.partial


def test_some_real_clips_with_decord(shared: Path) -> None:
    # Those whose header counts one frame too many, and one clip of every other kind.
    chosen = [path for path in clips(shared) if "hmdb51" in path.parts or path.name.startswith(("again", "v_Archery"))]
    assert len(chosen) == 4
    for path in chosen:
        assert_exact(path, decode_video(path, FRAMES, backend="decord"), TOLERANCE["decord"])


@pytest.mark.parametrize("max_short_side", [64, 90])
@pytest.mark.parametrize("name", ["mp4-h264-b", "rotated-90"])
def test_backends_agree_on_clips_and_caps(made_up: dict[str, Path], name: str, max_short_side: int) -> None:
    one, other = (
        decode_video(made_up[name], FRAMES, backend=backend, start=0.31, end=1.2, max_short_side=max_short_side)
        for backend in ("pyav", "decord")
    )
    for field in ("frames", "indices", "pts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert (one.num_decodable, one.fps, one.width, one.height) == (
        other.num_decodable, other.fps, other.width, other.height,
    )  # fmt: skip
