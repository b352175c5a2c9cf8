"""Model specs: told by signature, read from a file, checked against the model, and what they decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import picture

from stages.pose.crops import CropGeometry, bilinear_crops
from stages.pose.crops import letterbox as letterbox_on_device
from stages.pose.images import crop, crop_window, letterbox, window_crop
from stages.pose.onnx_signature import Node, spec_of
from stages.pose.onnx_spec import OnnxModelSpec, read_spec
from store.errors import UsageError

SIMCC_IN = (Node("input", ("batch", 3, 256, 192), "tensor(float)"),)
SIMCC_OUT = (
    Node("simcc_x", ("batch", 17, 384), "tensor(float)"),
    Node("simcc_y", ("batch", 17, 512), "tensor(float)"),
)
UNKNOWN_OUT = (Node("a", ("n", 17, 384), "tensor(float)"), Node("b", ("n", 17, 512), "tensor(float)"))


def test_simcc_is_known_by_its_signature(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "m.onnx", SIMCC_IN, SIMCC_OUT)
    assert (spec.output, spec.height, spec.width, spec.colour) == ("simcc", 256, 192, "rgb")


def test_a_detector_with_suppression_is_rtmdet_as_mmdeploy_exports_it(tmp_path: Path) -> None:
    inputs = (Node("input", ("batch", 3, "height", "width"), "tensor(float)"),)
    outputs = (Node("dets", (1, "n", 5), "tensor(float)"), Node("labels", (1, "n"), "tensor(int64)"))
    blue_green_red = {"colour": "bgr", "mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}
    want = OnnxModelSpec("rtmdet", "mmdet-nms", 320, 320, fill=114, **blue_green_red)
    assert spec_of(tmp_path / "m.onnx", inputs, outputs) == want


def test_an_unknown_model_says_where_to_describe_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not known by its signature .*m\.spec\.json"):
        spec_of(tmp_path / "m.onnx", SIMCC_IN, UNKNOWN_OUT)


def test_a_file_beside_the_model_describes_it(tmp_path: Path) -> None:
    values = {"name": "mine", "output": "simcc", "height": 256, "width": 192, "mean": [1, 2, 3]}
    (tmp_path / "m.spec.json").write_text(json.dumps(values))
    spec = spec_of(tmp_path / "m.onnx", SIMCC_IN, UNKNOWN_OUT)
    assert spec == OnnxModelSpec("mine", "simcc", 256, 192, mean=(1.0, 2.0, 3.0))
    (tmp_path / "again.spec.json").write_text(json.dumps(spec.to_dict()))
    assert read_spec(tmp_path / "again.spec.json") == spec


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"height": 384}, r"the spec gives float32 N pictures of \[3, 384, 192\], the model takes input float"),
        ({"layout": "nhwc"}, "the model takes"),
        ({"dtype": "uint8"}, "the spec gives uint8"),
        ({"output": "movenet"}, "the spec says movenet, the model gives"),
        ({"output": "heatmap"}, "the spec says heatmap, the model gives"),
        ({"output": "heatmaps"}, "output is 'heatmaps'; allowed: mmdet-nms, movenet, simcc, heatmap"),
        ({"colour": "grey"}, "colour is 'grey'"),
        ({"mean": [1, 2]}, "three values each"),
        ({"std": [1, 0, 1]}, "std more than 0"),
        ({"scale": 2}, "unknown key 'scale'"),
        ({"width": None}, "is no model spec"),
    ],
)
def test_a_spec_that_disagrees_is_refused_in_one_line(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    values = {"name": "mine", "output": "simcc", "height": 256, "width": 192, **changed}
    (tmp_path / "m.spec.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=words) as caught:
        spec_of(tmp_path / "m.onnx", SIMCC_IN, SIMCC_OUT)
    assert "\n" not in str(caught.value)


def test_another_number_of_joints_is_refused(tmp_path: Path) -> None:
    outputs = tuple(Node(node.name, (1, 133, node.shape[2]), node.type) for node in SIMCC_OUT)
    with pytest.raises(UsageError, match="133 joints; allowed: 17"):
        spec_of(tmp_path / "m.onnx", SIMCC_IN, outputs)


HEATMAP_OUT = (Node("output", ("batch", 17, 64, 48), "tensor(float)"),)


def test_heatmap_models_are_known_by_their_signature(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "hrnet.onnx", SIMCC_IN, HEATMAP_OUT)
    assert (spec.name, spec.output, spec.height, spec.width) == ("heatmap", "heatmap", 256, 192)


def test_yolox_is_known_by_its_path(tmp_path: Path) -> None:
    """Its inputs and outputs are those of RTMDet; its pixels are not normalised."""
    inputs = (Node("input", (1, 3, 640, 640), "tensor(float)"),)
    outputs = (Node("dets", (1, "n", 5), "tensor(float)"), Node("labels", (1, "n"), "tensor(int64)"))
    spec = spec_of(tmp_path / "yolox_m_8xb8/end2end.onnx", inputs, outputs)
    assert (spec.name, spec.mean, spec.std, spec.colour) == ("yolox", (0, 0, 0), (1, 1, 1), "bgr")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((Node("o", (1, 17, 64, 64), "tensor(float)"),), "not one scale of the input 192 x 256"),
        ((Node("o", (1, 26, 64, 48), "tensor(float)"),), "26 joints; allowed: 17"),
        ((Node("o", (1, 17, 64, 48), "tensor(float16)"),), "outputs must be float32"),
        ((Node("o", (1, 17, 48), "tensor(float)"),), "the spec says heatmap, the model gives"),
        ((), "the spec says heatmap, the model gives"),
    ],
)
def test_outputs_are_checked_against_the_model(tmp_path: Path, outputs: tuple[Node, ...], words: str) -> None:
    (tmp_path / "m.spec.json").write_text('{"name": "m", "output": "heatmap", "height": 256, "width": 192}')
    with pytest.raises(UsageError, match=words):
        spec_of(tmp_path / "m.onnx", SIMCC_IN, outputs)


def test_simcc_axes_must_have_one_scale(tmp_path: Path) -> None:
    swapped = (SIMCC_OUT[1], SIMCC_OUT[0])  # what stands for x is as long as y
    (tmp_path / "m.spec.json").write_text('{"name": "m", "output": "simcc", "height": 256, "width": 192}')
    with pytest.raises(UsageError, match="are not one scale"):
        spec_of(tmp_path / "m.onnx", SIMCC_IN, swapped)


def test_heatmap_peaks_equal_those_of_mmpose() -> None:
    """Against mmpose's own decoder, on random maps and on peaks at borders."""
    pytest.importorskip("mmpose")
    from stages.pose import mmcv_compat

    mmcv_compat.install()
    from mmpose.codecs import MSRAHeatmap

    rng = np.random.default_rng(0)
    codec = MSRAHeatmap(input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
    spec = OnnxModelSpec("m", "heatmap", 256, 192)
    for _ in range(20):
        maps = rng.random((1, 17, 64, 48), dtype=np.float32)
        for joint, (row, column) in enumerate([(0, 0), (63, 47), (0, 20), (30, 0), (30, 47)]):
            maps[0, joint, row, column] = 1
        want, scores = codec.decode(maps[0].copy())
        (got,) = spec.decode_keypoints([maps])
        np.testing.assert_allclose(got[:, :2] * (192, 256), want[0], atol=1e-4)
        np.testing.assert_allclose(got[:, 2], scores[0])


def test_simcc_peaks_are_places() -> None:
    spec = OnnxModelSpec("m", "simcc", 256, 192)
    x, y = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    for joint in range(17):
        x[0, joint, 20 * joint], y[0, joint, 512 - 25 * (joint + 1)] = 0.9, 0.4 + joint / 10
    (keypoints,) = spec.decode_keypoints([x, y])
    np.testing.assert_allclose(keypoints[:, 0] * 192, np.arange(17) * 10)
    np.testing.assert_allclose(keypoints[:, 1] * 256, 256 - 12.5 * np.arange(1, 18))
    np.testing.assert_allclose(keypoints[:, 2], np.minimum(0.9, 0.4 + np.arange(17) / 10), rtol=1e-6)


def test_prepare_orders_normalises_and_lays_out() -> None:
    picture = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    spec = OnnxModelSpec("m", "simcc", 2, 4, colour="bgr", mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    got = spec.prepare(picture[None])
    assert (got.shape[1:], got.dtype) == (spec.input_shape[1:], np.float32)
    np.testing.assert_allclose(got[0, 0], (picture[..., 2] - 1.0) / 2)
    np.testing.assert_allclose(got[0, 2], (picture[..., 0] - 3.0) / 8)
    raw = OnnxModelSpec("m", "movenet", 2, 4, layout="nhwc", dtype="uint8").prepare(picture[None])
    assert raw.dtype == np.uint8
    assert np.array_equal(raw[0], picture)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 270), (320, 320), (100, 90)])
def test_letterbox_equals_that_of_the_mmpose_backend(height: int, width: int) -> None:
    frame = picture(height, width)
    want, factors = letterbox_on_device(torch.tensor(frame), 320, 320, 114)
    got, own = letterbox(frame, 320, 320, 114)
    assert own == pytest.approx(factors)
    assert np.abs(got.astype(int) - want.permute(1, 2, 0).numpy()).max() <= 1


def test_crops_equal_those_of_the_mmpose_backend() -> None:
    """Inside, across an edge, outside and tiny."""
    frame, geometry = picture(150, 200), CropGeometry(48, 64, 1.25, udp=False)
    boxes = np.array([[30, 20, 90, 140], [-30, 40, 60, 120], [500, 500, 600, 600], [50, 50, 52, 53]], np.float32)
    center, size = geometry.windows(boxes)
    want = bilinear_crops([frame] * 4, *geometry.samples(center, size)).permute(0, 2, 3, 1).numpy()
    for row in range(4):
        got = window_crop(frame, center[row] - size[row] / 2, geometry.steps(size)[row], width=48, height=64)
        assert np.abs(got.astype(int) - want[row]).max() <= 1


def test_crop_window_holds_the_box_in_the_models_aspect() -> None:
    np.testing.assert_allclose(crop_window(np.array([10, 20, 30, 60]), aspect=1, padding=1.25), [-5, 15, 50, 50])
    np.testing.assert_allclose(crop_window(np.array([10, 20, 30, 60]), aspect=0.75, padding=1), [5, 20, 30, 40])
    np.testing.assert_allclose(crop_window(np.array([10, 20, 40, 30]), aspect=0.75, padding=1), [10, 5, 30, 40])
    assert (crop_window(np.array([5.0, 5, 5, 5]), aspect=1, padding=1.25)[2:] == 1.25).all()


def test_crop_maps_pixels_to_where_the_window_says() -> None:
    # A linear ramp stays one under bilinear resizing: the crop's values tell where each pixel came from.
    x, y = np.meshgrid(np.arange(100) + 0.5, np.arange(80) + 0.5)
    frame = np.stack([x * 2, y * 2, np.zeros_like(x)], -1).round().astype(np.uint8)
    window = np.array([12.3, 20.7, 40.0, 30.0])
    picture = crop(frame, window, width=80, height=60).astype(float)
    want_x = (12.3 + (np.arange(80) + 0.5) / 80 * 40) * 2
    want_y = (20.7 + (np.arange(60) + 0.5) / 60 * 30) * 2
    np.testing.assert_allclose(picture[30, 2:-2, 0], want_x[2:-2], atol=0.55)
    np.testing.assert_allclose(picture[2:-2, 40, 1], want_y[2:-2], atol=0.55)


@pytest.mark.parametrize("x1", [-60.0, -20.5, 70.25, 500.0])
def test_crop_outside_the_frame_is_black(x1: float) -> None:
    frame = np.full((80, 100, 3), 200, np.uint8)
    picture = crop(frame, np.array([x1, -10.0, 50.0, 50.0]), width=50, height=50)
    inside = (np.arange(50) + x1 >= 1) & (np.arange(50) + x1 <= 98)
    outside = (np.arange(50) + x1 < -1.5) | (np.arange(50) + x1 > 100.5)
    assert (picture[12:, inside] == 200).all()
    assert not picture[:, outside].any()
    assert not picture[:9].any()


def mmdeploy(
    folder: Path, transforms: list[dict[str, Any]], decoder: dict[str, Any], net: str = "end2end.onnx"
) -> Path:
    """The files that MMDeploy writes beside a model."""
    tasks = [{"type": "Task", "module": "Transform", "transforms": transforms}, {"module": "Net"}, decoder]
    (folder / "pipeline.json").write_text(json.dumps({"pipeline": {"tasks": tasks}}))
    (folder / "deploy.json").write_text(json.dumps({"models": [{"name": "yolox", "net": net}]}))
    return folder / "end2end.onnx"


TOP_DOWN: list[dict[str, Any]] = [
    {"type": "LoadImageFromFile"},
    {"type": "TopDownGetBboxCenterScale", "padding": 1.1, "image_size": [192, 256]},
    {"type": "TopDownAffine", "image_size": [192, 256]},
    {"type": "Normalize", "mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": True},
]
SIMCC_DECODE = {"component": "SimCCLabelDecode", "params": {"type": "SimCCLabel", "simcc_split_ratio": 2.0}}


def test_what_mmdeploy_writes_beside_a_keypoint_model_describes_it(tmp_path: Path) -> None:
    file = mmdeploy(tmp_path, TOP_DOWN, SIMCC_DECODE)
    want = OnnxModelSpec("simcc", "simcc", 256, 192, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), padding=1.1)
    assert spec_of(file, SIMCC_IN, SIMCC_OUT) == want
    (tmp_path / "end2end.spec.json").write_text('{"name": "mine", "output": "simcc", "height": 256, "width": 192}')
    assert spec_of(file, SIMCC_IN, SIMCC_OUT).name == "mine"  # one's own word counts more


def test_what_mmdeploy_writes_beside_a_detector_describes_it(tmp_path: Path) -> None:
    """A YOLOX of 416 pixels, whose free sizes tell nothing, and whose pixels are not normalised."""
    transforms: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "keep_ratio": True, "size": [416, 416]},
        {"type": "Pad", "size": [416, 416], "pad_val": {"img": [113.0, 113.0, 113.0]}},
        {"type": "Pad", "size_divisor": 1},
    ]
    file = mmdeploy(tmp_path, transforms, {"component": "ResizeBBox", "params": {}})
    inputs = (Node("input", ("batch", 3, "height", "width"), "tensor(float)"),)
    outputs = (Node("dets", ("batch", "n", 5), "tensor(float)"), Node("labels", ("batch", "n"), "tensor(int64)"))
    assert spec_of(file, inputs, outputs) == OnnxModelSpec("yolox", "mmdet-nms", 416, 416, colour="bgr", fill=113)


def test_files_of_mmdeploy_are_those_of_the_model_that_they_name(tmp_path: Path) -> None:
    mmdeploy(tmp_path, TOP_DOWN, SIMCC_DECODE)
    other = spec_of(tmp_path / "other.onnx", SIMCC_IN, SIMCC_OUT)
    assert other.mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("transforms", "decoder", "words"),
    [
        (TOP_DOWN, {"component": "RTMODecode", "params": {}}, "read by RTMODecode; allowed: ResizeBBox, SimCC"),
        (TOP_DOWN[:2], SIMCC_DECODE, "no 'TopDownAffine'"),
        ([{**step, "use_udp": True} for step in TOP_DOWN], SIMCC_DECODE, r"unbiased data processing \(UDP\)"),
    ],
)
def test_a_pipeline_that_cannot_be_done_is_refused_in_one_line(
    tmp_path: Path, transforms: list[dict[str, Any]], decoder: dict[str, Any], words: str
) -> None:
    file = mmdeploy(tmp_path, transforms, decoder)
    with pytest.raises(UsageError, match=words) as caught:
        spec_of(file, SIMCC_IN, SIMCC_OUT)
    assert "end2end.spec.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_pipeline_of_the_tested_detector_says_what_its_signature_does(shared: Path, tmp_path: Path) -> None:
    inputs = (Node("input", ("batch", 3, "height", "width"), "tensor(float)"),)
    outputs = (Node("dets", ("batch", "n", 5), "tensor(float)"), Node("labels", ("batch", "n"), "tensor(int64)"))
    told = spec_of(shared / "weights/rtmdet_nano_person/end2end.onnx", inputs, outputs)
    assert told == spec_of(tmp_path / "alone.onnx", inputs, outputs)
