"""Poses of other tools: read as data, mapped to COCO's joints, matched to the frames that are stored."""

from __future__ import annotations

import collections
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.pose import COCO_JOINTS, Persons, PoseConfig
from stages.pose.imports import open_source
from stages.pose.imports.base import TOLERANCE, match_frames
from stages.pose.imports.pickles import load_pickle
from stages.pose.precomputed import PrecomputedEstimator
from stages.pose.skeletons import boxes_of, to_coco
from stages.types import Clip, DecodedVideo, VideoFailure, VideoRef
from store.errors import MissingError, UsageError

WIDTH, HEIGHT = 320, 240


def clip(video_id: str, *, frames: int = 5, decodable: int = 10, claimed: int | None = None) -> Clip:
    """A clip whose source is 320 x 240 and whose frames are stored half as large."""
    indices = (np.arange(frames) * decodable // frames).astype(np.int32)
    pictures = np.zeros((frames, HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    video = DecodedVideo(pictures, indices, indices / 25, decodable, claimed or decodable, 25.0, WIDTH, HEIGHT)
    return Clip(VideoRef(0, video_id, video_id), video)


def read(path: Path, video: Clip) -> Any:
    estimator = PrecomputedEstimator(PoseConfig(backend="precomputed", config=str(path)))
    assert json.loads(json.dumps(estimator.record())) == estimator.record()
    estimator.setup()
    (found,) = estimator([video])
    return found


def frame_numbers(found: list[Persons]) -> list[list[int]]:
    """The frames that the persons of a made-up file stand for: the first joint's x is the frame's number."""
    return [np.rint(persons.keypoints[:, 0, 0] * 2).astype(int).tolist() for persons in found]


def joints(frame: int, count: int = 17) -> np.ndarray:
    """A person of ``count`` joints in pixels of a 320 x 240 picture, who says in which frame he is."""
    values = np.empty((count, 3))
    values[:, 0], values[:, 1], values[:, 2] = frame + np.arange(count), 100 + 2 * np.arange(count), 0.75
    return values


# Pickles


class Mkdir:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def _global(target: str) -> bytes:
    return b"cos\nmkdir\n(S'" + target.encode() + b"'\ntR."


def _stack_global(target: str) -> bytes:
    text = target.encode()
    return b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c" + bytes([len(text)]) + text + b"\x85R."


def _inst(target: str) -> bytes:
    return b"(S'" + target.encode() + b"'\nios\nmkdir\n."


def _obj(target: str) -> bytes:
    return b"(cos\nmkdir\nS'" + target.encode() + b"'\no."


def _getattr_chain(target: str) -> bytes:
    # What a list of "harmless" builtins would let through.
    return b"cbuiltins\ngetattr\n(cnumpy\nos\nS'mkdir'\ntR(S'" + target.encode() + b"'\ntR."


def _dotted(target: str) -> bytes:
    text = target.encode()
    return b"\x80\x04\x8c\x05numpy\x8c\x08os.mkdir\x93\x8c" + bytes([len(text)]) + text + b"\x85R."


@pytest.mark.parametrize("attack", [_global, _stack_global, _inst, _obj, _getattr_chain, _dotted])
def test_pickles_execute_nothing(tmp_path: Path, attack: Callable[[str], bytes]) -> None:
    target = tmp_path / "made"
    file = tmp_path / "a.pkl"
    file.write_bytes(attack(str(target)))
    with pytest.raises(UsageError, match=r"a\.pkl wants .*is not read"):
        load_pickle(file)
    assert not target.exists()
    if attack not in (_getattr_chain, _dotted):  # these depend on what numpy happens to import
        pickle.loads(attack(str(target)))
        assert target.exists()  # the attack is a real one


def test_an_object_hidden_among_annotations_executes_nothing(tmp_path: Path) -> None:
    target, file = tmp_path / "made", tmp_path / "a.pkl"
    entry = {"frame_dir": "v", "total_frames": 1, "img_shape": (1, 1), "keypoint": np.array([Mkdir(target)], object)}
    file.write_bytes(pickle.dumps({"split": {}, "annotations": [entry]}))
    with pytest.raises(UsageError, match=r"wants \w+\.mkdir"):
        read(file, clip("v"))
    assert not target.exists()


def test_a_scalar_of_objects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.")
    with pytest.raises(UsageError, match="a scalar of objects"):
        load_pickle(file)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_numbers_and_containers_come_through(tmp_path: Path, protocol: int) -> None:
    content = {
        "a": np.arange(12, dtype=np.float16).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "text": np.array(["x", "yy"]),
        "empty": np.zeros((0, 17, 3)),
        "scalar": np.float32(1.5),
        "objects": np.array([{"k": 1}, None], dtype=object),
        "plain": [(1, 2), "v_Archery", 2.5, None, True, b"bytes", collections.OrderedDict(a=1)],
    }
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_pickle(file)
    assert list(found) == list(content)
    assert found.pop("plain") == content.pop("plain")
    for name, value in content.items():
        np.testing.assert_array_equal(found[name], value)
        assert type(found[name]) is type(value)
        assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-1]])
def test_damaged_pickles_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.pkl cannot be read as a pickle") as caught:
        load_pickle(tmp_path / "a.pkl")
    assert "\n" not in str(caught.value)


# mmaction2


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content) if path.suffix == ".pkl" else json.dumps(content).encode())
    return path


def dense(video: str, frames: int, people: list[list[int]]) -> dict[str, Any]:
    """Person m is there in the frames ``people[m]``; pictures of 640 x 480."""
    keypoint = np.zeros((len(people), frames, 17, 3), np.float16)
    for person, there in enumerate(people):
        for frame in there:
            keypoint[person, frame] = joints(frame) * (2, 2, 1)
    score = keypoint[..., 2]
    return {
        "frame_dir": video,
        "label": 0,
        "img_shape": (480, 640),
        "original_shape": (480, 640),
        "total_frames": frames,
        "keypoint": keypoint[..., :2],
        "keypoint_score": score,
    }


def test_mmaction_dense(tmp_path: Path) -> None:
    annotations = [dense("v_a", 10, [[0, 2, 4], [4, 6]]), dense("v_b", 7, [[]])]
    for content in (annotations, {"split": {"train": ["v_a"]}, "annotations": annotations}):
        path = write(tmp_path / "ucf101_2d.pkl", content)
        found = read(path, clip("v_a"))
        assert frame_numbers(found) == [[0], [2], [4, 4], [6], []]
        # 640 x 480 there, 160 x 120 here: a quarter.
        np.testing.assert_allclose(found[1].keypoints[0], joints(2) * (0.5, 0.5, 1), atol=0.1)
        np.testing.assert_allclose(found[1].boxes[0], [1, 50, 9, 66, 0.75], atol=0.1)
        assert found[1].ids is None
        assert [len(persons) for persons in read(path, clip("v_b", decodable=7))] == [0] * 5


def test_mmaction_kinetics(tmp_path: Path) -> None:
    """As published: a row a person and frame, every second frame, counted from 1, keypoints in files beside."""
    numbers = np.array([1, 3, 3, 7, 9], np.int16)
    entry = {
        "frame_dir": "aBcD",
        "img_shape": (240, 320),
        "original_shape": (240, 320),
        "total_frames": 10,
        "frame_inds": numbers,
        "box_score": np.linspace(0.5, 0.9, 5).astype(np.float16),
        "valid": {0.5: 4},
        "raw_file": "elsewhere/part_0.pkl",
    }
    last = {**entry, "frame_dir": "other", "frame_inds": np.array([10], np.int16), "box_score": np.ones(1, np.float16)}
    path = write(tmp_path / "k400_2d.pkl", {"split": {}, "annotations": [entry, last]})
    with pytest.raises(MissingError, match=r"no keypoints: unpack the kpfiles .*kpfiles"):
        read(path, clip("aBcD"))
    keypoints = np.stack([joints(number - 1) for number in numbers])
    write(tmp_path / "kpfiles/part_0.pkl", {"aBcD": {"keypoint": keypoints.astype(np.float16)}})
    found = read(path, clip("dancing/aBcD_000010_000020", frames=10))
    # Frames 0, 2, 4, 6, 8 are covered, and stand for the frames after them too; nobody is in frame 4.
    assert frame_numbers(found) == [[0], [0], [2, 2], [2, 2], [], [], [6], [6], [8], [8]]
    np.testing.assert_allclose(found[2].boxes[:, 4], [0.6, 0.7], atol=1e-3)
    assert "part_0.pkl has no keypoints of 'other'" in read(path, clip("other")).message


def test_the_published_kinetics_file(tmp_path: Path, shared: Path) -> None:
    """The real annotations, with made-up keypoints beside them: every listed person is where the file says."""
    path = tmp_path / "sample.pkl"
    shutil.copy(shared / "data/pose-imports/mmaction2_skeleton_sample.pkl", path)
    entries = load_pickle(path)["annotations"]
    assert len(entries) == 100
    for entry in entries[:3]:
        keypoints = np.stack([joints(frame - 1) for frame in entry["frame_inds"]])
        write(tmp_path / f"kpfiles/{entry['frame_dir']}.pkl", {"keypoint": keypoints})
    for entry in entries[:3]:
        total, frames = entry["total_frames"], entry["frame_inds"].astype(int) - 1
        found = read(path, clip(entry["frame_dir"], frames=total, decodable=total))
        scale = HEIGHT / 2 / entry["img_shape"][0], WIDTH / 2 / entry["img_shape"][1]
        for number in range(0, total, 2):
            rows = np.flatnonzero(frames == number)
            assert len(found[number]) == len(rows)
            np.testing.assert_allclose(found[number].keypoints[:, 0, 0], number * scale[1], atol=1e-3)
            np.testing.assert_allclose(found[number].boxes[:, 4], entry["box_score"][rows], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keypoint": np.zeros((1, 9, 17, 2))}, "is [1, 9, 17, 2], for 10 frames"),
        ({"keypoint": np.zeros((1, 10, 17, 3))}, "[M, T, V, 3] without"),
        ({"keypoint": np.zeros((1, 10, 25, 2)), "keypoint_score": np.ones((1, 10, 25))}, "has 25 joints a person"),
    ],
)
def test_a_bad_annotation_costs_its_video_alone(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bad = {**dense("bad", 10, [[0]]), **changes}
    path = write(tmp_path / "a.pkl", [bad, dense("good", 10, [[0]])])
    found = read(path, clip("bad"))
    assert found.kind == "pose-unmatched"
    assert words in found.message
    assert frame_numbers(read(path, clip("good"))) == [[0], [], [], [], []]


# OpenPose

# Where OpenPose has COCO's joints, from its documentation's tables, by hand.
BODY_25 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
COCO_18 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


def openpose(path: Path, *people: np.ndarray, key: str = "pose_keypoints_2d") -> None:
    write(path, {"version": 1.3, "people": [{"person_id": [-1], key: person.ravel().tolist()} for person in people]})


@pytest.mark.parametrize(("count", "order"), [(25, BODY_25), (18, COCO_18)])
def test_openpose_skeletons(tmp_path: Path, count: int, order: tuple[int, ...]) -> None:
    person = joints(0, count)
    person[order[3]] = 0  # the left ear is not seen
    for frame in range(10):
        openpose(tmp_path / f"poses/wave/v_{frame:012d}_keypoints.json", person)
    found = read(tmp_path / "poses", clip("wave/v"))
    want = person[list(order)] * (0.5, 0.5, 1)
    np.testing.assert_allclose(found[0].keypoints[0], want)
    assert (found[0].keypoints[0, 3] == 0).all()
    seen = want[want[:, 2] > 0]
    np.testing.assert_allclose(found[0].boxes[0], [*seen[:, :2].min(0), *seen[:, :2].max(0), 0.75])


@pytest.mark.parametrize("name", ["v/{}_keypoints.json", "v/v_{}_keypoints.json", "v_{}_keypoints.json"])
@pytest.mark.parametrize("first", [0, 1])
def test_openpose_layouts_and_numbering(tmp_path: Path, name: str, first: int) -> None:
    for frame in range(10):
        people = [joints(frame, 25)] if frame != 4 else []
        openpose(tmp_path / "poses" / name.format(f"{frame + first:012d}"), *people)
    found = read(tmp_path / "poses", clip("class/v"))
    assert frame_numbers(found) == [[0], [2], [], [6], [8]]


def test_openpose_fractions(tmp_path: Path) -> None:
    openpose(tmp_path / "v/0_keypoints.json", joints(0, 25) / (WIDTH, HEIGHT, 1), key="pose_keypoints")
    found = read(tmp_path, clip("v", frames=1, decodable=1))
    np.testing.assert_allclose(found[0].keypoints[0], joints(0, 25)[list(BODY_25)] * (0.5, 0.5, 1))


def test_openpose_files_that_are_something_else(tmp_path: Path) -> None:
    write(tmp_path / "v/0_keypoints.json", {"people": 3})
    found = read(tmp_path, clip("v", frames=1, decodable=1))
    assert "not what OpenPose writes" in found.message
    write(tmp_path / "v/x_keypoints.json", {"people": []})
    with pytest.raises(UsageError, match="has no frame number"):
        read(tmp_path, clip("v"))


# Lists of persons


def person(image_id: object, frame: int, **more: object) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "keypoints": joints(frame).ravel().tolist(), "score": 0.9, **more}


def test_alphapose(tmp_path: Path) -> None:
    rows = [person(f"{frame}.jpg", frame, idx=[3.0], box=[frame, 5, 40, 50], score=2.8) for frame in (2, 4, 6)]
    rows.append(person("4.jpg", 4, idx=[1.0], box=[200, 5, 40, 50], score=2.8))
    write(tmp_path / "poses/v/alphapose-results.json", rows)
    found = read(tmp_path / "poses", clip("v"))
    assert frame_numbers(found) == [[], [2], [4, 4], [6], []]
    np.testing.assert_allclose(found[1].boxes[0], [1, 2.5, 21, 27.5, 0.75])  # its own score is above 1
    assert found[2].ids is not None
    assert sorted(found[2].ids.tolist()) == [1, 3]
    assert found[1].ids.tolist() == [3]


def test_alphapose_with_more_joints_than_coco(tmp_path: Path) -> None:
    row = {"image_id": "0.jpg", "keypoints": joints(0, 136).ravel().tolist(), "score": 1}
    found = read(write(tmp_path / "v.json", [row]), clip("v"))
    np.testing.assert_allclose(found[0].keypoints[0], joints(0) * (0.5, 0.5, 1))


def test_coco_results_by_names_of_pictures(tmp_path: Path) -> None:
    rows = [person(f"class/v/img_{frame + 1:05d}.jpg", frame, bbox=[0, 0, 20, 30]) for frame in range(0, 10, 2)]
    found = read(write(tmp_path / "results.json", rows), clip("class/v"))
    assert frame_numbers(found) == [[0], [2], [4], [6], [8]]
    np.testing.assert_allclose(found[0].boxes[0], [0, 0, 10, 15, 0.9])


def test_coco_results_beside_the_list_of_their_images(tmp_path: Path) -> None:
    images = [
        {"id": 100 + frame, "file_name": f"v/{frame:06d}.jpg", "width": 640, "height": 480} for frame in range(10)
    ]
    write(tmp_path / "poses/images.json", {"images": images, "annotations": []})
    doubled = [{**person(100 + f, f), "keypoints": (joints(f) * (2, 2, 1)).ravel().tolist()} for f in (0, 6)]
    write(tmp_path / "poses/results.json", doubled)
    assert frame_numbers(read(tmp_path / "poses", clip("v"))) == [[0], [], [], [6], []]


def test_coco_annotations_are_truth(tmp_path: Path) -> None:
    annotation = {**person(7, 0, num_keypoints=16, bbox=[0, 0, 20, 30]), "score": 1}
    flags = joints(0)
    flags[:, 2], flags[4] = 2, 0
    flags[5, 2] = 1
    annotation["keypoints"] = flags.ravel().tolist()
    images = [{"id": 7, "file_name": "v/000000.jpg", "width": WIDTH, "height": HEIGHT}]
    found = read(
        write(tmp_path / "truth.json", {"images": images, "annotations": [annotation]}),
        clip("v", frames=1, decodable=1),
    )
    assert found[0].keypoints[0, :, 2].tolist() == [1.0] * 4 + [0.0] + [1.0] * 12


def test_real_coco_detections(shared: Path, tmp_path: Path) -> None:
    """Annotations as COCO publishes them: an image is a video of one frame."""
    source = json.loads((shared / "data/coco-mini/test_coco.json").read_text())
    image = source["images"][0]
    known = [row for row in source["annotations"] if row["image_id"] == image["id"] and row["num_keypoints"]]
    found = read(
        write(tmp_path / "all.json", {"images": [{**image, "file_name": "one/0.jpg"}], "annotations": known}),
        clip("one", frames=1, decodable=1),
    )
    assert len(found[0]) == len(known) > 0
    size = np.array([image["width"], image["height"]])
    for persons, row in zip(found[0].keypoints, known, strict=True):
        want = np.array(row["keypoints"], float).reshape(17, 3)
        seen = want[:, 2] > 0
        np.testing.assert_allclose(persons[seen, :2] / (WIDTH / 2, HEIGHT / 2), want[seen, :2] / size)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"people": []}, "holds no list of persons"),
        ([[1, 2]], "holds no list of persons"),
        ([{"keypoints": [0] * 51}], "has no image_id"),
        ([{"image_id": "x.jpg", "keypoints": [0] * 51}], "without a number"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(write(tmp_path / "v.json", content), clip("v"))


# Matching


@pytest.mark.parametrize("decodable", [9, 10, 11, 12])
def test_a_frame_more_or_less_at_the_end_is_another_way_of_counting(tmp_path: Path, decodable: int) -> None:
    path = write(tmp_path / "a.pkl", [dense("v", 10, [list(range(10))])])
    found = read(path, clip("v", frames=decodable, decodable=decodable))
    assert frame_numbers(found) == [[min(frame, 9)] for frame in range(decodable)]


def test_what_cannot_be_matched_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", [dense("v", 10, [list(range(10))])])
    longer = read(path, clip("v", frames=20, decodable=20))
    assert longer == VideoFailure(
        "pose-unmatched",
        "8 of 20 frames have no entry in a.pkl, the first is frame 12; it covers 10 frames from 0 to 9",
    )
    shorter = read(path, clip("v", frames=4, decodable=7))
    assert shorter.message == "a.pkl goes on to frame 9, the video ends with frame 6"
    cut_off = read(
        path, clip("v", frames=4, decodable=7, claimed=100)
    )  # the file of the video is cut off, not the poses
    assert frame_numbers(cut_off) == [[0], [1], [3], [5]]
    absent = read(path, clip("class/w"))
    assert absent.message == "no entry of a.pkl has this video_id; its first is 'v'"


def test_persons_after_the_end_are_another_videos(tmp_path: Path) -> None:
    path = write(tmp_path / "v.json", [person(f"{frame}.jpg", frame) for frame in (0, 40)])
    assert read(path, clip("v")).message == "v.json has somebody in frame 40, the video ends with frame 9"
    assert frame_numbers(read(path, clip("v", decodable=39))) == [[0], [], [], [], []]


@given(
    covered=st.sets(st.integers(0, 60), min_size=1).map(sorted),
    decodable=st.integers(1, 60),
    frames=st.integers(1, 20),
)
def test_matching_is_the_nearest_within_reach(covered: list[int], decodable: int, frames: int) -> None:
    video = clip("v", frames=frames, decodable=decodable)
    found = match_frames(video, np.array(covered), "f")
    gaps = np.diff(covered)
    reach = max(TOLERANCE, int(np.median(gaps)) // 2 if len(gaps) else 0)
    distance = [min(abs(frame - index) for frame in covered) for index in video.video.indices]
    if max(distance) > reach or covered[-1] - (decodable - 1) > TOLERANCE:
        assert isinstance(found, VideoFailure)
    else:
        assert not isinstance(found, VideoFailure)
        assert [abs(covered[p] - i) for p, i in zip(found, video.video.indices, strict=True)] == distance


# Skeletons


def test_missing_joints_have_no_confidence() -> None:
    for count in (17, 18, 25, 26, 133, 136):
        coco = to_coco(joints(0, count)[None], allowed=(count,), what="it")[0]
        assert (coco[:, 2] == 0.75).all(), count  # all of these know all of COCO's joints
    nowhere = np.full((1, 18, 3), np.nan)
    assert not to_coco(nowhere, allowed=(18,), what="it").any()
    assert to_coco(joints(0)[None] * (1, 1, 4), allowed=(17,), what="it")[..., 2].max() == 1
    with pytest.raises(UsageError, match="it has 21 joints a person; allowed: 17, 18"):
        to_coco(joints(0, 21)[None], allowed=(17, 18), what="it")
    assert len(COCO_JOINTS) == 17


def test_boxes_hold_the_joints_that_are_seen() -> None:
    keypoints = np.zeros((2, 17, 3))
    keypoints[0, 3] = 4, 5, 0.5
    keypoints[0, 9] = 8, 2, 1
    np.testing.assert_array_equal(boxes_of(keypoints), [[4, 2, 8, 5, 0.75], [0, 0, 0, 0, 0]])


# Which file is read how


def test_paths_that_are_no_poses(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for name, error, words in [
        (None, MissingError, "give --pose-config PATH of Parquet"),
        (str(tmp_path / "nothing.pkl"), MissingError, "not a file or folder"),
        (str(tmp_path / "notes.txt"), UsageError, "whose format is not known"),
        (str(tmp_path / "empty"), UsageError, "whose format is not known"),
    ]:
        with pytest.raises(error, match=words):
            open_source(name)


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    for place in ("a", "b"):
        for frame in range(3):
            openpose(tmp_path / place / f"v/{frame}_keypoints.json", joints(frame, 25))
    digest = open_source(str(tmp_path / "a")).digest()
    assert open_source(str(tmp_path / "b")).digest() == digest
    openpose(tmp_path / "b/v/2_keypoints.json", joints(3, 25))
    assert open_source(str(tmp_path / "b")).digest() != digest
    (tmp_path / "a/v").rename(tmp_path / "a/w")
    assert open_source(str(tmp_path / "a")).digest() != digest
