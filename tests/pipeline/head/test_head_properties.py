"""What holds for poses and for whole heads, whatever the numbers are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.head.config import HeadConfig, HeadSizes
from pipeline.head.functional import pvcs_published_logits, pvcs_tokens, unit, vcs_logits, word_bank
from pipeline.head.models import build_head, text_parts
from pipeline.head.pooling import BODY_PARTS, pool_tokens
from pipeline.head.sides import flips
from pipeline.head.skeleton import FEATURES, mirror_keypoints, skeletons
from pipeline.head.temporal import TemporalTransformer
from stages.heatmap import render
from stages.pose.coco import COCO_JOINTS, COCO_SWAP

quick = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
SIZES = HeadSizes(classes=5, frames=4, dim=16, words=8, width=24, grid=2, steps=6, motion=FEATURES)


def keypoints_of(generator, batch=2, steps=6, persons=3):
    keypoints = torch.rand(batch, steps, persons, 17, 3, generator=generator)
    seen = torch.rand(batch, steps, persons, 17, generator=generator) < 0.8
    there = torch.rand(batch, steps, persons, generator=generator) < 0.7
    return keypoints * (seen & there.unsqueeze(-1)).unsqueeze(-1)


def pooled_parts(tokens, keypoints, sigma=0.7):
    """z and q of the whole and of each part, as stores are pooled."""
    grid = tokens.shape[2]
    whole = pool_tokens(tokens, render(keypoints, grid, sigma=sigma))
    maps = [render(keypoints[..., joints, :], grid, sigma=sigma) for joints in BODY_PARTS.values()]
    return whole, pool_tokens(tokens, torch.stack(maps, dim=2))


def batch_of(generator, batch=3):
    def noise(*shape):
        return torch.randn(batch, *shape, generator=generator)

    skeleton = skeletons(keypoints_of(generator, batch), torch.ones(batch))
    return {
        "frames": noise(4, 16),
        "pose_embedding": noise(4, 16),
        "pooled": noise(4, 16),
        "presence": noise(4).abs().clamp(max=1),
        "parts": noise(4, 6, 16),
        "part_presence": noise(4, 6).abs().clamp(max=1),
        "tokens": noise(4, 2, 2, 24),
        "heatmap": noise(4, 2, 2).abs().clamp(max=1),
        "skeleton": skeleton,
    }


def head_of(config, generator, trained=True):
    """A head with text, whose parameters are anywhere where training might take them."""
    head = build_head(config, SIZES).eval()
    words, classes = torch.randn(5, 2, 16, generator=generator), unit(torch.randn(5, 16, generator=generator))
    mask = torch.tensor([[True, True]] * 3 + [[True, False]] * 2)
    bank = word_bank(words, classes, mask)
    for part in text_parts(head):
        part.set_text(bank, classes, 20.0)
    if trained:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        head.constrain()
    return head, (words, classes, mask)


@quick
@given(seeds)
def test_persons_come_in_any_order(seed):
    generator = torch.Generator().manual_seed(seed)
    keypoints = keypoints_of(generator)
    other = keypoints[:, :, torch.randperm(3, generator=generator)]
    torch.testing.assert_close(render(other, 5, sigma=0.7), render(keypoints, 5, sigma=0.7))
    torch.testing.assert_close(skeletons(other, torch.ones(2)), skeletons(keypoints, torch.ones(2)))
    three, mixed = (skeletons(k, torch.ones(2), persons=3) for k in (keypoints, other))
    head, _ = head_of(HeadConfig(head="pose"), generator)
    torch.testing.assert_close(head({"skeleton": mixed}), head({"skeleton": three}))
    torch.testing.assert_close(head({"skeleton": three.flip(2)}), head({"skeleton": three}))


@quick
@given(seeds)
def test_mirrored_tokens_with_mirrored_keypoints_pool_the_same_with_sides_swapped(seed):
    generator = torch.Generator().manual_seed(seed)
    keypoints = keypoints_of(generator, steps=4)
    tokens = torch.randn(2, 4, 5, 5, 8, generator=generator)
    (z, q), (parts, presence) = pooled_parts(tokens, keypoints)
    (mirrored_z, mirrored_q), (mirrored_parts, mirrored_presence) = pooled_parts(
        tokens.flip(3), mirror_keypoints(keypoints)
    )
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(mirrored_z, z, **close)
    torch.testing.assert_close(mirrored_q, q, **close)
    names = list(BODY_PARTS)
    other = {"left": "right", "right": "left"}
    swapped = [names.index(" ".join(other.get(word, word) for word in name.split())) for name in names]
    torch.testing.assert_close(mirrored_parts[:, :, swapped], parts, **close)
    torch.testing.assert_close(mirrored_presence[:, :, swapped], presence, **close)
    assert torch.equal(mirror_keypoints(mirror_keypoints(keypoints))[..., 2], keypoints[..., 2])
    torch.testing.assert_close(mirror_keypoints(mirror_keypoints(keypoints)), keypoints)


def test_body_parts_are_all_joints_once():
    joints = sorted(joint for part in BODY_PARTS.values() for joint in part)
    assert joints == list(range(17))
    for name, part in BODY_PARTS.items():
        if "left" in name or "right" in name:
            assert all(COCO_JOINTS[joint].startswith(name.split()[0]) for joint in part)


@quick
@given(seeds, st.sampled_from(["mean", "vcs", "vilp", "pvcs", "pvcs-joint"]))
def test_heads_without_a_temporal_module_do_not_see_the_order_of_frames(seed, name):
    generator = torch.Generator().manual_seed(seed)
    head, _ = head_of(HeadConfig(head=name), generator)
    batch = batch_of(generator)
    order = torch.randperm(4, generator=generator)
    shuffled = {key: value if key == "skeleton" else value[:, order] for key, value in batch.items()}
    torch.testing.assert_close(head(shuffled), head(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [HeadConfig(), HeadConfig(head="vilp", temporal_layers=2), HeadConfig(head="pose")])
def test_heads_with_one_do(config):
    generator = torch.Generator().manual_seed(0)
    head, _ = head_of(config, generator)
    batch = batch_of(generator)
    backwards = {key: value.flip(1) for key, value in batch.items()}
    assert (head(backwards)[0] - head(batch)[0]).abs().max() > 1e-3


@quick
@given(seeds, st.sampled_from([0.01, 0.1, 1.0]))
def test_pose_heads_at_zero_are_vcs(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    batch = batch_of(generator)
    for config in (
        HeadConfig(head="pvcs", tau=tau),
        HeadConfig(head="pvcs", tau=tau, pose_in="weights"),
        HeadConfig(head="pvcs", tau=tau, pose_in="values"),
        HeadConfig(head="pvcs-joint", tau=tau),
        HeadConfig(tau=tau),
        HeadConfig(modalities="V+T", tau=tau),
        HeadConfig(head="vcs+pose", tau=tau),
    ):
        head, (words, classes, mask) = head_of(config, generator, trained=False)
        expected = 20 * vcs_logits(batch["frames"], words, classes, tau=tau, word_mask=mask)
        torch.testing.assert_close(head(batch)[0].detach(), expected, atol=20e-6, rtol=0)
    for where in ("both", "weights", "values"):
        config = HeadConfig(head="vilp", tau=tau, kappa=0.0, pose_in=where)
        head, (words, classes, mask) = head_of(config, generator, trained=False)
        expected = 10 * vcs_logits(batch["frames"], words, classes, tau=2 * tau, word_mask=mask)
        torch.testing.assert_close(head(batch)[0].detach(), expected, atol=20e-6, rtol=0)


@quick
@given(seeds)
def test_pose_in_weights_or_values_alone_is_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    frames, pooled = (unit(torch.randn(2, 4, 16, generator=generator)) for _ in range(2))
    presence = torch.rand(2, 4, generator=generator)
    guided = pvcs_tokens(frames, pooled, presence, 0.8)
    head, (words, classes, mask) = head_of(HeadConfig(head="pvcs", tau=0.1), generator, trained=False)
    with torch.no_grad():
        head.alpha.fill_(0.8)
    batch = {"frames": frames, "pooled": pooled, "presence": presence}
    for where, weighing, weighed in (
        ("both", guided, guided),
        ("weights", guided, frames),
        ("values", frames, guided),
    ):
        head.pose_in = where
        expected = torch.zeros(2, 5)
        for c in range(5):
            kept = unit(words[c, mask[c]])
            weights = (weighing @ kept.T / 0.1).softmax(dim=1).mean(dim=-1)
            expected[:, c] = 20 * (weights * (weighed @ classes[c])).sum(dim=1)
        torch.testing.assert_close(head(batch)[0].detach(), expected, atol=1e-4, rtol=0)


@quick
@given(seeds, st.sampled_from([0.01, 0.1, 5.0]))
def test_one_frame_depends_on_neither_words_nor_temperature(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    frame, pose = (torch.randn(2, 1, 16, generator=generator) for _ in range(2))
    words, classes = torch.randn(5, 3, 16, generator=generator), torch.randn(5, 16, generator=generator)
    presence = torch.rand(2, 1, generator=generator)
    published = (pvcs_published_logits(frame, pose, w, classes, tau=t) for w, t in ((words, tau), (-words, 1.0)))
    torch.testing.assert_close(*published, atol=1e-6, rtol=0)
    moved = pvcs_tokens(frame, pose, presence, 0.6)
    tokens = (vcs_logits(moved, w, classes, tau=t) for w, t in ((words, tau), (-words, 1.0)))
    torch.testing.assert_close(*tokens, atol=1e-6, rtol=0)


@quick
@given(seeds)
def test_skeletons_do_not_depend_on_place_size_or_hidden_coordinates(seed):
    generator = torch.Generator().manual_seed(seed)
    keypoints = keypoints_of(generator)
    aspect = torch.tensor([4 / 3, 16 / 9])
    moved = keypoints.clone()
    scale = 0.5 + torch.rand(1, generator=generator)
    moved[..., :2] = torch.where(keypoints[..., 2:] > 0, scale * keypoints[..., :2] + 0.1, 7.0)
    torch.testing.assert_close(skeletons(moved, aspect), skeletons(keypoints, aspect), atol=1e-4, rtol=1e-4)
    found = skeletons(keypoints, aspect)
    assert found.isfinite().all()
    absent = found[..., -1] == 0
    assert (found[absent] == 0).all()
    # A wider frame makes the same fractions wider.
    assert not torch.allclose(skeletons(keypoints, torch.ones(2)), found)


@quick
@given(seeds)
def test_mirrored_persons_have_mirrored_skeletons(seed):
    generator = torch.Generator().manual_seed(seed)
    keypoints = keypoints_of(generator)
    aspect = torch.tensor([1.0, 1.5])
    there, back = skeletons(keypoints, aspect), skeletons(mirror_keypoints(keypoints), aspect)
    torch.testing.assert_close(back[..., -1], there[..., -1])
    x = back[..., :34].unflatten(-1, (17, 2))[..., 0]
    original = there[..., :34].unflatten(-1, (17, 2))[..., list(COCO_SWAP), 0]
    torch.testing.assert_close(x, -original, atol=1e-4, rtol=1e-4)


def test_the_published_head_with_its_transformer_matches_the_golden_file(shared):
    with np.load(shared / "golden" / "reference_heads.npz") as arrays:
        golden = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    frames, classes = golden["frames"], golden["classes"]
    bank = word_bank(golden["words"], classes)
    sizes = HeadSizes(len(classes), frames.shape[1], frames.shape[2], len(bank.units))
    for layers, name in ((0, "vilp_none_pvcs_logits"), (6, "vilp_transf_pvcs_logits")):
        head = build_head(HeadConfig(head="vilp", word_mode="all", temporal_layers=layers), sizes).eval()
        head.set_text(bank, unit(classes), 1.0)
        if layers:
            prefix = "temporal/"
            state = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
            head.temporal.load_state_dict(state)
        (logits,) = head({"frames": frames, "pose_embedding": golden["pose"]})
        torch.testing.assert_close(logits.detach(), golden[name], atol=1e-5, rtol=0)


def test_hidden_frames_are_unseen_by_the_published_transformer():
    torch.manual_seed(0)
    module = TemporalTransformer(64, layers=2).eval()
    frames = torch.randn(2, 4, 64)
    mask = torch.tensor([[True, True, True, False]] * 2)
    changed = torch.cat([frames[:, :3], 5 + frames[:, 3:]], dim=1)
    torch.testing.assert_close(module(changed, mask)[:, :3], module(frames, mask)[:, :3])


CLASSES = ("TurnLeft", "wave", "turn right", "swipe left", "brighten leftovers")


def test_classes_that_name_a_side_change_in_a_mirror():
    found = flips(CLASSES, ("center", "flip"))
    assert found.views.tolist() == [False, True]
    assert found.classes.tolist() == [2, 1, 0, -1, 4]
    assert flips(CLASSES, ("center", "squash")) is None
    assert flips(("wave", "clap"), ("center", "flip")) is None


def test_training_sees_no_mirror_image_under_a_wrong_name():
    found = flips(CLASSES, ("center", "flip"))
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 3])
    views = torch.tensor([1, 1, 1, 1, 1, 0, 0])
    seen, targets = found.train(views, labels)
    assert seen.tolist() == [1, 1, 1, 0, 1, 0, 0]
    assert targets.tolist() == [2, 1, 0, 3, 4, 0, 3]


def test_mirrored_test_views_speak_for_the_other_side():
    found = flips(CLASSES, ("center", "flip"))
    plain, mirrored = torch.arange(5.0), torch.arange(5.0) * 10
    mean = found.mean(torch.stack([plain, mirrored])[:, None])[0]
    # turn left: 0 and the mirror's turn right; swipe left: the plain view alone.
    assert mean.tolist() == [(0 + 20) / 2, (1 + 10) / 2, (2 + 0) / 2, 3, (4 + 40) / 2]
    alone = flips(CLASSES, ("flip",)).mean(mirrored[None, None])[0]
    assert alone.tolist() == [20, 10, 0, 30, 40]
