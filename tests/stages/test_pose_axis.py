"""The frame axis of pose: more frames than CLIP's, those of CLIP among them, and a map that finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import videos
from hypothesis import given
from hypothesis import strategies as st

from pipeline.graph import evenly
from stages.decode import decode_video
from stages.decode.sampling import ClipSampling, frame_indices, sample_indices
from store.errors import UsageError
from store.features import on_pose_axis

FPS = st.sampled_from([0.0, 0.5, 12.0, 23.976, 25.0, 29.97, 60.0, 1000.0])


@given(count=st.integers(1, 10**9), frames=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 48]))
def test_frames_of_clip_are_among_those_of_pose(count: int, frames: int) -> None:
    clip, pose = sample_indices(count, frames), sample_indices(count, 48)
    places = on_pose_axis(np.arange(frames), frames, 48)
    np.testing.assert_array_equal(pose[places], clip)
    np.testing.assert_array_equal(clip, [i * count // frames for i in range(frames)])
    assert places[0] == 0
    assert (np.diff(places) == 48 // frames).all()
    assert (np.diff(pose) >= 0).all()
    assert pose[-1] < count
    if count >= 48:
        assert len(np.unique(pose)) == 48
    else:  # every frame is there, and frames repeat
        np.testing.assert_array_equal(np.unique(pose), np.arange(count))


@given(count=st.integers(1, 3000), stored=st.integers(1, 64), pose=st.integers(1, 64), data=st.data())
def test_the_map_points_at_equal_frames_or_is_refused(count: int, stored: int, pose: int, data: st.DataObject) -> None:
    """Also for frames that a reader takes out of the stored ones, in stores whose groups were made apart."""
    frames = data.draw(st.integers(1, stored))
    chosen = np.arange(frames) * stored // frames
    if (chosen * pose % stored).any():
        assert pose % stored  # never where pose has the frames of CLIP several times over
        with pytest.raises(UsageError):
            on_pose_axis(chosen, stored, pose)
        return
    places = on_pose_axis(chosen, stored, pose)
    np.testing.assert_array_equal(sample_indices(count, pose)[places], sample_indices(count, stored)[chosen])


def test_axes_that_do_not_nest_are_named() -> None:
    with pytest.raises(UsageError, match=r"are 32 of the 32 of CLIP.* among the 48 of pose; allowed: frames=16, or a"):
        on_pose_axis(np.arange(32), 32, 48)
    np.testing.assert_array_equal(on_pose_axis(np.arange(16) * 2, 32, 48), np.arange(16) * 3)


@given(count=st.integers(1, 3000), fps=FPS, clips=st.none() | st.just(ClipSampling(3, 16, 7.5)))
def test_one_decoding_serves_both(count: int, fps: float, clips: ClipSampling | None) -> None:
    """What is decoded once is handed to each stage in part, whatever the frame rate and other samplings beside."""
    decoded = frame_indices(count, fps, 48, clips)
    np.testing.assert_array_equal(decoded[evenly(48, 48)], sample_indices(count, 48))
    np.testing.assert_array_equal(decoded[evenly(16, 48)], sample_indices(count, 16))
    np.testing.assert_array_equal(decoded[evenly(48, 48)][on_pose_axis(np.arange(16), 16, 48)], decoded[evenly(16, 48)])


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 47, 48, 49, 77])
@pytest.mark.parametrize("fps", [10, 25])
def test_pictures_of_a_video_are_the_same(tmp_path: Path, count: int, fps: int) -> None:
    path = videos.write_video(tmp_path / "v.avi", videos.numbered_frames(count), codec="mpeg4", fps=fps)
    clip, pose = decode_video(path, 16), decode_video(path, 48)
    places = on_pose_axis(np.arange(16), 16, 48)
    np.testing.assert_array_equal(pose.indices[places], clip.indices)
    np.testing.assert_array_equal(pose.pts[places], clip.pts)
    np.testing.assert_array_equal(pose.frames[places], clip.frames)
    assert pose.num_decodable == count
