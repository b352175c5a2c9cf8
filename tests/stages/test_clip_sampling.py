"""Which frames the clips of a video model are, against torchvision's own sampling and as rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets.video_utils import VideoClips

from stages.decode.sampling import ClipSampling, frame_indices, sample_indices
from store.errors import UsageError


@pytest.mark.filterwarnings("ignore:There aren't enough frames")
@pytest.mark.parametrize("fps", [23.976, 25.0, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("count", [60, 75, 240, 301])
@pytest.mark.parametrize(("clips", "length", "rate"), [(5, 16, 15.0), (2, 16, 7.5), (12, 16, 15.0)])
def test_clips_are_those_of_torchvision(count: int, fps: float, clips: int, length: int, rate: float) -> None:
    pts = torch.arange(count)
    found, _ = VideoClips.compute_clips_for_video(pts, length, 1, fps, rate)
    if not len(found):
        pytest.skip("torchvision leaves out videos that are shorter than a clip")
    chosen = torch.linspace(0, len(found) - 1, clips).floor().long()  # as UniformClipSampler does
    want, own = found[chosen].numpy(), ClipSampling(clips, length, rate).indices(count, fps)
    if (fps / rate).is_integer() and count % (fps / rate):
        # There it has a frame more of the resampled video than by its own rule for other rates.
        np.testing.assert_allclose(own, want, atol=fps / rate)
    else:
        # Its positions are float32: where that rounds a whole number down, its frame is one earlier.
        np.testing.assert_allclose(own, want, atol=1)
        assert (own == want).mean() > 0.9


@given(
    count=st.integers(1, 2000),
    fps=st.sampled_from([0.0, 0.5, 7.5, 12.0, 15.0, 23.976, 25.0, 30.0, 59.94, 1000.0]),
    clips=st.integers(1, 12),
    length=st.integers(1, 32),
    rate=st.sampled_from([7.5, 15.0]),
)
def test_rules(count: int, fps: float, clips: int, length: int, rate: float) -> None:
    indices = ClipSampling(clips, length, rate).indices(count, fps)
    assert indices.shape == (clips, length)
    assert indices.dtype == np.int32
    assert indices.min() >= 0
    assert indices.max() < count
    assert (np.diff(indices, axis=1) >= 0).all()
    assert (np.diff(indices, axis=0) >= 0).all()
    step = fps / rate if fps else 1
    whole = int(count * rate / fps) if fps else count
    if whole < length:  # too short for a clip: shown slower, as the frames of CLIP are
        np.testing.assert_array_equal(indices, np.broadcast_to(sample_indices(count, length), (clips, length)))
    else:
        assert ((np.diff(indices, axis=1) - step) < 1).all()
        if clips > 1:
            assert indices[0, 0] == 0
            assert indices[-1, -1] + 2 * step + 1 > count - 1


def test_a_single_clip_lies_in_the_middle() -> None:
    assert ClipSampling(1, 4, 15.0).indices(100, 15.0).tolist() == [[48, 49, 50, 51]]


def test_frames_of_clips_follow_the_others() -> None:
    clips = ClipSampling(2, 3, 15.0)
    assert frame_indices(10, 15.0, 2, clips).tolist() == [0, 5, 0, 1, 2, 7, 8, 9]
    assert frame_indices(10, 15.0, 0, clips).tolist() == [0, 1, 2, 7, 8, 9]
    assert frame_indices(10, 15.0, 2, None).tolist() == [0, 5]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="clips of a clip sampling is 0; allowed: more than 0"):
        ClipSampling(0, 16, 15.0)
