"""The ONNX backend against ground truth: twelve annotated COCO people, and the same pictures moved and scaled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.pose import PoseConfig
from stages.pose.onnx import OnnxEstimator
from stages.pose.tracking import keypoint_similarity
from store.errors import MissingError, UsageError

DETECTOR = "weights/rtmdet_nano_person/end2end.onnx"
MOVENET = "weights/movenet_lightning/movenet_lightning_{}.onnx"


@pytest.fixture(scope="module")
def estimator(shared: Path) -> Callable[..., OnnxEstimator]:
    made: dict[str, OnnxEstimator] = {}

    def make(model: str = "int8_dequantized") -> OnnxEstimator:
        if model not in made:
            weights = {"det_weights": str(shared / DETECTOR), "pose_weights": str(shared / MOVENET.format(model))}
            made[model] = OnnxEstimator(PoseConfig(backend="onnx", max_detections=20, **weights))
            made[model].setup()
        return made[model]

    return make


@pytest.fixture(scope="module")
def people(shared: Path) -> list[dict[str, Any]]:
    """The annotated persons with five keypoints and more, each with its picture."""
    annotations = json.loads((shared / "data/coco-mini/test_coco.json").read_text())
    files = {image["id"]: shared / "data/coco-mini" / image["file_name"] for image in annotations["images"]}
    found = []
    for person in annotations["annotations"]:
        if person["num_keypoints"] >= 5:
            x, y, width, height = person["bbox"]
            found.append(
                {
                    "image": person["image_id"],
                    "frame": np.array(Image.open(files[person["image_id"]]).convert("RGB")),
                    "box": np.array([x, y, x + width, y + height]),
                    "keypoints": np.array(person["keypoints"], float).reshape(17, 3),
                    "area": person["area"],
                }
            )
    assert len(found) == 12
    return found


@pytest.mark.parametrize("model", ["int8", "int8_dequantized"])
def test_keypoints_in_true_boxes(estimator: Callable[..., OnnxEstimator], people: list, model: str) -> None:
    similarity = [
        keypoint_similarity(
            estimator(model).keypoints([(person["frame"], person["box"])]),
            person["keypoints"][None],
            np.array([person["area"]]),
        )
        for person in people
    ]
    assert np.mean(similarity) >= 0.74


def test_every_person_is_detected(estimator: Callable[..., OnnxEstimator], people: list) -> None:
    missed = []
    for person in people:
        boxes = estimator().detect([person["frame"]])[0][:, :4]
        inner = np.minimum(boxes[:, 2:], person["box"][2:]) - np.maximum(boxes[:, :2], person["box"][:2])
        inner = inner.clip(0).prod(1)
        union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (person["box"][2:] - person["box"][:2]).prod() - inner
        if not (inner / union > 0.5).any():
            missed.append(person["box"])
    assert missed == []


def test_average_precision_with_detected_boxes(estimator: Callable[..., OnnxEstimator], shared: Path) -> None:
    """COCO's own evaluation of everything that the estimator finds in the four pictures, no box given."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth = coco.COCO(str(shared / "data/coco-mini/test_coco.json"))
    results = []
    for image in truth.dataset["images"]:
        frame = np.array(Image.open(shared / "data/coco-mini" / image["file_name"]).convert("RGB"))
        (boxes,) = estimator().detect([frame])
        for keypoints, box in zip(estimator().keypoints([(frame, box) for box in boxes]), boxes, strict=True):
            seen = keypoints[:, 2] > 0.2
            score = float(box[4]) * (float(keypoints[seen, 2].mean()) if seen.any() else 0.0)
            values = keypoints.astype(float).ravel().tolist()
            results.append({"image_id": image["id"], "category_id": 1, "keypoints": values, "score": score})
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision, precision_at_half, recall_at_half = (evaluation.stats[place] for place in (0, 1, 6))
    assert precision > 0.5
    assert precision_at_half > 0.85
    assert recall_at_half > 0.85


def test_boxes_follow_the_picture(estimator: Callable[..., OnnxEstimator], people: list) -> None:
    """Half as large and pasted at (50, 30) of a grey canvas, the person stands where the affine map says."""
    frame = people[0]["frame"]
    height, width = frame.shape[:2]
    small = np.asarray(Image.fromarray(frame).resize((width // 2, height // 2), Image.Resampling.LANCZOS))
    canvas = np.full((height // 2 + 90, width // 2 + 110, 3), 114, np.uint8)
    canvas[30 : 30 + height // 2, 50 : 50 + width // 2] = small
    (before, *_), (after, *_) = estimator().detect([frame, canvas])
    size = np.sqrt((before[2:4] - before[:2]).prod())
    np.testing.assert_allclose((after[:4] - [50, 30, 50, 30]) * 2, before[:4], atol=0.08 * size)


@pytest.mark.parametrize(("scale", "dx", "dy"), [(1, 37, 23), (2, 0, 0), (0.75, 10, 40)])
def test_keypoints_follow_the_picture(
    estimator: Callable[..., OnnxEstimator], people: list, scale: float, dx: int, dy: int
) -> None:
    moved_by, size = [], []
    for person in people[:4]:
        frame, box = person["frame"], person["box"]
        height, width = (round(side * scale) for side in frame.shape[:2])
        # Black around, as the crop itself has: a crop that reaches outside the picture sees the same.
        canvas = np.zeros((height + dy, width + dx, 3), np.uint8)
        canvas[dy:, dx:] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        factor = np.tile([width / frame.shape[1], height / frame.shape[0]], 2)
        before = estimator().keypoints([(frame, box)])[0]
        after = estimator().keypoints([(canvas, box * factor + [dx, dy, dx, dy])])[0]
        seen = before[:, 2] > 0.3
        assert seen.sum() >= 5
        moved_by.append(np.abs((after[seen, :2] - [dx, dy]) / factor[:2] - before[seen, :2]).max(1))
        size.append(np.full(seen.sum(), max(box[2:] - box[:2])))
    # MoveNet's own grid is 1/48 of the crop; a wrong map would be off by much more on every joint.
    moved = np.median(np.concatenate(moved_by) / np.concatenate(size))
    assert moved < (0.005 if scale == 1 else 0.02)


def test_an_exact_shift_gives_exactly_shifted_keypoints(estimator: Callable[..., OnnxEstimator], people: list) -> None:
    frame, box = people[0]["frame"], people[0]["box"].round()
    canvas = np.zeros((frame.shape[0] + 16, frame.shape[1] + 32, 3), np.uint8)
    canvas[16:, 32:] = frame
    before = estimator().keypoints([(frame, box)])
    after = estimator().keypoints([(canvas, box + np.array([32, 16, 32, 16]))])
    np.testing.assert_allclose(after - before, np.broadcast_to([32, 16, 0], before.shape), atol=1e-3)


def test_models_are_known_and_named(estimator: Callable[..., OnnxEstimator]) -> None:
    assert estimator().name == "onnx-rtmdet-movenet"
    record = estimator().record()
    assert (record["detector"]["width"], record["keypoints"]["width"]) == (320, 192)
    assert json.loads(json.dumps(record)) == record
    assert record["keypoints"]["sha256"] != estimator("int8").record()["keypoints"]["sha256"]


def test_wrong_files_are_named(shared: Path, tmp_path: Path) -> None:
    detector, movenet = str(shared / DETECTOR), str(shared / MOVENET.format("int8"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((shared / DETECTOR).read_bytes()[:1000])
    for det, pose, error, words in [
        (None, movenet, MissingError, "give --det-weights FILE, a person detector in ONNX"),
        (detector, None, MissingError, "give --pose-weights FILE"),
        (detector, "nowhere.onnx", MissingError, "--pose-weights is 'nowhere.onnx', which is not a file"),
        (movenet, movenet, UsageError, "a keypoint model; name a person detector"),
        (detector, detector, UsageError, "a detector; name a keypoint model"),
        (str(broken), movenet, UsageError, "cannot be loaded as an ONNX model"),
    ]:
        with pytest.raises(error, match=words):
            OnnxEstimator(PoseConfig(det_weights=det, pose_weights=pose)).record()


def test_a_device_that_is_not_there_is_named(shared: Path) -> None:
    weights = {"det_weights": str(shared / DETECTOR), "pose_weights": str(shared / MOVENET.format("int8"))}
    with pytest.raises(UsageError, match="device is 'tpu'; allowed"):
        OnnxEstimator(PoseConfig(**weights, device="tpu")).setup()
