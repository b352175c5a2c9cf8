"""What every pose estimator must do, whatever it is made of."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.pose import Persons, PoseConfig, PoseEstimator
from stages.pose.stage import PoseStage, create_estimator
from stages.types import Clip, DecodedVideo, VideoFailure, VideoRef

SIZES = {"people": (200, 300), "more": (150, 120), "blank": (90, 160)}


class BrightSpot:
    """The smallest estimator there can be: whoever is in the picture stands at its brightest pixel."""

    name = "bright-spot"

    def __init__(self, config: PoseConfig) -> None:
        pass

    def record(self) -> dict[str, Any]:
        return {"backend": "bright-spot"}

    def setup(self) -> None:
        pass

    def __call__(self, clips: list[Clip]) -> list[list[Persons] | VideoFailure]:
        return [[self._persons(frame.sum(-1)) for frame in clip.video.frames] for clip in clips]

    def _persons(self, light: np.ndarray) -> Persons:
        if light.max() == light.min():
            return Persons.nobody()
        y, x = np.unravel_index(light.argmax(), light.shape)
        box = np.array([[x - 5, y - 5, x + 5, y + 5, 1]], np.float32)
        return Persons(np.tile(np.array([x, y, 1], np.float32), (1, 17, 1)), box)


def make_fake(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    return PoseConfig(backend=f"{__name__}:BrightSpot")


def make_onnx(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    weights = shared() / "weights"
    return PoseConfig(
        det_weights=str(weights / "rtmdet_nano_person/end2end.onnx"),
        pose_weights=str(weights / "movenet_lightning/movenet_lightning_int8_dequantized.onnx"),
        device="cpu",
    )


def make_precomputed(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"video_id": "blank", "frame": 0, "person": -1, "keypoints": None, "box": None}]
    for video_id in ("people", "more"):
        for frame in range(40):
            for person in range(2):
                keypoints = rng.random(51).tolist()
                x, y = rng.uniform(0, 0.5, 2)
                box = [x, y, x + 0.4, y + 0.4, 0.9]
                rows.append(
                    {"video_id": video_id, "frame": frame, "person": person, "keypoints": keypoints, "box": box}
                )
    columns = {"keypoints": pa.list_(pa.float32()), "box": pa.list_(pa.float32())}
    names = {"video_id": pa.string(), "frame": pa.int32(), "person": pa.int32()}
    path = tmp_path / "truth.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list({**names, **columns}.items()))), path)
    return PoseConfig(backend="precomputed", config=str(path))


def people(video_id: str) -> np.ndarray:
    """Two made-up persons [40, 2, 17, 3] in fractions of the frame; nobody in ``blank``."""
    rng = np.random.default_rng(len(video_id))
    return rng.random((40, 2, 17, 3)) * (video_id != "blank")


def make_mmaction(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    annotations = []
    for video_id, (height, width) in SIZES.items():
        keypoints = people(video_id).transpose(1, 0, 2, 3)
        annotations.append(
            {
                "frame_dir": video_id,
                "total_frames": 40,
                "img_shape": (height, width),
                "keypoint": (keypoints[..., :2] * (width, height)).astype(np.float16),
                "keypoint_score": keypoints[..., 2].astype(np.float16),
            }
        )
    path = tmp_path / "skeletons.pkl"
    path.write_bytes(pickle.dumps({"split": {}, "annotations": annotations}))
    return PoseConfig(backend="precomputed", config=str(path))


def make_openpose(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    for video_id, (height, width) in SIZES.items():
        (tmp_path / "openpose" / video_id).mkdir(parents=True)
        for frame, persons in enumerate(people(video_id)):
            padded = np.pad(persons * (width, height, 1), ((0, 0), (0, 1), (0, 0)))  # eighteen joints
            content = {"people": [{"pose_keypoints_2d": person.ravel().tolist()} for person in padded if person.any()]}
            file = tmp_path / "openpose" / video_id / f"{video_id}_{frame:012d}_keypoints.json"
            file.write_text(json.dumps(content))
    return PoseConfig(backend="precomputed", config=str(tmp_path / "openpose"))


def make_mmpose(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    return _random_mmpose("rtmdet_nano_320-8xb32_coco-person,rtmpose-t_8xb256-420e_coco-256x192")


def make_rtmo(shared: Callable[[], Path], tmp_path: Path) -> PoseConfig:
    return _random_mmpose("rtmo-t_8xb32-600e_body7-416x416")


def _random_mmpose(config: str) -> PoseConfig:
    pytest.importorskip("mmpose")
    weights = {"det_weights": "none", "pose_weights": "none", "config": config}
    return PoseConfig(backend="mmpose", max_persons=2, max_detections=2, batch_size=4, device="cpu", **weights)


# Building models takes long; what matters most of this is among the quick tests of each backend too.
SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (make_mmpose, make_rtmo)]


@pytest.fixture(params=[make_fake, make_onnx, make_precomputed, make_mmaction, make_openpose, *SLOW])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> PoseConfig:
    return request.param(lambda: request.getfixturevalue("shared"), tmp_path)


@lru_cache(maxsize=16)
def ready(config: PoseConfig) -> PoseEstimator:
    """An estimator that is set up; building models takes long, and many tests want the same one."""
    made = create_estimator(config)
    made.setup()
    return made


@pytest.fixture
def estimator(config: PoseConfig) -> PoseEstimator:
    return ready(config)


@pytest.fixture(scope="module")
def picture(request: pytest.FixtureRequest) -> np.ndarray:
    """People, where there is a photograph of some; noise elsewhere: what is checked here is not who is found."""
    try:
        shared: Path = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    return np.array(Image.open(shared / "data/coco-mini/000000197388.jpg").convert("RGB"))


def make_clip(picture: np.ndarray, video_id: str, *, num_frames: int, decodable: int = 40) -> Clip:
    """A slow pan over the picture (``blank``: grey), read-only, with frames repeated where fewer decode."""
    height, width = SIZES[video_id]
    indices = (np.arange(num_frames) * decodable // num_frames).astype(np.int32)
    whole = Image.fromarray(picture)
    pan = [np.asarray(whole.resize((width, height), box=(i, 0, 560 + i, picture.shape[0]))) for i in indices]
    frames = np.stack(pan) if video_id != "blank" else np.full((num_frames, height, width, 3), 114, np.uint8)
    frames.flags.writeable = False
    # A clip with fewer frames is one that ends early, so that poses of the frames after its end are no mistake.
    video = DecodedVideo(frames, indices, indices / 25, decodable, 40, 25.0, width, height)
    return Clip(VideoRef(0, video_id, video_id), video)


def equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.keypoints, y.keypoints) and np.array_equal(x.boxes, y.boxes) for x, y in zip(a, b, strict=True)
    )


def test_shapes_types_and_ranges(estimator: PoseEstimator, picture: np.ndarray) -> None:
    clips = [make_clip(picture, video_id, num_frames=4) for video_id in ("people", "blank", "more")]
    results = estimator(clips)
    assert len(results) == 3
    for clip, frames in zip(clips, results, strict=True):
        assert not isinstance(frames, VideoFailure)
        assert len(frames) == 4
        for persons in frames:
            assert persons.keypoints.dtype.kind == persons.boxes.dtype.kind == "f"
            assert np.isfinite(persons.keypoints).all()
            assert ((persons.keypoints[..., 2] >= 0) & (persons.keypoints[..., 2] <= 1)).all()
            assert ((persons.boxes[:, 4] >= 0) & (persons.boxes[:, 4] <= 1)).all()
            assert (persons.boxes[:, 2:4] >= persons.boxes[:, :2]).all()
            # Pixels of the frame that was given, not fractions and not those of the model's input.
            height, width = clip.video.frames.shape[1:3]
            assert (persons.boxes[:, :4] <= np.array([width, height, width, height]) + 5).all()
    assert any(len(persons) and persons.boxes[:, 2].max() > 20 for persons in results[0])


def test_an_empty_picture_has_nobody(config: PoseConfig, estimator: PoseEstimator, picture: np.ndarray) -> None:
    if config.pose_weights == "none":
        pytest.skip("random weights find somebody everywhere")
    (frames,) = estimator([make_clip(picture, "blank", num_frames=3)])
    assert [len(persons) for persons in frames] == [0, 0, 0]


def test_the_same_again_and_alone_and_in_another_order(estimator: PoseEstimator, picture: np.ndarray) -> None:
    clips = [make_clip(picture, video_id, num_frames=3) for video_id in ("people", "more", "blank")]
    together = estimator(clips)
    assert all(map(equal, together, estimator(clips)))
    assert all(map(equal, together[::-1], estimator(clips[::-1])))
    for clip, frames in zip(clips, together, strict=True):
        assert equal(frames, estimator([clip])[0])


def test_frames_in_another_order_give_persons_in_that_order(estimator: PoseEstimator, picture: np.ndarray) -> None:
    clip = make_clip(picture, "people", num_frames=4)
    video = clip.video
    order = [2, 0, 3, 1]
    shuffled = DecodedVideo(video.frames[order], video.indices[order], video.pts[order], 40, 40, 25.0, 300, 200)
    (frames,), (again,) = estimator([clip]), estimator([Clip(clip.ref, shuffled)])
    assert equal([frames[place] for place in order], again)


def test_repeated_frames_have_the_same_persons(estimator: PoseEstimator, picture: np.ndarray) -> None:
    short = make_clip(picture, "people", num_frames=6, decodable=2)
    (frames,) = estimator([short])
    assert short.video.indices.tolist() == [0, 0, 0, 1, 1, 1]
    assert equal(frames[:3], [frames[0]] * 3)
    assert equal(frames[3:], [frames[3]] * 3)
    assert not equal(frames[:1], frames[3:4])


def test_one_frame_and_no_clip(estimator: PoseEstimator, picture: np.ndarray) -> None:
    (frames,) = estimator([make_clip(picture, "people", num_frames=1)])
    assert len(frames) == 1
    assert estimator([]) == []


def test_the_record_is_plain_cheap_and_does_not_change(config: PoseConfig) -> None:
    estimator = create_estimator(config)
    record = estimator.record()
    assert json.loads(json.dumps(record)) == record
    estimator.setup()
    assert estimator.record() == record
    assert create_estimator(config).record() == record
    assert create_estimator(config).name == estimator.name


def test_threads_change_nothing(config: PoseConfig, picture: np.ndarray) -> None:
    clips = [make_clip(picture, "people", num_frames=4), make_clip(picture, "more", num_frames=4)]
    results = []
    for threads in (1, 3):
        made = create_estimator(PoseConfig(**{**vars(config), "threads": threads}))
        made.setup()
        results.append(made(clips))
    assert all(map(equal, *results))


def test_the_stage_normalises_and_leaves_no_hole(config: PoseConfig, picture: np.ndarray) -> None:
    made = PoseStage(PoseConfig(**{**vars(config), "num_frames": 4}))
    made.setup()
    clips = [make_clip(picture, video_id, num_frames=4) for video_id in ("people", "blank")]
    output = made(clips)
    assert output.failures == {}
    for name, spec in made.modality().arrays.items():
        array = output.arrays[name]
        assert array.shape == (2, *spec.shape)
        assert array.dtype == spec.dtype
        assert np.isfinite(array).all()
        assert not array[1].any() or config.pose_weights == "none"
    boxes = output.arrays["boxes"][0]
    assert boxes[..., 4].max() > 0
    assert boxes[..., :4].max() <= 1.1
    assert output.arrays["keypoints"][0, ..., 2].max() <= 1
    # Slots fill from 0: one that is never filled has no filled one behind it.
    used = (boxes[..., 4] > 0).any(0).tolist()
    assert used == sorted(used, reverse=True)
