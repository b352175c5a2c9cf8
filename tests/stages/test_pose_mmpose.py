"""The mmpose backend: its shims, its weights, its geometry, and its results against mmpose's own inference."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import pickle
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.pose import checkpoints
from stages.pose import mmpose_models as models
from stages.pose.base import PoseConfig, PoseEstimator
from stages.pose.checkpoints import find_weights, load_into, published_checkpoint
from stages.pose.coco import COCO_JOINTS, COCO_SWAP
from stages.pose.crops import CropGeometry, bilinear_crops, cut, fit, letterbox
from stages.pose.mmpose import TopDownEstimator
from stages.pose.mmpose_models import read_config
from stages.seeded import seeded
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import MissingError, UsageError

torch.set_num_threads(1)  # mmpose would wait for threads that other tests keep busy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="the extra mmpose is not installed")

DETECTOR, SIMCC, HEATMAP, VIT = (
    "rtmdet_nano_320-8xb32_coco-person",
    "rtmpose-t_8xb256-420e_coco-256x192",
    "td-hm_mobilenetv2_8xb64-210e_coco-256x192",
    "td-hm_ViTPose-small_8xb64-210e_coco-256x192",
)
needs_mmpretrain = pytest.mark.skipif(
    importlib.util.find_spec("mmpretrain") is None, reason="mmpretrain is not installed"
)
RANDOM = PoseConfig(
    backend="mmpose",
    det_weights="none",
    pose_weights="none",
    config=f"{DETECTOR},{SIMCC}",
    max_persons=2,
    max_detections=2,
    device="cpu",
    threads=1,
    batch_size=4,
)
CPU = torch.device("cpu")
BOXES = np.array([[278, 44, 535, 406], [100, 50, 220, 300], [-20, -30, 150, 420], [500, 300, 680, 500]], np.float32)


@pytest.fixture(scope="module")
def estimator() -> TopDownEstimator:
    estimator = TopDownEstimator(RANDOM)
    estimator.setup()
    return estimator


@pytest.fixture(scope="module")
def image(shared: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(shared / "data" / "coco-mini" / "000000000785.jpg").convert("RGB"))


def build(name: str, seed: int = 0) -> torch.nn.Module:
    """A model as mmpose has it, with random weights: those of an estimator of the same seed."""
    return models.build(read_config(name), weights="none", flag="", seed=seed, device="cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture: neighbouring pixels are alike, as in a photograph."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def clip(slot: int, *frames: np.ndarray, indices: list[int] | None = None) -> Clip:
    stacked = np.stack(frames)
    stacked.flags.writeable = False
    count, height, width = stacked.shape[:3]
    positions = np.array(indices or range(count), np.int32)
    video = DecodedVideo(stacked, positions, positions / 25.0, count, count, 25.0, width, height)
    return Clip(VideoRef(slot, f"v{slot}", f"v{slot}.avi"), video)


# Shims


def test_nms_of_the_shim_keeps_the_best_of_overlapping_boxes(estimator: TopDownEstimator) -> None:
    from mmcv.ops import batched_nms, nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 2]])
    scores = torch.tensor([0.5, 0.9, 0.3, 0.4])
    kept, order = nms(boxes, scores, iou_threshold=0.5)
    assert order.tolist() == [1, 3, 2]
    torch.testing.assert_close(kept[:, 4], scores[order])
    # With the last pixel inside, [0, 2] x [0, 0] and [0, 2] x [0, 1] overlap by half instead of not at all.
    thin = torch.tensor([[0.0, 0, 2, 0], [0, 0, 2, 1]])
    assert len(nms(thin, scores[:2], iou_threshold=0.4, offset=1)[1]) == 1
    assert len(nms(thin, scores[:2], iou_threshold=0.4, offset=0)[1]) == 2
    apart = batched_nms(boxes, scores, torch.tensor([0, 1, 0, 0]), {"type": "nms", "iou_threshold": 0.5})[1]
    assert apart.tolist() == [1, 0, 3, 2]


def test_other_compiled_operators_are_refused_by_name(estimator: TopDownEstimator) -> None:
    from mmcv.ops import roi_align

    with pytest.raises(MissingError, match=r"roi_align_forward.*mmcv-lite") as caught:
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)
    assert caught.value.kind == "missing-package"


def test_annotations_are_read_with_pycocotools(estimator: TopDownEstimator) -> None:
    import pycocotools.coco
    import xtcocotools.coco
    from mmpose.datasets.datasets.base import base_coco_style_dataset

    assert xtcocotools.coco is pycocotools.coco
    assert base_coco_style_dataset.COCO is pycocotools.coco.COCO


# Configs and weights


def test_record_is_plain_json_and_tells_numbers_apart(estimator: TopDownEstimator) -> None:
    assert isinstance(TopDownEstimator(RANDOM), PoseEstimator)
    assert estimator.name == "mmpose-rtmpose-t_coco-256x192"
    record = TopDownEstimator(RANDOM).record()
    assert estimator.record() == record  # building the models has left it as it was
    assert json.loads(json.dumps(record)) == record
    assert record["detector"]["config"]["test_cfg"]["nms"] == {"type": "nms", "iou_threshold": 0.3}
    assert "https" not in json.dumps(record)
    assert TopDownEstimator(replace(RANDOM, threads=2, batch_size=8)).record() == record
    for change in ({"seed": 1}, {"max_detections": 3}, {"config": f"{DETECTOR},{HEATMAP}"}):
        assert TopDownEstimator(replace(RANDOM, **change)).record() != record  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(TopDownEstimator(RANDOM)))
    assert copy.record() == record


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a machine that reaches nothing."""

    def unreachable(url: str, timeout: float) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return tmp_path / "cache/weights"


def test_default_models_ask_for_their_published_checkpoints(no_network: Path, tmp_path: Path) -> None:
    default = PoseConfig(backend="mmpose")
    file = r"rtmdet_m_8xb32-100e_coco-obj365-person-\w+\.pth"
    with pytest.raises(MissingError, match=rf"put {file} into {no_network}, or give --det-weights FILE") as caught:
        TopDownEstimator(default).record()
    assert caught.value.kind == "missing-weights"
    assert "\n" not in str(caught.value)
    place = str(tmp_path / "pose.pth")
    with pytest.raises(MissingError, match=rf"--pose-weights is '{place}'.* save rtmpose-m_simcc-[\w-]+\.pth of"):
        TopDownEstimator(replace(default, det_weights="none", pose_weights=place)).setup()
    unlisted = type("Config", (), {"filename": str(tmp_path / "mine.py")})()
    with pytest.raises(MissingError, match="mine, which mmpose lists no checkpoint for: give --pose-weights FILE"):
        find_weights(None, config=unlisted, flag="--pose-weights")


def test_a_cache_filled_by_hand_is_used_where_it_is_what_its_name_says(
    no_network: Path, estimator: TopDownEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = (published_checkpoint(read_config(SIMCC)) or "").rpartition("/")[2]
    assert name.startswith("rtmpose-tiny_simcc-coco")
    no_network.mkdir(parents=True)
    torch.save({"state_dict": build(SIMCC).state_dict()}, no_network / name)
    filled = TopDownEstimator(replace(RANDOM, pose_weights=None, seed=7))
    digest = hashlib.sha256((no_network / name).read_bytes()).hexdigest()[:8]
    with pytest.raises(
        UsageError, match=rf"{name} has SHA-256 {digest}\.\.\., not .* give --pose-weights FILE"
    ) as caught:
        filled.setup()
    assert "\n" not in str(caught.value)
    right = f"{name.partition('-')[0]}-{digest}_20230101.pth"
    (no_network / name).rename(no_network / right)
    monkeypatch.setattr(checkpoints, "published_checkpoint", lambda config: f"https://zoo/{right}")
    filled.setup()
    people = [(noise(120, 160), np.array([20, 10, 90, 110, 1], np.float32))]
    np.testing.assert_array_equal(filled.keypoints(people), estimator.keypoints(people))


def test_checkpoints_are_fetched_once_whole_and_checked(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, content = read_config(SIMCC), b"weights"
    url = published_checkpoint(config)
    asked = []

    def serve(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", serve)
    with pytest.raises(MissingError, match="what came has SHA-256 "):
        find_weights(None, config=config, flag="--pose-weights")
    assert list(no_network.iterdir()) == []
    right = f"https://zoo/x-{hashlib.sha256(content).hexdigest()[:8]}_20230101.pth"
    monkeypatch.setattr(checkpoints, "published_checkpoint", lambda config: right)
    file = find_weights(None, config=config, flag="--pose-weights")
    assert (file.parent, file.read_bytes()) == (no_network, content)
    assert find_weights(None, config=config, flag="--pose-weights") == file
    assert asked == [url, right]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("rtmpose-m_8xb256-420e_coco-256x191", "did you mean rtmpose-m_8xb256-420e_coco-256x192?"),
        ("nowhere/config.py", "is not a file"),
        ("rtmo-s_8xb32-600e_coco-640x640", "allowed: a TopdownPoseEstimator, or one-stage RTMO"),
    ],
)
def test_unusable_configs_are_named(config: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TopDownEstimator(replace(RANDOM, config=config)).record()


@pytest.mark.parametrize("why", ["is not installed", "cannot be imported (No module named 'einops')"])
def test_a_model_of_parts_that_are_not_there_is_named(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ViTPose's trunk is mmpretrain's. Here there is none, or one that lacks what it needs itself."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmpretrain"]:
        monkeypatch.delitem(sys.modules, name)
    if why == "is not installed":
        monkeypatch.setitem(sys.modules, "mmpretrain", None)
    else:
        (tmp_path / "mmpretrain").mkdir()
        (tmp_path / "mmpretrain/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'einops'\")")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingError) as caught:
        TopDownEstimator(replace(RANDOM, config=f"{DETECTOR},{VIT}")).setup()
    assert str(caught.value) == (
        f"{VIT} is built of parts of mmpretrain, which {why}; install it with pip install mmpretrain, or choose "
        "RTMPose, HRNet or RTMO"
    )
    assert caught.value.kind == "missing-package"


def test_norms_in_convolutions_change_nothing_and_are_kept_where_they_would() -> None:
    model = build(SIMCC)
    torch.manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    picture = torch.rand(1, 3, 256, 192)
    fused = models.accelerated(model, 192, 256)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.backbone.modules())
    with torch.inference_mode():
        (want,), (got,) = model.extract_feat(picture), fused.extract_feat(picture)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))

    class NormFirst(torch.nn.Module):
        """Declared as convolution and norm, computed the other way round."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3)
            self.norm.running_mean.normal_()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(self.norm(x))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = NormFirst().eval()

        def extract_feat(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.backbone(x),)

    odd = Model().eval()
    assert models.accelerated(odd, 32, 32) is odd


def test_checkpoints_load_with_the_bookkeeping_of_their_trainer(estimator: TopDownEstimator, tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer
    from safetensors.torch import save_file

    other = TopDownEstimator(replace(RANDOM, seed=1))
    other.setup()
    people = [(noise(120, 160), np.array([20, 10, 90, 110, 1], np.float32))]
    want = other.keypoints(people)
    assert (want != estimator.keypoints(people)).any()

    state = build(SIMCC, seed=1).state_dict()
    meta = {"dataset_meta": {"sigmas": np.ones(17, np.float32), "joints": {1, 2}}, "epoch": np.int64(3)}
    history = {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    torch.save({"state_dict": state, "meta": meta, "message_hub": history}, tmp_path / "full.pth")
    torch.save(state, tmp_path / "bare.pth")
    save_file(state, tmp_path / "weights.safetensors")
    for file in sorted(tmp_path.iterdir()):
        loaded = TopDownEstimator(replace(RANDOM, pose_weights=str(file)))
        loaded.setup()
        np.testing.assert_array_equal(loaded.keypoints(people), want)


def test_checkpoints_of_older_versions_and_of_parallel_training_load(tmp_path: Path) -> None:
    """What of it is not the weights themselves plays no part: averages beside them, missing counts, other names."""
    model, other = build(HEATMAP), build(HEATMAP, seed=1)
    state = other.state_dict()
    old = {key.replace("head.", "keypoint_head.", 1): value for key, value in state.items()}
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    averages = {f"ema_{key.replace('.', '_')}": value * 0 for key, value in state.items()}
    wrapped = {f"module.{key}": value for key, value in state.items()}
    for name, content in {"old": old, "averages": {**state, **averages}, "wrapped": wrapped}.items():
        torch.save({"meta": {}, "state_dict": content}, tmp_path / f"{name}.pth")
        load_into(model, tmp_path / f"{name}.pth", flag="--pose-weights", config_name=HEATMAP)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), name
        model.load_state_dict(build(HEATMAP).state_dict())


class Harmful:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_checkpoints_execute_nothing(tmp_path: Path) -> None:
    file, target = tmp_path / "harmful.pth", tmp_path / "made"
    torch.save({"state_dict": {}, "meta": Harmful(target)}, file)
    with pytest.raises(UsageError, match=r"--pose-weights.*harmful\.pth.*mkdir.*safetensors"):
        TopDownEstimator(replace(RANDOM, pose_weights=str(file))).setup()
    assert not target.exists()
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"--pose-weights.*cannot be read"):
        TopDownEstimator(replace(RANDOM, pose_weights=str(file))).setup()
    file.rename(tmp_path / "harmful.safetensors")
    with pytest.raises(UsageError, match=r"--pose-weights.*cannot be read"):
        TopDownEstimator(replace(RANDOM, pose_weights=str(tmp_path / "harmful.safetensors"))).setup()


def test_checkpoints_of_another_model_are_refused(estimator: TopDownEstimator, tmp_path: Path) -> None:
    torch.save(build(DETECTOR).state_dict(), tmp_path / "detector.pth")
    with pytest.raises(UsageError, match=r"--pose-weights.*does not fit rtmpose-t.*--pose-config DETECTOR,POSE"):
        TopDownEstimator(replace(RANDOM, pose_weights=str(tmp_path / "detector.pth"))).setup()


# Geometry


@pytest.mark.parametrize("udp", [False, True])
def test_crops_equal_those_of_opencv(udp: bool) -> None:
    """Against cv2.warpAffine with mmpose's own matrices: windows inside, across an edge, outside and tiny."""
    import cv2

    from stages.pose import mmcv_compat

    mmcv_compat.install()
    from mmpose.structures.bbox import get_udp_warp_matrix, get_warp_matrix

    geometry = CropGeometry(width=96, height=128, padding=1.25, udp=udp)
    frames = [noise(150, 200, 1), noise(90, 70, 2), noise(150, 200, 3), noise(150, 200, 4), noise(60, 60, 5)]
    boxes = np.array([[30, 20, 90, 140], [-30, 40, 60, 120], [500, 500, 600, 600], [50, 50, 52, 53], [0, 0, 60, 60]])
    center, size = geometry.windows(boxes.astype(np.float32))
    on_cpu = cut(frames, geometry, center, size, CPU, fill=0).permute(0, 2, 3, 1).numpy()
    on_device = bilinear_crops(frames, *geometry.samples(center, size)).permute(0, 2, 3, 1).numpy()
    matrix = get_udp_warp_matrix if udp else get_warp_matrix
    for row, frame in enumerate(frames):
        warp = matrix(center[row], size[row], 0.0, output_size=(96, 128))
        want = cv2.warpAffine(frame, warp, (96, 128), flags=cv2.INTER_LINEAR)
        assert np.abs(on_cpu[row].astype(int) - want).max() <= 1, row
        assert (on_cpu[row] == want).mean() > 0.999, row
        assert np.abs(on_device[row].astype(int) - want).max() <= 1, row
    assert (on_device[2] == 0).all()


def test_a_crop_does_not_depend_on_its_neighbours() -> None:
    """To the bit, in whatever batch: 200 crops with others of all sizes beside them."""
    geometry = CropGeometry(width=24, height=32, padding=1.25, udp=False)
    rng = np.random.default_rng(0)
    frames = [noise(*rng.integers(20, 200, 2), seed) for seed in range(12)]
    for _ in range(100):
        chosen = rng.integers(0, len(frames), 2)
        corners = rng.uniform(-40, 160, (2, 2))
        boxes = np.concatenate((corners, corners + rng.uniform(2, 200, (2, 2))), axis=1).astype(np.float32)
        x, y = geometry.samples(*geometry.windows(boxes))
        both = bilinear_crops([frames[number] for number in chosen], x, y, fill=114)
        for row, number in enumerate(chosen):
            alone = bilinear_crops([frames[number]], x[row : row + 1], y[row : row + 1], fill=114)
            assert torch.equal(both[row], alone[0])


def test_outside_the_frame_is_the_grey_that_was_asked_for() -> None:
    x, y = np.array([[-3.0, -0.5, 0.0, 9.0, 9.5, 30.0]], np.float32), np.array([[0.0]], np.float32)
    white = np.full((10, 10, 3), 200, np.uint8)
    (crop,) = bilinear_crops([white], x, y, fill=100)
    assert crop[0, 0].tolist() == [100, 150, 200, 200, 150, 100]
    geometry, center, size = CropGeometry(5, 1, 1.0, udp=False), np.array([[0.75, 0.5]]), np.array([[2.5, 1]])
    (crop,) = cut([white], geometry, center, size, CPU, fill=100)
    assert crop[0, 0].tolist() == [150, 200, 200, 200, 200]  # from -0.5 on in steps of half a pixel


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 270), (100, 100)])
def test_letterbox_equals_the_detectors_own_pipeline(height: int, width: int) -> None:
    from stages.pose import mmcv_compat

    mmcv_compat.install()
    from mmcv.transforms import Pad, Resize

    frame = noise(height, width)
    want = Resize(scale=(320, 320), keep_ratio=True)({"img": frame})
    scale = want["scale_factor"]
    want = Pad(size=(320, 320), pad_val={"img": (114, 114, 114)})(want)["img"]
    on_cpu, factors = fit(frame, 320, 320, 114, CPU)
    assert factors == pytest.approx(scale)
    np.testing.assert_array_equal(on_cpu.permute(1, 2, 0).numpy(), want)
    on_device, factors = letterbox(torch.tensor(frame), 320, 320, 114)
    assert factors == pytest.approx(scale)
    assert np.abs(on_device.permute(1, 2, 0).numpy().astype(int) - want).max() <= 1


# Results


def cut_on_device(frames: list, geometry: CropGeometry, center: np.ndarray, size: np.ndarray, device: Any) -> Any:
    """As ``cut`` does it where the device is none of OpenCV's."""
    return bilinear_crops(frames, *geometry.samples(center, size), device)


@pytest.mark.parametrize("crops", [cut, cut_on_device])
@pytest.mark.parametrize("pose", [SIMCC, HEATMAP, pytest.param(VIT, marks=needs_mmpretrain)])
def test_keypoints_equal_those_of_inference_topdown(
    pose: str, crops: Any, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same boxes, random weights: coordinate classification and heatmaps, each with the flip test of its config."""
    monkeypatch.setattr("stages.pose.mmpose.cut", crops)
    model = build(pose)
    torch.manual_seed(0)
    for weight in model.head.parameters():
        if weight.dim() == 4:
            torch.nn.init.normal_(weight)  # else all joints would fall on one corner
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    estimator = TopDownEstimator(
        replace(RANDOM, config=f"{DETECTOR},{pose}", pose_weights=weights, batch_size=3, threads=2)
    )
    estimator.setup()
    from mmpose.apis import inference_topdown
    from mmpose.apis.inference import dataset_meta_from_config

    model.cfg, model.dataset_meta = estimator.pose_config, dataset_meta_from_config(estimator.pose_config)
    assert model.test_cfg["flip_test"]
    results = [result.pred_instances for result in inference_topdown(model, image[..., ::-1].copy(), BOXES)]
    got = estimator.keypoints([(image, box) for box in BOXES])
    want = np.concatenate([found.keypoints for found in results])
    assert np.ptp(want, axis=1).max() > 20  # the joints are told apart, so that an exchange of them would show
    assert np.abs(got[..., :2] - want).max() < 0.5
    scores = np.concatenate([found.keypoint_scores for found in results])
    np.testing.assert_allclose(got[..., 2], scores.clip(0, 1), atol=0.02)


def test_boxes_equal_those_of_the_detector_frame_by_frame(tmp_path: Path) -> None:
    """On pictures of the detector's own size nothing is resized, so that only the batching differs."""
    from mmdet.structures import DetDataSample

    frames = [noise(320, 320, seed) for seed in range(6)]
    detector = build(DETECTOR)
    # Norms as after training, else little of a picture would reach the head and rounding would choose among its boxes.
    pictures = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 64 - 2
    norms = [module for module in detector.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad(), seeded(0):
        detector.train().bbox_head(detector.extract_feat(pictures))
        for convolution in detector.bbox_head.rtm_cls:
            torch.nn.init.normal_(convolution.weight)
    detector.eval()
    torch.save(detector.state_dict(), tmp_path / "weights.pth")
    estimator = TopDownEstimator(replace(RANDOM, det_weights=str(tmp_path / "weights.pth")))
    estimator.setup()
    detector.test_cfg = detector.bbox_head.test_cfg = estimator.detector_config.model.test_cfg
    for frame, got in zip(frames, estimator.detect(frames), strict=True):
        sample = DetDataSample(metainfo={"img_shape": (320, 320), "ori_shape": (320, 320), "scale_factor": (1.0, 1.0)})
        bgr = torch.tensor(frame[..., ::-1].copy()).permute(2, 0, 1)
        with torch.no_grad():
            (result,) = detector.test_step({"inputs": [bgr], "data_samples": [sample]})
        stock = np.column_stack((result.pred_instances.bboxes, result.pred_instances.scores))
        assert got.shape == (2, 5)
        for box in got:
            assert np.abs(stock - box).max(axis=1).min() < 0.01


def test_results_do_not_depend_on_the_other_clips(estimator: TopDownEstimator) -> None:
    small, large = [noise(96, 128, seed) for seed in range(3)], [noise(200, 150, seed) for seed in range(3, 8)]
    repeating = clip(2, small[0], small[1], small[1], small[2], indices=[0, 4, 4, 9])
    clips = [clip(0, *small), clip(1, *large), repeating]
    together = estimator(clips)
    assert [len(frames) for frames in together] == [3, 5, 4]
    for alone, with_others in zip((estimator([one])[0] for one in clips), together, strict=True):
        for one, other in zip(alone, with_others, strict=True):
            assert len(one) == 2
            assert one.keypoints.dtype == one.boxes.dtype == np.float32
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.keypoints, other.keypoints)
    assert together[2][1] is together[2][2]
    np.testing.assert_array_equal(together[2][3].keypoints, together[0][2].keypoints)


def test_batches_cross_persons_frames_and_videos(estimator: TopDownEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven different frames of three clips are two batches of the detector, their 14 persons four of the other."""
    calls = []

    def counted(model: torch.nn.Module, inputs: Any, samples: list[Any]) -> list[Any]:
        calls.append((type(model).__name__, len(samples)))
        return run(model, inputs, samples)

    run = models.run
    monkeypatch.setattr(models, "run", counted)
    first, second = [noise(96, 128, seed) for seed in range(3)], [noise(90, 70, seed) for seed in range(3, 6)]
    repeating = clip(2, noise(60, 80, 6), noise(60, 80, 6), indices=[0, 0])
    found = estimator([clip(0, *first), clip(1, *second), repeating])
    assert [len(persons) for frames in found for persons in frames] == [2] * 8
    assert calls == [("RTMDet", 4)] * 2 + [("TopdownPoseEstimator", 4)] * 4


def test_frames_without_persons(estimator: TopDownEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [np.zeros((0, 5), np.float32), np.array([[5, 5, 60, 90, 0.9]], np.float32), np.zeros((0, 5), np.float32)]
    monkeypatch.setattr(estimator, "detect", lambda frames: found[: len(frames)])
    (frames,) = estimator([clip(0, *(noise(96, 128, seed) for seed in range(3)))])
    assert [len(persons) for persons in frames] == [0, 1, 0]
    (nobody,) = estimator([clip(0, noise(96, 128))])
    assert len(nobody[0]) == 0
    assert estimator([]) == []


def test_joints_of_another_skeleton_are_mapped_by_name() -> None:

    models.mmcv_compat.install()
    coco, flip = models.skeleton(models.read_config(SIMCC))
    assert coco == {joint: joint for joint in range(17)}
    assert flip == list(COCO_SWAP)
    crowdpose, _ = models.skeleton(models.read_config("td-hm_hrnet-w32_8xb64-210e_crowdpose-256x192"))
    assert {COCO_JOINTS[joint]: own for joint, own in crowdpose.items()}["left_shoulder"] == 0
    assert COCO_JOINTS.index("nose") not in crowdpose
    hand = "rtmpose-m_8xb256-210e_hand5-256x256"
    with pytest.raises(UsageError, match="none of COCO's joints"):
        models.skeleton(models.read_config(hand))
