"""The pose stage around an estimator: arrays, fill, failures, plugging in; and the precomputed backend's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.pose import Persons, PoseConfig
from stages.pose.base import unique_frames
from stages.pose.stage import PoseStage
from stages.types import Clip, DecodedVideo, VideoFailure, VideoRef
from store.errors import MissingError, UsageError

NUM_FRAMES = 6


def clip(slot: int, video_id: str, *, decodable: int = 20, size: tuple[int, int] = (33, 47)) -> Clip:
    frames = np.zeros((NUM_FRAMES, *size, 3), np.uint8)
    indices = (np.arange(NUM_FRAMES) * decodable // NUM_FRAMES).astype(np.int32)
    video = DecodedVideo(frames, indices, indices / 25, decodable, decodable, 25.0, size[1], size[0])
    return Clip(VideoRef(slot, video_id, f"{video_id}.avi"), video)


class Scripted:
    """An estimator that says what its tests told it to, by video id."""

    answers: dict[str, Any] = {}  # noqa: RUF012
    name = "scripted"

    def __init__(self, config: PoseConfig) -> None:
        self.config = config

    def record(self) -> dict[str, Any]:
        return {"backend": "scripted"}

    def setup(self) -> None:
        pass

    def __call__(self, clips: list[Clip]) -> list[Any]:
        return [self.answers[clip.ref.video_id] for clip in clips]


class NoEstimator:
    def __init__(self, config: PoseConfig) -> None:
        pass


def somebody(value: float = 10.0) -> Persons:
    return Persons(np.full((1, 17, 3), value, np.float32), np.array([[0, 0, value, value, 0.5]], np.float32))


def stage(**config: Any) -> PoseStage:
    made = PoseStage(PoseConfig(**{"backend": f"{__name__}:Scripted", "num_frames": NUM_FRAMES, **config}))
    made.setup()
    return made


def test_arrays_are_as_the_modality_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "answers", {"a": [somebody()] * 3 + [Persons.nobody()] * 3})
    made = stage(max_persons=2)
    modality = made.modality()
    assert (modality.kind, modality.name) == ("pose", "scripted")
    output = made([clip(0, "a")])
    assert output.failures == {}
    assert {name: (array.shape[1:], str(array.dtype)) for name, array in output.arrays.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in modality.arrays.items()
    }
    np.testing.assert_allclose(output.arrays["keypoints"][0, 2, 0, 0], [10 / 47, 10 / 33, 10], rtol=1e-6)
    np.testing.assert_allclose(output.arrays["boxes"][0, 2, 0], [0, 0, 10 / 47, 10 / 33, 0.5], rtol=1e-6)
    assert not output.arrays["keypoints"][0, :, 1].any()
    assert not output.arrays["boxes"][0, 3:].any()


def test_failed_clips_are_nan_and_their_neighbours_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = VideoFailure("pose-unmatched", "b: why")
    answers = {"a": [somebody()] * 6, "b": failure, "c": [somebody(float("nan"))] * 6, "d": [somebody()] * 6}
    monkeypatch.setattr(Scripted, "answers", answers)
    output = stage()([clip(slot, name) for slot, name in enumerate("abcd", start=7)])
    assert output.failures[8] == failure
    assert output.failures[9].kind == "non-finite"
    assert set(output.failures) == {8, 9}
    for array in output.arrays.values():
        assert np.isnan(array[1:3]).all()
        assert np.isfinite(array[[0, 3]]).all()


def test_the_id_follows_what_changes_the_numbers() -> None:
    ids = {
        stage(**config).modality().id for config in ({}, {"max_persons": 3}, {"num_frames": 12}, {"max_detections": 9})
    }
    assert len(ids) == 3
    assert stage(threads=1, device="cpu").modality() == stage().modality()


def test_a_clip_with_another_number_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="6 frames, the pose stage wants 8"):
        stage(num_frames=8)([clip(0, "a")])


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"backend": "openpose"}, UsageError, "'openpose'; allowed: onnx"),
        ({"backend": "no_such_module:Class"}, MissingError, "no_such_module"),
        ({"backend": "stages.pose.base:NoClass"}, UsageError, "NoClass"),
        ({"backend": f"{__name__}:NoEstimator"}, UsageError, "is no PoseEstimator"),
        ({"max_persons": 0}, UsageError, "max_persons is 0"),
        ({"max_persons": 9}, UsageError, "max_detections is 6"),
        ({"backend": "precomputed"}, MissingError, "--pose-config"),
        ({"backend": "precomputed", "config": "nowhere.parquet"}, MissingError, "nowhere.parquet"),
    ],
)
def test_errors_at_construction(config: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PoseStage(PoseConfig(**config))


def test_unique_frames() -> None:
    first, inverse = unique_frames(clip(0, "a", decodable=4))
    assert first.tolist() == [0, 2, 3, 5]
    assert inverse.tolist() == [0, 0, 1, 2, 2, 3]


def truth(rows: list[dict[str, Any]], path: Path) -> Path:
    types = {"video_id": pa.string(), "frame": pa.int32(), "person": pa.int32()}
    schema = pa.schema([*types.items(), ("keypoints", pa.list_(pa.float32())), ("box", pa.list_(pa.float32()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def row(rng: np.random.Generator, video_id: str, frame: int, person: int, *, size: float = 0.3) -> dict[str, Any]:
    x, y = rng.uniform(0, 0.6, 2)
    box = np.array([x, y, x + size, y + size, 1.0], np.float32)
    return {
        "video_id": video_id,
        "frame": frame,
        "person": person,
        "keypoints": rng.random(51, dtype=np.float32).tolist(),
        "box": box.tolist(),
    }


def test_precomputed_gives_the_very_values_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Person 5 is the larger one; frame 9 has only person 2, frame 13 nobody; rows lie in the file in any order.
    people = {(f, p) for f in range(20) for p in (2, 5)} - {(9, 5), (13, 2), (13, 5)}
    rows = [row(rng, "v", f, p, size=0.4 if p == 5 else 0.2) for f, p in sorted(people)]
    rows += [row(rng, "other", 3, 0), {**row(rng, "empty", 0, -1), "keypoints": None, "box": None}]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    made = stage(backend="precomputed", config=str(truth(shuffled, tmp_path / "truth.parquet")))
    assert made.modality().name == "precomputed-truth"
    output = made([clip(0, "v", decodable=20), clip(1, "empty"), clip(2, "absent")])

    want = {(r["frame"], r["person"]): r for r in rows if r["video_id"] == "v"}
    for time, frame in enumerate(np.arange(NUM_FRAMES) * 20 // NUM_FRAMES):
        for slot, who in enumerate([5, 2]):
            expected = want.get((frame, who), {"keypoints": [0] * 51, "box": [0] * 5})
            keypoints = np.array(expected["keypoints"], np.float32).reshape(17, 3)
            np.testing.assert_array_equal(output.arrays["keypoints"][0, time, slot], keypoints)
            np.testing.assert_array_equal(output.arrays["boxes"][0, time, slot], np.array(expected["box"], np.float32))
    assert {0, 3, 6, 10, 13, 16} == set(np.arange(NUM_FRAMES) * 20 // NUM_FRAMES)
    assert not output.arrays["keypoints"][0, :, 2:].any()
    assert not output.arrays["keypoints"][1].any()
    assert output.failures.keys() == {2}
    assert output.failures[2].kind == "pose-unmatched"


def test_precomputed_follows_the_content_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = truth([row(rng, "v", 0, 0)], tmp_path / "truth.parquet")
    before = stage(backend="precomputed", config=str(path)).modality().id
    truth([row(rng, "v", 0, 0), row(rng, "v", 1, 0)], path)
    assert stage(backend="precomputed", config=str(path)).modality().id != before


def test_precomputed_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "truth.parquet"
    good = row(rng, "v", 4, 0)
    for rows, words in [
        ([{**good, "box": [0.0] * 4}], "box of video 'v', frame 4 has 4 values; allowed: 5"),
        ([{**good, "keypoints": None}], "keypoints of video 'v', frame 4 has 0 values; allowed: 51"),
        ([good, good], "'v', frame 4 has person 0 twice"),
    ]:
        with pytest.raises(UsageError, match=words):
            stage(backend="precomputed", config=str(truth(rows, path)))
    pq.write_table(pa.table({"video_id": ["v"], "frame": [0]}), path)
    with pytest.raises(UsageError, match="no column 'box'"):
        stage(backend="precomputed", config=str(path))
    path.write_bytes(b"not Parquet")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        stage(backend="precomputed", config=str(path))
