"""Views against torchvision's own transforms, and points against pixels."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clip.preprocess import Preprocess
from stages.geometry import VIEWS, crop_of, inside, to_view
from store.errors import UsageError

SIDE = st.integers(16, 700)


@settings(max_examples=60, deadline=None)
@given(width=SIDE, height=SIDE, size=st.sampled_from([224, 240, 336, 37]))
def test_center_rounds_as_torchvision(width: int, height: int, size: int) -> None:
    crop = crop_of("center", width, height, size)
    resized = tvf.resize(torch.empty(1, height, width), [size], tvf.InterpolationMode.NEAREST)
    assert (crop.height, crop.width) == resized.shape[1:]
    positions = torch.arange(crop.height * crop.width).reshape(1, crop.height, crop.width)
    assert int(tvf.center_crop(positions, [size, size])[0, 0, 0]) == crop.top * crop.width + crop.left


def test_center256_resizes_the_short_side_further() -> None:
    crop = crop_of("center256", 320, 240, 224)
    assert (crop.width, crop.height, crop.left, crop.top) == (341, 256, 58, 16)
    assert crop_of("center256", 320, 240, 336).height == 384


def test_squash_keeps_everything() -> None:
    assert crop_of("squash", 320, 240, 224) == crop_of("squash", 224, 224, 224)
    points = np.random.default_rng(0).random((5, 2))
    np.testing.assert_allclose(to_view(points, "squash", 320, 240, 224), points)


def test_center_cuts_the_long_side() -> None:
    corners = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0], [1 / 8, 0.5]])
    mapped = to_view(corners, "center", 400, 300, 300)
    np.testing.assert_allclose(mapped, [[-1 / 6, 0], [0.5, 0.5], [7 / 6, 1], [0, 0.5]], atol=1e-12)
    assert inside(mapped).tolist() == [False, True, False, True]


def test_flip_mirrors_center() -> None:
    points = np.random.default_rng(1).random((4, 3, 2))
    center, flip = (to_view(points, view, 321, 240, 224) for view in ("center", "flip"))
    np.testing.assert_allclose(flip, np.stack([1 - center[..., 0], center[..., 1]], -1), atol=1e-12)
    np.testing.assert_array_equal(inside(flip), inside(center))


@pytest.mark.parametrize("view", VIEWS)
def test_sizes_may_be_arrays(view: str) -> None:
    points = np.random.default_rng(2).random((3, 4, 5, 2)).astype(np.float32)
    sizes = np.array([[320, 240], [100, 333], [224, 224]], np.float32)
    single = np.stack([to_view(p, view, int(w), int(h), 224) for p, (w, h) in zip(points, sizes, strict=True)])
    assert single.dtype == np.float32
    many = to_view(points, view, sizes[:, 0], sizes[:, 1], 224)
    np.testing.assert_allclose(many, single, atol=1e-6)
    tensors = torch.from_numpy(points), torch.from_numpy(sizes)
    mapped = to_view(tensors[0], view, tensors[1][:, 0], tensors[1][:, 1], 224)
    assert mapped.dtype == torch.float32
    np.testing.assert_allclose(mapped.numpy(), single, atol=1e-6)
    np.testing.assert_array_equal(inside(mapped).numpy(), inside(many))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("width", "height"), [(320, 240), (180, 333), (640, 480)])
def test_a_dot_lands_where_its_point_says(view: str, width: int, height: int) -> None:
    column, row = int(width * 0.58), int(height * 0.41)
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[0, row - 2 : row + 3, column - 2 : column + 3] = 255
    plain = Preprocess(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")
    (pixels,) = plain(torch.from_numpy(frame), [view])
    light = pixels[0].sum(0).clamp(0).numpy()
    ys, xs = np.mgrid[:224, :224] + 0.5
    centroid = np.array([(xs * light).sum(), (ys * light).sum()]) / light.sum() / 224
    point = np.array([(column + 0.5) / width, (row + 0.5) / height])
    np.testing.assert_allclose(to_view(point, view, width, height, 224), centroid, atol=0.3 / 224)


def test_unknown_view_is_refused() -> None:
    with pytest.raises(UsageError, match="'middle'; allowed: center, center256, squash, flip"):
        crop_of("middle", 320, 240, 224)
