"""Heatmaps against brute force, and the weights made of them."""

from __future__ import annotations

import math

import pytest
import torch

from stages import heatmap
from stages.heatmap import pool_weights, render
from stages.pose import COCO_LIMBS, COCO_SWAP


def people(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random keypoints [*shape, 17, 3]; some lie outside the view, a third are not seen."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(*shape, 17, 3, generator=generator) * 1.6 - 0.3
    keypoints[..., 2] = torch.rand(*shape, 17, generator=generator).sub(0.33).clamp(0, 1)
    return keypoints


def brute_force(persons: torch.Tensor, rows: int, columns: int, sigma: float, limbs: bool) -> torch.Tensor:
    result = torch.zeros(rows, columns, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for joints in persons.double().tolist():
                place = [(x * columns - 0.5, y * rows - 0.5, c) for x, y, c in joints]
                ends = COCO_LIMBS if limbs else [(j, j) for j in range(17)]
                for a, b in ends:
                    (ax, ay, ac), (bx, by, bc) = place[a], place[b]
                    dx, dy = bx - ax, by - ay
                    length = dx * dx + dy * dy
                    s = ((column - ax) * dx + (row - ay) * dy) / length if length else 0.0
                    s = min(max(s, 0.0), 1.0)
                    squared = (column - ax - s * dx) ** 2 + (row - ay - s * dy) ** 2
                    value = min(ac, bc) * math.exp(-squared / (2 * sigma**2))
                    result[row, column] = max(result[row, column], value)
    return result.float()


@pytest.mark.parametrize("limbs", [False, True])
@pytest.mark.parametrize(("rows", "columns", "sigma"), [(7, 7, 1.0), (5, 9, 0.6)])
def test_equals_brute_force(rows: int, columns: int, sigma: float, limbs: bool) -> None:
    keypoints = people(4, 2)
    got = render(keypoints, (rows, columns), sigma=sigma, limbs=limbs)
    want = torch.stack([brute_force(persons, rows, columns, sigma, limbs) for persons in keypoints])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert got.max() > 0.1


def test_a_joint_in_a_cell_centre_has_its_confidence_there() -> None:
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 4] = torch.tensor([(5 + 0.5) / 7, (2 + 0.5) / 7, 0.6])
    maps = render(keypoints, 7, sigma=0.5)
    assert maps.argmax() == 2 * 7 + 5
    assert maps.max() == pytest.approx(0.6)


@pytest.mark.parametrize("limbs", [False, True])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, limbs: bool) -> None:
    keypoints = people(3, 5, 2)
    whole = render(keypoints, 7, limbs=limbs)
    assert whole.shape == (3, 5, 7, 7)
    monkeypatch.setattr(heatmap, "CHUNK_BYTES", 1)
    assert torch.equal(render(keypoints, 7, limbs=limbs), whole)


def test_persons_in_any_order_and_mirrored() -> None:
    keypoints = people(3, 4)
    maps = render(keypoints, 7)
    assert torch.equal(render(keypoints.flip(1), 7), maps)
    mirrored = keypoints[:, :, list(COCO_SWAP)].clone()
    mirrored[..., 0] = 1 - mirrored[..., 0]
    torch.testing.assert_close(render(mirrored, 7), maps.flip(-1))
    torch.testing.assert_close(render(mirrored, 7, limbs=True), render(keypoints, 7, limbs=True).flip(-1))


@pytest.mark.parametrize("limbs", [False, True])
def test_unseen_joints_contribute_nothing_whatever_their_place(limbs: bool) -> None:
    keypoints = people(2, 2)
    keypoints[..., 5, 2] = 0
    want = render(keypoints, 7, limbs=limbs)
    for value in (float("nan"), float("inf"), 0.5):
        keypoints[..., 5, :2] = value
        assert torch.equal(render(keypoints, 7, limbs=limbs), want)


def test_nobody_gives_zeros_and_no_weights() -> None:
    for keypoints in (torch.zeros(2, 3, 4, 17, 3), torch.zeros(2, 3, 0, 17, 3), torch.full((2, 3, 1, 17, 3), math.nan)):
        maps = render(keypoints, 7)
        assert maps.shape == (2, 3, 7, 7)
        m, q = pool_weights(maps)
        assert not maps.any()
        assert not m.any()
        assert not q.any()
    assert render(torch.zeros(0, 4, 17, 3), 7).shape == (0, 7, 7)


def test_pool_weights_sum_to_one_and_q_is_the_peak() -> None:
    maps = render(people(6, 2), 7)
    m, q = pool_weights(maps)
    torch.testing.assert_close(m.sum((-2, -1)), torch.ones(6))
    assert torch.equal(q, maps.flatten(1).amax(1))


def test_somebody_far_outside_the_view_does_not_overflow() -> None:
    keypoints = people(1)
    keypoints[..., :2] += 50
    m, q = pool_weights(render(keypoints, 7, sigma=0.5))
    assert m.isfinite().all()
    assert q.item() == 0


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_sigma_is_checked(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        render(people(1), 7, sigma=sigma)
