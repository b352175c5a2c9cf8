"""Placebos are what they say, and pooled like the real thing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.head import HeadConfig
from pipeline.head.job import make_job
from pipeline.studies import placebos as module
from pipeline.studies.placebos import BOX, CENTRE, MEAN, OTHER, SAME, TIME, UNIFORM, Placebos, other_videos, same_class

TOKENS = (MEAN, UNIFORM, CENTRE, BOX, TIME, OTHER, SAME)


def placebos_of(made, head, subset="train", frames=4):
    config = head if isinstance(head, HeadConfig) else HeadConfig(head=head)
    job = make_job(made.open(), config, frames=frames, device="cpu")
    placebos = Placebos(job, 1)
    found = {}
    for name in ("train", subset):
        real = job.inputs(1, name)
        found = placebos.inputs(real, name)
    return real, found


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("pvcs", TOKENS),
        ("pvcs-joint", TOKENS),
        ("fuse", TOKENS),
        ("pvcs+pose", TOKENS),
        ("vilp", (MEAN, TIME, OTHER, SAME)),
        ("vcs+pose", (MEAN, TIME, OTHER, SAME)),
    ],
)
def test_every_head_gets_those_that_fit(make_store, head, names):
    real, found = placebos_of(make_store(heatmap_clip=True), head, "test")
    assert tuple(found) == names
    pose = [name for name in HeadConfig(head=head).inputs if name not in ("frames", "tokens")]
    for name, fake in found.items():
        assert set(fake.tensors) == set(real.tensors)
        assert fake.video_ids == real.video_ids
        for key, tensor in fake.tensors.items():
            assert tensor.shape == real.tensors[key].shape
            assert tensor.dtype == real.tensors[key].dtype
            assert torch.equal(tensor, real.tensors[key]) == (key not in pose), (name, key)


@pytest.mark.parametrize("head", ["pvcs", "fuse", "pvcs-joint", "vcs+pose", HeadConfig(head="pvcs", persons="moving")])
def test_a_video_in_its_own_place_is_the_real_thing(make_store, monkeypatch, head):
    """The way to the placebos, with the right videos: it gives what training on real pose sees."""
    monkeypatch.setattr(module, "other_videos", lambda sources, rng: np.arange(len(sources)))
    real, found = placebos_of(make_store(views=("center", "flip")), head)
    for key, tensor in real.tensors.items():
        torch.testing.assert_close(found[OTHER].tensors[key], tensor, atol=4e-3, rtol=0)


def test_fewer_frames_take_the_poses_of_those_frames(make_store, monkeypatch):
    monkeypatch.setattr(module, "other_videos", lambda sources, rng: np.arange(len(sources)))
    real, found = placebos_of(make_store(), "pvcs", frames=2)
    torch.testing.assert_close(found[OTHER].tensors["pooled"], real.tensors["pooled"], atol=4e-3, rtol=0)
    assert TIME not in placebos_of(make_store("one"), "pvcs", frames=1)[1]


def test_constant_maps_say_nothing_about_a_video(make_store):
    made = make_store()
    real, found = placebos_of(made, "fuse", "test")
    store = made.open()
    tokens = store.load(slots=real.slots.tolist(), arrays=("value",))["value"].float()
    torch.testing.assert_close(found[UNIFORM].tensors["pooled"].float(), tokens.mean((3, 4)), atol=4e-3, rtol=0)
    for name in (MEAN, UNIFORM, CENTRE):
        heatmap, presence = (found[name].tensors[key].float() for key in ("heatmap", "presence"))
        assert (heatmap == heatmap[:1, :, :1]).all()
        assert len(presence.unique()) == 1
    assert found[UNIFORM].tensors["heatmap"].unique().numel() == 1
    centre = found[CENTRE].tensors["heatmap"][0, 0, 0]
    assert centre.argmax() == 4
    # They are as tall as those of the training videos, whose mean the test videos get.
    train = make_job(store, "fuse", frames=4, device="cpu").inputs(1, "train")
    tall = train.tensors["presence"].float().mean()
    torch.testing.assert_close(found[UNIFORM].tensors["presence"].float().mean(), tall, atol=2e-3, rtol=0)
    torch.testing.assert_close(found[CENTRE].tensors["presence"].float().mean(), tall, atol=2e-3, rtol=0)
    mean = train.tensors["heatmap"].float().mean((0, 1, 2))
    torch.testing.assert_close(found[MEAN].tensors["heatmap"][0, 0, 0].float(), mean, atol=2e-3, rtol=0)


def test_boxes_are_flat_and_shuffled_poses_are_the_videos_own(make_store):
    real, found = placebos_of(make_store(), "fuse", "test")
    boxes = found[BOX].tensors["heatmap"].float().flatten(3)
    presence = found[BOX].tensors["presence"].float()
    assert (boxes.amax(-1) == presence).all()
    assert ((boxes == 0).any(-1) & (boxes > 0).any(-1)).any()
    true, shuffled = (x.tensors["heatmap"].float().flatten(3) for x in (real, found[TIME]))
    torch.testing.assert_close(shuffled.sum(2), true.sum(2), atol=2e-2, rtol=0)
    somebody = true.flatten(1).any(1)
    assert ((shuffled - true).abs().amax(-1)[somebody] > 0.01).all()


def test_shuffled_skeletons_do_not_tell_what_came_after_what(make_store):
    """Joints that only ever move one way do so no more, and are where they were, in another order."""
    real, found = placebos_of(make_store(movements=True), "pose", "test")
    true, shuffled = (x.tensors["skeleton"][:, 0, :, 0].float() for x in (real, found[TIME]))
    positions, motion = slice(0, 34), slice(51, 85)
    places = [x[..., positions].sort(1).values for x in (true, shuffled)]
    torch.testing.assert_close(*places, atol=5e-3, rtol=0)
    steps = shuffled[:, 1:, positions] - shuffled[:, :-1, positions]
    torch.testing.assert_close(shuffled[:, 1:, motion], steps, atol=5e-3, rtol=0)
    whole = true[:, -1, positions] - true[:, 0, positions]
    along = [(x[:, 1:, motion] * whole.unsqueeze(1)).sum(-1) > 0 for x in (true, shuffled)]
    assert along[0].float().mean() > 0.95
    assert 0.3 < along[1].float().mean() < 0.7


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(4, 40))
def test_partners(seed, videos):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=videos)
    sources = [f"s{number}" for number in rng.integers(0, max(2, videos // 3), size=videos)]
    other, same = other_videos(sources, rng), same_class(labels, sources, rng)
    for i in range(videos):
        if len(set(sources)) > 1:
            assert sources[other[i]] != sources[i]
        assert labels[same[i]] == labels[i]
        if (labels == labels[i]).sum() > 1:
            assert same[i] != i
        if any(sources[j] != sources[i] for j in np.flatnonzero(labels == labels[i])):
            assert sources[same[i]] != sources[i]
