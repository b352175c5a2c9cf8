"""Tokens under the persons: pooled once, kept, and checked when read."""

import numpy as np
import pytest
import torch

from pipeline.head import pooling
from pipeline.head.config import HeadConfig
from pipeline.head.data import load_inputs, pooled_view
from pipeline.head.pooling import Pooled
from pipeline.head.selection import select
from pipeline.head.skeleton import motion_shares
from stages.heatmap import render

CONFIG = HeadConfig(head="fuse", sigma=0.8)


def count_pooling(monkeypatch):
    calls = []
    pool_view = pooling.pool_view
    monkeypatch.setattr("pipeline.head.data.pool_view", lambda *a, **k: calls.append(1) or pool_view(*a, **k))
    return calls


def test_pooled_tokens_are_those_under_the_heatmap(make_store):
    store = make_store().open()
    selection = select(store, CONFIG, frames=4)
    inputs = load_inputs(store, selection, CONFIG, split=1, subset="test", device="cpu")
    features = store.load(split=1, subset="test", arrays=("value", "keypoints"))
    # Every second pose frame; frames of 320 x 240 become 298 x 224, of which the view starts at column 37.
    keypoints = features["keypoints"][:, ::2].clone()
    keypoints[..., 0] = (keypoints[..., 0] * 298 - 37) / 224
    heatmap = render(keypoints, 3, sigma=0.8)
    expected = (heatmap[..., None] * features["value"][:, 0].float()).sum((2, 3))
    expected = expected / heatmap.sum((2, 3)).clamp(min=1e-30)[..., None]
    torch.testing.assert_close(inputs.tensors["pooled"][:, 0].float(), expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(inputs.tensors["heatmap"][:, 0].float(), heatmap, atol=1e-3, rtol=0)
    torch.testing.assert_close(inputs.tensors["presence"][:, 0].float(), heatmap.amax((2, 3)), atol=1e-3, rtol=0)
    nobody = (features["keypoints"] == 0).flatten(1).all(1)
    assert nobody.any()
    assert (inputs.tensors["pooled"][nobody] == 0).all()


def test_they_are_pooled_once_for_all_splits_and_frame_counts(make_store, monkeypatch):
    calls = count_pooling(monkeypatch)
    store = make_store().open()
    for frames in (4, 2):
        selection = select(store, CONFIG, frames=frames)
        for split in (1, 2):
            for subset in ("train", "test"):
                inputs = load_inputs(store, selection, CONFIG, split=split, subset=subset, device="cpu")
                assert inputs.tensors["pooled"].shape[2] == frames
    assert len(calls) == 1
    load_inputs(store, selection, HeadConfig(sigma=1.5), split=1, subset="test", device="cpu")
    assert len(calls) == 2
    other = make_store("other", seed=1).open()
    load_inputs(other, select(other, CONFIG, frames=4), CONFIG, split=1, subset="test", device="cpu")
    assert len(calls) == 3


def walking(way, steps=5):
    """One person, [1, Tp, 1, 17, 3], who walks ``way`` heights of the frame to the right at an even pace."""
    points = torch.full((1, steps, 1, 17, 3), 0.5)
    points[..., 0] += torch.linspace(0, way, steps)[None, :, None, None] / 2  # the frame is twice as wide as high
    points[..., 2] = 0.8
    return points


def test_who_moves_less_counts_less():
    nobody = torch.zeros(1, 5, 1, 17, 3)
    shares = motion_shares(torch.cat([walking(0.1), walking(0.4), walking(0.0), nobody], dim=2), torch.tensor([2.0]))
    torch.testing.assert_close(shares, torch.tensor([[0.25, 1.0, 0.0, 0.0]]))
    assert motion_shares(torch.cat([walking(0.0), nobody], dim=2), torch.tensor([2.0])).tolist() == [[1.0, 1.0]]


def test_a_joint_that_is_not_seen_moves_nobody():
    points = walking(0.0)
    points[0, ::2, 0, 9] = 0  # zeros: not seen, wherever that is
    points[0, 0] = 0  # nor is anybody in the first step
    shares = motion_shares(torch.cat([points, walking(0.4)], dim=2), torch.tensor([2.0]))
    assert shares.tolist() == [[0.0, 1.0]]


def test_a_camera_takes_everybody_along():
    people = torch.cat([walking(0.1), walking(0.4)], dim=2)
    panned = people.clone()
    panned[..., 0] += torch.linspace(0, 0.5, 5)[None, :, None, None]
    apart, closer = (motion_shares(points, torch.tensor([2.0]))[0, 0] for points in (people, panned))
    assert apart < closer < 1


@pytest.mark.parametrize("head", ["pvcs", "pvcs-joint"])
def test_idle_persons_leave_the_maps(make_store, head):
    """Of the store's persons those who move most are left as they are."""
    store = make_store().open()
    both = HeadConfig(head=head), HeadConfig(head=head, persons="moving")
    loaded = [load_inputs(store, select(store, c, frames=4), c, split=1, subset="test", device="cpu") for c in both]
    presence = "part_presence" if head == "pvcs-joint" else "presence"
    everybody, moving = (inputs.tensors[presence] for inputs in loaded)
    assert (moving <= everybody).all()
    assert (moving < everybody).any()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_cache_is_made_again(make_store, monkeypatch, damage):
    calls = count_pooling(monkeypatch)
    store = make_store().open()
    selection = select(store, CONFIG, frames=4)
    first = pooled_view(store, selection, CONFIG, "center", Pooled)
    (path,) = pooling.cache_directory().glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-100], "empty": b""}[damage])
    second = pooled_view(store, selection, CONFIG, "center", Pooled)
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    pooled_view(store, selection, CONFIG, "center", Pooled)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_a_warning(make_store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "file" / "below"))
    store = make_store().open()
    with pytest.warns(UserWarning, match="pooled tokens were not kept in .*; set VILP_CACHE"):
        pooled = pooled_view(store, select(store, CONFIG, frames=4), CONFIG, "center", Pooled)
    assert np.isfinite(pooled.pooled.numpy()).all()
