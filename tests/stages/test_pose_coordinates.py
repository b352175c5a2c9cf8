"""What the coordinates of imported poses are counted in: nothing comes out in another place than it was seen at."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pose_files import BODY_25, COCO, HEIGHT, POSE, WIDTH, clip, failure, flat, openpose

from stages.pose import Persons, PoseConfig
from stages.pose.imports import open_source
from stages.pose.precomputed import PrecomputedEstimator
from store.errors import UsageError

TRUTH = np.array([POSE[name] for name in COCO]) * (0.5, 0.5, 1)  # frames are stored half as large as the source


def scaled(x: tuple[float, float], y: tuple[float, float], names: list[str] = BODY_25) -> list[float]:
    """The pose as JSON has it, every coordinate c as factor * c + offset; joints that are not seen stay zero."""
    values = np.array(flat(names)).reshape(-1, 3)
    seen = values[:, 2] > 0
    values[seen, 0] = values[seen, 0] * x[0] + x[1]
    values[seen, 1] = values[seen, 1] * y[0] + y[1]
    return list(values.ravel())


def persons(path: Path) -> Persons:
    """The only person of the clip, who is in its second frame."""
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(path)))
    estimator.setup()
    (found,) = estimator([clip()])
    assert isinstance(found, list), found
    assert [len(frame) for frame in found] == [0, 1, 0]
    return found[1]


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_source(str(path)).open()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# OpenPose's --keypoint_scale, include/openpose/flags.hpp and src/openpose/core/keypointScaler.cpp: what it does to x, y


def test_openpose_pixels_of_the_source(tmp_path: Path) -> None:
    """0, the default."""
    np.testing.assert_allclose(persons(openpose(tmp_path / "p", flat(BODY_25))).keypoints[0], TRUTH)


def test_openpose_fractions(tmp_path: Path) -> None:
    """3: the last pixel is 1, which is half a pixel more than nothing."""
    values = scaled((1 / (WIDTH - 1), 0), (1 / (HEIGHT - 1), 0))
    np.testing.assert_allclose(persons(openpose(tmp_path / "p", values)).keypoints[0], TRUTH, atol=0.51)


@pytest.mark.parametrize("beyond", [(1.02, 0.0), (1.0, -0.02)], ids=["above 1", "below 0"])
def test_openpose_fractions_a_little_outside(tmp_path: Path, beyond: tuple[float, float]) -> None:
    """OpenPose gave y = 585.07 in a picture of 580 pixels (its issue 960): one such joint makes no pixels of them."""
    values = scaled((1 / WIDTH, 0), (1 / HEIGHT, 0))
    ankle = BODY_25.index("RAnkle")
    values[3 * ankle + 1] = beyond[0] if beyond[1] == 0 else beyond[1]
    want = TRUTH.copy()
    want[COCO.index("right_ankle"), 1] = values[3 * ankle + 1] * HEIGHT / 2
    np.testing.assert_allclose(persons(openpose(tmp_path / "p", values)).keypoints[0], want, atol=1e-9)


def test_openpose_from_minus_one_to_one_is_refused(tmp_path: Path) -> None:
    """4: (-1, -1) is the top left corner. 6, with the longer side alone from -1 to 1, looks alike."""
    path = openpose(tmp_path / "p", scaled((2 / (WIDTH - 1), -1), (2 / (HEIGHT - 1), -1)))
    message = refused(path)
    assert f"{path}/v_000000000002_keypoints.json has a coordinate -0.8" in message
    assert "--keypoint_scale 0 or 3" in message


def test_openpose_from_minus_one_to_one_at_the_lower_right(tmp_path: Path) -> None:
    """Somebody who has no negative coordinate is not taken for another: the files of all videos are looked at."""
    lower_right = scaled((0.5 / WIDTH, 0.4), (0.5 / HEIGHT, 0.4))
    path = openpose(tmp_path / "p", lower_right)
    open_source(str(path)).open()  # alone they could be fractions
    openpose(path / "w", scaled((2 / WIDTH, -1), (2 / HEIGHT, -1)))
    assert f"{path}/w/v_000000000002_keypoints.json has a coordinate -0.8" in refused(path)


def test_openpose_pixels_among_fractions(tmp_path: Path) -> None:
    """In whichever file the first person is: refused, or the video with fractions is reported."""
    path = openpose(tmp_path / "p", scaled((1 / WIDTH, 0), (1 / HEIGHT, 0)))
    openpose(path / "w", flat(BODY_25))
    assert f"{path}/w/v_000000000002_keypoints.json has a coordinate 236, a pixel, but {path}/v_00" in refused(path)
    path = openpose(tmp_path / "q", flat(BODY_25))
    openpose(path / "w", scaled((1 / WIDTH, 0), (1 / HEIGHT, 0)))
    assert "all joints in q lie within 2 pixels of the corner" in failure(path, clip("w/v")).message
    np.testing.assert_allclose(persons(path).keypoints[0], TRUTH)


def test_openpose_pixels_of_a_larger_picture(tmp_path: Path) -> None:
    """1 and 2: of the network's input or of the drawn video, here 2.1 times the source."""
    message = failure(openpose(tmp_path / "p", scaled((2.1, 0), (2.1, 0))), clip()).message
    assert "% of the joints in p lie outside of the picture of 320 x 240, the farthest at (" in message
    assert "a picture of another size" in message


def test_openpose_files_without_anybody(tmp_path: Path) -> None:
    estimator = PrecomputedEstimator(
        PoseConfig(backend="precomputed", config=str(openpose(tmp_path / "p", [], frame=-1)))
    )
    estimator.setup()
    (found,) = estimator([clip()])
    assert [len(frame) for frame in found] == [0, 0, 0]


# Lists of persons and pickles


def coco(path: Path, values: list[float], **more: Any) -> Path:
    """COCO results, or AlphaPose's, of one person in the third of six frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"image_id": "2.jpg", "keypoints": values, "score": 0.5, **more}]))
    return path


def mmaction(path: Path, values: list[float], size: tuple[int, int]) -> Path:
    """A pickle of one person in the third of six frames; ``size`` is the width and height that it states."""
    keypoint = np.zeros((1, 6, 17, 3))
    keypoint[0, 2] = np.reshape(values, (17, 3))
    entry = {"frame_dir": "v", "img_shape": size[::-1], "total_frames": 6, "keypoint": keypoint}
    path.write_bytes(pickle.dumps([entry]))
    return path


def test_fractions_where_pixels_belong_are_reported(tmp_path: Path) -> None:
    values = scaled((1 / WIDTH, 0), (1 / HEIGHT, 0), COCO)
    for path in (coco(tmp_path / "v.json", values), mmaction(tmp_path / "a.pkl", values, (WIDTH, HEIGHT))):
        message = failure(path, clip()).message
        assert f"all joints in {path.name} lie within 2 pixels of the corner, such as (0.46875, 0.166667)" in message


def test_pixels_where_fractions_belong_are_reported(tmp_path: Path) -> None:
    row = {"video_id": "v", "frame": 2, "person": 0, "keypoints": flat(COCO), "box": [0, 0, 1, 1, 1]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    assert "100% of the joints in p.parquet lie outside of 0 to 1" in failure(tmp_path / "p.parquet", clip()).message


def test_pixels_of_a_larger_picture_are_reported(tmp_path: Path) -> None:
    values = scaled((2, 0), (2, 0), COCO)
    for path in (coco(tmp_path / "v.json", values), mmaction(tmp_path / "a.pkl", values, (WIDTH, HEIGHT))):
        assert "a picture of another size" in failure(path, clip()).message
    # Where the file says how large, they are what they are.
    np.testing.assert_allclose(
        persons(mmaction(tmp_path / "a.pkl", values, (2 * WIDTH, 2 * HEIGHT))).keypoints[0], TRUTH
    )


def test_a_picture_on_its_side_is_reported(tmp_path: Path) -> None:
    """One tool turned the video as its header says, the other did not."""
    turned = [v for x, y, c in np.reshape(flat(COCO), (-1, 3)) for v in (y, WIDTH - x, c)]
    message = failure(mmaction(tmp_path / "a.pkl", turned, (HEIGHT, WIDTH)), clip()).message
    assert message == "a.pkl is about pictures of 240 x 320, the video has 320 x 240: one was turned"


def test_stretched_pictures_are_taken(tmp_path: Path) -> None:
    """Pictures were resized to 340 x 256 for Kinetics, whatever they were: fractions stay what they are."""
    values = scaled((200 / WIDTH, 0), (256 / HEIGHT, 0), COCO)
    np.testing.assert_allclose(persons(mmaction(tmp_path / "a.pkl", values, (200, 256))).keypoints[0], TRUTH)


def test_joints_beyond_the_edge_are_taken(tmp_path: Path) -> None:
    """Top-down models guess where a leg goes on below the picture, and are less sure of it."""
    values = np.reshape(flat(COCO), (17, 3))
    for joint in ("left_knee", "right_knee", "left_ankle", "right_ankle"):
        values[COCO.index(joint), 1:] = 300, 0.3
    want = values * (0.5, 0.5, 1)
    np.testing.assert_allclose(persons(coco(tmp_path / "v.json", list(values.ravel()))).keypoints[0], want)


def test_pictures_of_one_video_have_one_size(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"v/{n:06d}.jpg", "width": 320 * (1 + n % 2), "height": 240} for n in range(6)]
    rows = [{"image_id": n, "keypoints": flat(COCO), "score": 0.5} for n in (2, 3)]
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    message = failure(path, clip()).message
    assert "v.json: pictures of 'v' have the sizes (320, 240), (640, 240); allowed: one a video" in message


@pytest.mark.parametrize(
    "changes",
    [{"keypoints": [1.0] * 50}, {"keypoints": None}, {"bbox": [1, 2]}, {"bbox": "wide"}, {"score": "high"}],
)
def test_entries_that_are_something_else_cost_their_video_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "poses"
    coco(folder / "v.json", flat(COCO), **changes)
    coco(folder / "w.json", flat(COCO))
    message = failure(folder, clip("v")).message
    assert message.startswith("the entry 'v' of poses cannot be read as coco (")
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(folder)))
    estimator.setup()
    (good,) = estimator([clip("w")])
    assert [len(frame) for frame in good] == [0, 1, 0]
