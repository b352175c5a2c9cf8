"""``decode_video``: which frames, clips, caps, damaged files, and names that are more than names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import videos
from hypothesis import given
from hypothesis import strategies as st

from stages.decode import decode_video
from stages.decode.sampling import capped_size, clip_range, display_times, sample_indices
from store.errors import MissingError, RetryError, UsageError, VideoError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", videos.numbered_frames(50), bf=2)


def real(shared: Path, name: str) -> Path:
    return next((shared / "data").rglob(name))


@given(n=st.integers(1, 5000), frames=st.sampled_from([1, 4, 8, 16]), factor=st.integers(1, 4))
def test_more_frames_contain_fewer(n: int, frames: int, factor: int) -> None:
    indices = sample_indices(n, frames)
    np.testing.assert_array_equal(indices, [i * n // frames for i in range(frames)])
    np.testing.assert_array_equal(sample_indices(n, frames * factor)[::factor], indices)


def test_times_of_reordered_frames_ascend() -> None:
    np.testing.assert_allclose(display_times([0.04, 0.16, 0.08, 0.12], 25), [0.04, 0.08, 0.12, 0.16])
    np.testing.assert_allclose(display_times([None, None, 0.5, None], 10), [0.0, 0.1, 0.5, 0.6])
    assert clip_range(np.array([0.0, 0.5, 1.0, 1.5]), 0.5, 1.5) == (1, 3)


def test_cap_rounds_half_up() -> None:
    assert capped_size(1920, 1080, 480) == (853, 480)
    assert capped_size(1080, 1920, 480) == (480, 853)
    assert capped_size(640, 640, 480) == (480, 480)
    assert capped_size(320, 240, 480) == (320, 240)
    assert capped_size(101, 100, 50) == (51, 50)  # 50.5


def test_fewer_frames_than_asked_repeat(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "three.avi", videos.numbered_frames(3), codec="mpeg4")
    video = decode_video(path, 8)
    assert video.indices.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert video.num_decodable == 3
    np.testing.assert_array_equal(video.frames[0], video.frames[2])


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_interval_is_half_open(clip: Path, backend: str) -> None:
    video = decode_video(clip, 4, backend=backend, start=0.4, end=0.8)
    assert video.num_decodable == 10
    np.testing.assert_allclose(video.pts, [0.4, 0.48, 0.6, 0.68])
    whole = decode_video(clip, 50, backend=backend)
    np.testing.assert_array_equal(video.frames, whole.frames[[10, 12, 15, 17]])
    assert decode_video(clip, 2, backend=backend, start=1.9).num_decodable == 2  # frames at 1.92 and 1.96
    for bounds, said in (
        ({"start": 7.0}, r"from 7\.0 seconds on; nearest to that are frames at: 1\.960; correct"),
        ({"start": 0.01, "end": 0.02}, r"between 0\.01 and 0\.02 seconds; .* frames at: 0\.000, 0\.040; correct"),
    ):
        with pytest.raises(VideoError, match=said) as caught:
            decode_video(clip, 2, backend=backend, **bounds)
        assert caught.value.kind == "no-frames"


def test_interval_ends_long_before_the_file(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "long.avi", videos.numbered_frames(200), codec="mpeg4", bf=2)
    video = decode_video(path, 8, start=1.0, end=2.0)
    whole = decode_video(path, 200)
    assert video.num_decodable == 25
    first = int(np.searchsorted(whole.pts, 1.0))
    np.testing.assert_array_equal(video.frames, whole.frames[first + video.indices])
    np.testing.assert_array_equal(video.pts, whole.pts[first + video.indices])


def test_cap_shrinks_frames_and_keeps_the_source_size(clip: Path) -> None:
    import cv2

    video, whole = decode_video(clip, 4, max_short_side=48), decode_video(clip, 4)
    assert video.frames.shape == (4, 48, 64, 3)
    assert (video.width, video.height) == (160, 120)
    expected = cv2.resize(whole.frames[2], (64, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(video.frames[2], expected)
    np.testing.assert_array_equal(decode_video(clip, 4, max_short_side=120).frames, whole.frames)


def test_number_of_frames_is_counted_where_packets_mislead(shared: Path) -> None:
    for name, decodable, stated in (("cartwheel.avi", 84, 84), ("KOREAN_TEA*.avi", 430, 430)):
        video = decode_video(real(shared, name))
        assert (video.num_decodable, video.num_claimed, video.partial) == (decodable, stated, False)


@pytest.mark.parametrize(
    "name", ["v_Archery_g02_c02.avi", "cartwheel.avi", "S001C001P001R001A001_rgb.avi", "again.mkv"]
)
@pytest.mark.parametrize("share", [0.8, 0.3])
def test_truncated_file_is_partial(shared: Path, tmp_path: Path, name: str, share: float) -> None:
    source = real(shared, name)
    whole = decode_video(source)
    cut = videos.truncate(source, tmp_path / name, share)
    video = decode_video(cut)
    assert video.partial
    assert video.num_decodable < whole.num_decodable
    assert video.num_claimed == pytest.approx(whole.num_decodable, rel=0.25)
    np.testing.assert_array_equal(video.frames[0], whole.frames[0])


def test_truncated_file_is_partial_with_decord(shared: Path, tmp_path: Path) -> None:
    cut = videos.truncate(real(shared, "v_Archery_g02_c02.avi"), tmp_path / "cut.avi", 0.5)
    video, exact = decode_video(cut, backend="decord"), decode_video(cut)
    assert video.partial
    assert (video.num_decodable, video.num_claimed) == (exact.num_decodable, exact.num_claimed)


def test_truncated_mp4(tmp_path: Path, shared: Path) -> None:
    pictures = videos.numbered_frames(50)
    front = videos.write_video(tmp_path / "front.mp4", pictures, muxer_options={"movflags": "faststart"})
    video = decode_video(videos.truncate(front, tmp_path / "half.mp4", 0.5))
    assert video.partial
    assert video.num_claimed == 50
    with pytest.raises(VideoError, match="begins as a video") as caught:  # its index was at the end
        decode_video(videos.truncate(real(shared, "mmaction2_demo.mp4"), tmp_path / "back.mp4", 0.9))
    assert caught.value.kind == "decode-failed"


def test_interval_of_a_truncated_file(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "x.avi", videos.numbered_frames(100), codec="mpeg4")
    cut = videos.truncate(path, tmp_path / "cut.avi", 0.5)
    last = decode_video(cut, 1).num_decodable * 0.04
    assert not decode_video(cut, 4, start=0.0, end=last / 2).partial
    across = decode_video(cut, 4, start=last - 0.4, end=last + 0.4)
    assert across.partial
    assert abs(across.num_claimed - 20) <= 1


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    # Presentation times below zero become an edit list in MP4.
    times = [0.04 * (i - 20) for i in range(50)]
    path = videos.write_video(tmp_path / "edit.mp4", videos.numbered_frames(50), times=times)
    video = decode_video(path)
    assert video.num_decodable == video.num_claimed
    assert not video.partial


def damaged_header(source: Path, path: Path, width: int, height: int) -> Path:
    """A copy of an AVI whose stream header claims other dimensions."""
    data = bytearray(source.read_bytes())
    at = data.index(b"strf") + 8
    data[at + 4 : at + 12] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_absurd_dimensions_are_refused(tmp_path: Path) -> None:
    raw = videos.write_video(tmp_path / "raw.avi", videos.numbered_frames(2), codec="rawvideo")
    for backend in ("pyav", "decord"):
        for side in (65535, 16000):
            with pytest.raises(VideoError, match=f"{side}x{side}") as caught:
                decode_video(damaged_header(raw, tmp_path / "big.avi", side, side), backend=backend)
            assert caught.value.kind == "too-large"


def test_dimensions_of_nothing_are_not_too_large(tmp_path: Path) -> None:
    raw = videos.write_video(tmp_path / "raw.avi", videos.numbered_frames(2), codec="rawvideo")
    with pytest.raises(VideoError) as caught:
        decode_video(damaged_header(raw, tmp_path / "flat.avi", 0, 120))
    assert caught.value.kind == "decode-failed"


@pytest.mark.parametrize("count", ["9" * 30, "9" * 5000, "-1", "\u0661\u0662"])
def test_a_tag_that_no_video_can_have_says_nothing(tmp_path: Path, count: str) -> None:
    pictures = videos.numbered_frames(12, 64, 48)
    path = videos.write_video(tmp_path / "tag.mkv", pictures, metadata={"NUMBER_OF_FRAMES": count})
    assert decode_video(path, 2).num_claimed == 12


def test_streams_that_begin_late_change_nothing(tmp_path: Path) -> None:
    # A transport stream may take in other programmes at any time; these are twelve of sound.
    clip = videos.write_video(tmp_path / "clip.ts", videos.numbered_frames(40), bf=2).read_bytes()
    options = {"mpegts_start_pid": "0x300", "mpegts_pmt_start_pid": "0x1200", "mpegts_service_id": "7"}
    sound = videos.write_sound(tmp_path / "sound.ts", streams=12, muxer_options=options).read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(clip * 40 + sound + clip)
    assert decode_video(late, 2).num_decodable == 41 * 40


def test_narrow_turned_videos_are_not_for_decord(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "turned.mp4", videos.numbered_frames(3, 64, 48), rotation=90)
    assert decode_video(path, 2).frames.shape == (2, 64, 48, 3)
    with pytest.raises(VideoError, match="a turned video of 48x64 pixels; choose the decoder pyav"):
        decode_video(path, 2, backend="decord")


def not_videos(folder: Path) -> dict[str, Path]:
    (folder / "directory.avi").mkdir()
    os.mkfifo(folder / "fifo.avi")
    (folder / "empty.avi").touch()
    (folder / "text.avi").write_text("not a video\n" * 100)
    (folder / "playlist.avi").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    (folder / "list.avi").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n")
    videos.write_sound(folder / "sound.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's name must be short
        server.bind("socket.avi")
        os.chdir(here)
    return {path.name: path for path in folder.iterdir()} | {"null": Path("/dev/null"), "zero": Path("/dev/zero")}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_what_is_not_a_video(tmp_path: Path, backend: str) -> None:
    for name, path in not_videos(tmp_path).items():
        with pytest.raises(VideoError) as caught:
            decode_video(path, backend=backend)
        assert caught.value.kind == "not-a-video", name
        assert "\n" not in str(caught.value)


def test_what_the_environment_may_be_at_fault_for(tmp_path: Path) -> None:
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    (tmp_path / "dangling.avi").symlink_to(tmp_path / "nowhere.avi")
    absent = ["loop.avi", "dangling.avi", "none.avi", "a\0b.avi", "x" * 300]
    for name in absent:
        with pytest.raises(RetryError) as caught:
            decode_video(os.path.join(tmp_path, name))
        assert caught.value.kind == "file-missing", name


def test_failed_read_is_not_blamed_on_the_video(clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(fd: int, count: int, offset: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return original(fd, min(count, 64), offset)

    original = os.pread
    monkeypatch.setattr(os, "pread", broken)
    short = videos.truncate(clip, tmp_path / "short.mp4", 0.5)  # as a disk that fails in the middle shows it
    with pytest.raises(RetryError, match="Input/output error") as caught:
        decode_video(short)
    assert caught.value.kind == "io-error"


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize(
    "name",
    ["http:x.avi", "concat:a|b.avi", "pipe:0", "-i x.avi", "%03d.avi", "$(touch pwned) ;'\"#&.avi", "n\u00f8\udcff"],
)
def test_names_are_only_names(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    assert decode_video(name, 2, backend=backend).num_decodable == 50
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_packet_that_does_not_decode_costs_its_frames_only(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "x.avi", videos.numbered_frames(40), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data) - 8) if data[i : i + 4] == b"00dc" and data[i + 8 : i + 10] == b"\xff\xd8"]
    assert len(starts) == 40
    data[starts[7] + 8 : starts[7] + 600] = bytes(592)
    (tmp_path / "hole.avi").write_bytes(data)
    video = decode_video(tmp_path / "hole.avi", 39)
    assert (video.num_decodable, video.num_claimed, video.partial) == (39, 40, False)
    np.testing.assert_array_equal(video.frames[7], decode_video(path, 40).frames[8])


def test_arguments_that_are_not_allowed(clip: Path) -> None:
    for wrong in (
        {"num_frames": 0},
        {"backend": "ffmpeg"},
        {"backend": "no such:thing"},
        {"backend": "stages.types:nothing"},
        {"start": 2.0, "end": 2.0},
        {"start": float("nan")},
        {"max_short_side": 0},
    ):
        with pytest.raises(UsageError):
            decode_video(clip, **wrong)
    with pytest.raises(UsageError, match="'ffmpeg'; allowed: pyav, decord"):
        decode_video(clip, backend="ffmpeg")
    with pytest.raises(MissingError, match="pyav, decord"):
        decode_video(clip, backend="no_such_module:decode")
