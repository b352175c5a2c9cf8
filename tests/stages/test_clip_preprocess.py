"""Preprocessing against open_clip's own transform, and the joining of batches."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from stages.batching import fixed_batches
from stages.clip.models import build_model, resolve_model
from stages.clip.preprocess import Preprocess, resize_float, resize_uint8
from stages.transfer import Transfer


def ours(frames: np.ndarray, views: tuple[str, ...] = ("center",), interpolation: str = "bicubic") -> torch.Tensor:
    config = PreprocessCfg()
    transform = Preprocess(224, config.mean, config.std, interpolation)
    return torch.stack(list(transform(Transfer(torch.device("cpu")).send(frames), views)))


def theirs(frames: np.ndarray, **config: object) -> torch.Tensor:
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


def assert_same_pixels(one: torch.Tensor, two: torch.Tensor) -> None:
    """At most two levels of 0..255 apart, two of them almost nowhere; both normalised."""
    levels = ((one - two).abs() * torch.tensor(PreprocessCfg().std).view(3, 1, 1) * 255).round()
    assert levels.max() <= 2
    assert (levels == 2).float().mean() < 1e-4
    assert levels.mean() < 0.02


def real_frames(shared: Path) -> list[np.ndarray]:
    clips = sorted((shared / "data" / "ucf101-mini").rglob("*.avi"))[::16]
    assert len(clips) >= 4
    result = []
    for path in clips:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 0, 24, 8)]
        result.append(np.stack(frames))
    return result


def test_real_clips_as_open_clip_sees_them(shared: Path) -> None:
    visual = build_model(resolve_model("tiny", "none"), None, 0).visual
    for frames in real_frames(shared):
        mine, wanted = ours(frames)[0], theirs(frames)
        assert_same_pixels(mine, wanted)
        with torch.no_grad():
            one, two = visual(mine), visual(wanted)
        assert torch.cosine_similarity(one, two).min() >= 0.999
        other = torch.cosine_similarity(one, two.roll(1, 0) + torch.randn(two.shape) * two.std())
        assert other.max() < 0.999, "the bound can't tell pictures apart"


@pytest.mark.parametrize(("height", "width"), [(240, 320), (333, 180), (100, 150), (224, 224), (480, 853)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_noise_of_any_size(height: int, width: int, interpolation: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mine = ours(frames, ("center", "squash"), interpolation)
    # Pillow resizes columns before rows where that is cheaper: no squash to compare for (333, 180).
    for view, mode in enumerate(("shortest", "squash") if height <= width else ("shortest",)):
        assert_same_pixels(mine[view], theirs(frames, interpolation=interpolation, resize_mode=mode))


@pytest.mark.parametrize("size", [(224, 298), (96, 64), (400, 300)])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_resizing_in_fp32_gives_the_same_pixels(size: tuple[int, int], mode: str) -> None:
    pixels = torch.randint(0, 256, (2, 3, 240, 320), generator=torch.Generator().manual_seed(0)).byte()
    one, two = (resize(pixels, size, mode).int() for resize in (resize_uint8, resize_float))
    assert (one - two).abs().max() <= 2
    assert (one - two).abs().float().mean() < 0.05


def test_flip_is_the_mirror_of_center() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)
    center, flip = ours(frames, ("center", "flip"))
    assert torch.equal(flip, center.flip(-1))


@pytest.fixture
def torch_warns_always() -> Iterator[None]:
    """Else it warns once a process, and a test would see nothing of what an earlier one has caused."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("torch_warns_always")
def test_frames_are_never_written(recwarn: pytest.WarningsRecorder) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    frames.flags.writeable = False
    before = frames.copy()
    for given in (frames, frames[::2]):
        ours(given, ("center", "flip", "squash"))
    np.testing.assert_array_equal(frames, before)
    assert not recwarn.list


@pytest.mark.parametrize("sizes", [(3, 4, 1), (4, 4), (9,), (1, 1, 1), (10, 2, 5)])
def test_batches_hold_the_rows_in_order_and_zeros_after_them(sizes: tuple[int, ...]) -> None:
    total = sum(sizes)
    values = torch.arange(1, total + 1, dtype=torch.float32)[:, None]
    got = [(batch.clone(), rows) for batch, rows in fixed_batches(values.split(sizes), 4, torch.bfloat16)]
    assert {batch.shape for batch, _ in got} == {(4, 1)}
    assert {batch.dtype for batch, _ in got} == {torch.bfloat16}
    assert torch.equal(torch.cat([batch[:rows] for batch, rows in got]).float(), values)
    assert all(not batch[rows:].any() for batch, rows in got)
    assert len(got) == -(-total // 4)
