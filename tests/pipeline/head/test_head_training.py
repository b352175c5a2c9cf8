"""Heads on made-up features where the right answer is known."""

import re
from dataclasses import replace

import pytest
import torch
from made_up_heads import SHORT, accuracy, only, trained

from pipeline.head.attention import AttentionPool
from pipeline.head.config import HEADS, SKELETON_HEADS, HeadConfig
from pipeline.head.data import Batches
from pipeline.head.functional import inbatch_loss, vcs_logits
from pipeline.head.skeleton import skeletons
from pipeline.head.train import TrainConfig, channel_statistics, dropout_masks, fit, new_head, predict
from store.errors import UsageError


def all_inputs(world, videos=40, frames=3, grid=2, width=32):
    """Something of every kind, with nobody in half of the frames."""
    inputs = world.persons_and_background(videos, frames)
    dim = inputs.tensors["frames"].shape[-1]
    tensors = {name: tensor[:, 0].float() for name, tensor in inputs.tensors.items()}
    tensors["pose_embedding"] = world.noise(videos, frames, dim)
    tensors["tokens"] = world.noise(videos, frames, grid, grid, width) * 3 + 1
    tensors["heatmap"] = world.noise(videos, frames, grid, grid).abs().clamp(max=1)
    tensors["parts"] = world.directions(inputs.labels, frames, 6, noise=2.0)
    tensors["part_presence"] = world.noise(videos, frames, 6).abs().clamp(max=1)
    tensors["skeleton"] = skeletons(made_up_keypoints(world, videos), torch.ones(videos))
    for name in POSE:
        tensors[name][::2] = 0
    return world.inputs(inputs.labels, **tensors)


def made_up_keypoints(world, videos, steps=6, persons=3):
    keypoints = torch.rand(videos, steps, persons, 17, 3, generator=world.generator)
    keypoints[:, :, :, :, 2] = (keypoints[..., 2] - 0.3).clamp(min=0)
    return keypoints


POSE = ("presence", "pooled", "heatmap", "parts", "part_presence", "skeleton")
ALL_HEADS = (*HEADS, "vcs+pose", "pvcs-joint+pose", "attn+pose", "fuse+pose")


@pytest.mark.parametrize("name", ALL_HEADS)
def test_every_head_learns_what_it_is_shown_and_repeats_itself(make_world, name):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), name)
    conv = name == "poseconv"
    config = TrainConfig(epochs=50 if conv else 25, batch_size=16, learning_rate=2e-3 if conv else 5e-3)
    first, second = (trained(name, inputs, world.text, config) for _ in range(2))
    # Half of the videos, those of two of the four classes, show nobody.
    assert accuracy(first, inputs) > (0.7 if name in SKELETON_HEADS else 0.8)
    assert torch.equal(predict(first, inputs), predict(second, inputs))
    brief = replace(config, epochs=1)
    one, other = (trained(name, inputs, world.text, brief, seed=seed) for seed in range(2))
    assert not torch.equal(predict(one, inputs), predict(other, inputs))


def test_untrained_heads_are_zero_shot(make_world):
    world = make_world(classes=5, dim=64)
    inputs = all_inputs(world)
    heads = {name: new_head(HeadConfig(head=name), only(inputs, name), world.text) for name in ALL_HEADS}
    found = {name: predict(head, only(inputs, name)) for name, head in heads.items()}
    bank = world.text.bank
    words = bank.units.view(5, 3, -1)
    zero_shot = 50 * vcs_logits(inputs.tensors["frames"][:, 0], words, world.classes)
    for name in ("vcs", "pvcs", "pvcs-joint", "fuse", "vcs+pose", "pvcs-joint+pose", "fuse+pose"):
        torch.testing.assert_close(found[name], zero_shot, atol=50e-6, rtol=0)
    assert all((found[name] == 0).all() for name in ("attn", "pose", "attn+pose"))
    assert not torch.allclose(found["vilp"], zero_shot, atol=1e-2)


def test_attention_finds_the_cell_that_carries_the_class(make_world):
    world = make_world(classes=6, dim=32)

    def draw(videos):
        labels = world.labels(videos)
        tokens = 0.5 * world.noise(videos, 2, 3, 3, 32) + 1
        tokens[:, 1, 2, 0] += 4 * world.classes[labels]
        return world.inputs(labels, tokens=tokens)

    head = trained("attn", draw(300), world.text, TrainConfig(epochs=40, batch_size=64))
    assert accuracy(head, draw(120)) > 0.85


def test_alpha_stays_in_its_range(make_world):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), "pvcs")
    head = new_head(HeadConfig(head="pvcs"), inputs, world.text)
    fit(head, inputs, TrainConfig(epochs=6, batch_size=8, learning_rate=0.05, ema=0.0))
    assert 0 <= head.alpha <= 1
    with torch.no_grad():
        head.alpha.fill_(3.0)
        head.log_scale.fill_(9.0)
    head.constrain()
    assert head.alpha == 1
    assert head.log_scale.exp() <= 100.001
    joint = new_head(HeadConfig(head="pvcs-joint"), only(all_inputs(world), "pvcs-joint"), world.text)
    with torch.no_grad():
        joint.beta.fill_(-1.0)
    joint.constrain()
    assert joint.beta == 0


def test_interpolation_lies_between_the_untrained_head_and_the_trained_one(make_world):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), "vcs")
    start = new_head(HeadConfig(head="vcs", bottleneck=32), inputs, world.text)
    whole, half = (trained("vcs", inputs, world.text, replace(SHORT, interpolation=share)) for share in (1.0, 0.5))
    for a, b, between in zip(start.parameters(), whole.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(between, (a + b) / 2)
    assert not torch.equal(start.offsets, whole.offsets)


def test_the_published_loss_is_over_the_classes_of_the_batch(make_world):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), "vcs")
    config = TrainConfig(epochs=1, batch_size=64, frame_dropout=0, loss="in-batch", precision="fp32")
    head = new_head(HeadConfig(head="vcs"), inputs, world.text)
    logits = predict(head, inputs)[:, inputs.labels]
    assert fit(head, inputs, config) == pytest.approx(float(inbatch_loss(logits, inputs.labels)), rel=1e-5)


@pytest.mark.parametrize("name", ["pvcs", "pvcs-joint", "pose", "fuse", "fuse+pose"])
def test_gradients_are_finite_with_nobody(make_world, name):
    world = make_world(classes=4, dim=32)
    inputs = all_inputs(world)
    nobody = {name: torch.zeros_like(inputs.tensors[name]) for name in POSE}
    inputs = inputs.only(HeadConfig(head=name).inputs, **nobody)
    head = new_head(HeadConfig(head=name), inputs, world.text)
    rows = torch.arange(8)
    batch = Batches(inputs).take(rows, torch.zeros_like(rows))
    logits = head(batch, **dropout_masks(batch, TrainConfig(), torch.Generator().manual_seed(0)))
    sum((x + 1).square().sum() for x in logits).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert all(x.isfinite().all() for x in logits)


def test_drop_out_leaves_something_to_see():
    batch = {"frames": torch.zeros(500, 3, 2), "tokens": torch.zeros(500, 3, 2, 2, 2)}
    config = TrainConfig(frame_dropout=0.9, token_dropout=0.9)
    masks = dropout_masks(batch, config, torch.Generator().manual_seed(0))
    assert masks["frame_mask"].shape == (500, 3)
    assert masks["frame_mask"].any(dim=1).all()
    assert masks["token_mask"].flatten(2).any(dim=2).all()
    assert masks["frame_mask"].float().mean() < 0.5
    assert dropout_masks(batch, TrainConfig(frame_dropout=0, token_dropout=0), torch.Generator()) == {}


def test_batches_are_the_rows_and_views_asked_for(make_world):
    world = make_world(classes=2, dim=8)
    tensors = {"frames": torch.arange(5 * 2 * 3 * 8).view(5, 2, 3, 8).half(), "tokens": torch.rand(5, 2, 3, 2, 2, 4)}
    inputs = all_inputs(world, videos=5)
    inputs = inputs.only(tensors, **tensors)
    batches = Batches(inputs)
    for rows, views in (([4, 0, 2], [1, 0, 1]), ([1], [1])):
        batch = batches.take(torch.tensor(rows), torch.tensor(views))
        for name, tensor in tensors.items():
            assert batch[name].dtype == torch.float32
            assert torch.equal(batch[name], tensor[rows, views].float())
        frames = torch.tensor([[2, 0], [1, 1], [0, 2]])[: len(rows)]
        batch = batches.take(torch.tensor(rows), torch.tensor(views), frames)
        for name, tensor in tensors.items():
            expected = torch.stack([tensor[r, v, f] for r, v, f in zip(rows, views, frames, strict=True)])
            assert torch.equal(batch[name], expected.float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"epochs is -1; allowed: 0 \(zero-shot\) or more"),
        ({"frame_dropout": 1.0}, r"frame_dropout is 1.0; allowed: 0 up to"),
        ({"batch_size": 0}, r"batch_size is 0; allowed: 1 or more"),
        ({"learning_rate": float("nan")}, r"learning_rate is nan; allowed: 0 or more"),
        ({"weight_decay": float("inf")}, r"weight_decay is inf; allowed: 0 or more"),
    ],
)
def test_training_settings_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_divergence_is_an_error(make_world):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), "mean")
    inputs.tensors["frames"][0] = float("inf")
    head = new_head(HeadConfig(head="mean"), inputs, world.text)
    with pytest.raises(UsageError, match="training diverged in epoch 1"):
        fit(head, inputs, SHORT)


def test_head_settings_are_checked_and_survive_json():
    config = HeadConfig(head="pvcs", tau=0.02)
    assert HeadConfig.from_dict(config.to_dict()) == config
    for name in ("svm", "pose+pose", "+pose"):
        with pytest.raises(
            UsageError, match=f"head is '{re.escape(name)}'; allowed: mean, vcs, vilp, pvcs, pvcs-joint"
        ):
            HeadConfig(head=name)
    for options, message in (
        ({"head": "vcs", "modalities": "V+T"}, r"modalities is V\+T, which head 'vcs' does not have; give --head fuse"),
        ({"modalities": "T"}, r"modalities is 'T'; allowed: V, P, V\+T, P\+T, V\+P, V\+P\+T"),
        ({"head": "pvcs-joint", "pose_in": "values"}, "pose-in is values, which head 'pvcs-joint' does not have"),
        (
            {"head": "vcs", "temporal_layers": 6},
            "temporal-layers is 6, which head 'vcs' does not have; give --head vilp",
        ),
        ({"head": "pvcs", "tokens": "value"}, "tokens is value, which head 'pvcs' does not have"),
    ):
        with pytest.raises(UsageError, match=message):
            HeadConfig(**options)
    with pytest.raises(UsageError, match="tau is 0"):
        HeadConfig(tau=0)


@pytest.mark.parametrize("name", ALL_HEADS)
def test_hidden_frames_change_nothing(make_world, name):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world, videos=6), name)
    head = new_head(HeadConfig(head=name), inputs, world.text).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * world.noise(*parameter.shape))
    head.constrain()
    before = {key: tensor[:, 0].float() for key, tensor in inputs.tensors.items()}
    after = {key: tensor.clone() for key, tensor in before.items()}
    for tensor in after.values():
        tensor[:, 1] = tensor[:, 1].flip(0).abs().clamp(max=1)
    masks = {"frame_mask": torch.tensor([[True, False, True]] * 6), "step_mask": torch.arange(6).expand(6, 6) != 1}
    torch.testing.assert_close(head(before, **masks), head(after, **masks))
    assert not torch.allclose(head(before)[0], head(after)[0])


def test_attention_pooling_is_its_definition(make_world):
    """Tokens standardised, positions added, one softmax over all cells: what the fast form must equal."""
    world = make_world(classes=2, dim=8)
    pool = AttentionPool(width=12, frames=3, grid=2, heads=4)
    tokens = 5 + 3 * world.noise(7, 3, 2, 2, 12)
    heatmap = world.noise(7, 3, 2, 2).abs()
    with torch.no_grad():
        pool.heatmap_weight.copy_(world.noise(4))
        pool.time.copy_(world.noise(3, 12))
        pool.space.copy_(world.noise(4, 12))
    mean, std = channel_statistics(tokens.unsqueeze(1))
    torch.testing.assert_close(mean, tokens.mean((0, 1, 2, 3)))
    torch.testing.assert_close(std, tokens.std((0, 1, 2, 3), correction=0))
    pool.set_statistics(mean, std)
    placed = (tokens - mean) / std + pool.time[:, None, None] + pool.space.view(2, 2, 12)
    scores = placed @ pool.key + pool.heatmap_weight * (heatmap + 1e-3).log().unsqueeze(-1)
    weights = scores.flatten(1, 3).softmax(dim=1)
    pooled = weights.transpose(1, 2) @ placed.flatten(1, 3)
    expected = torch.cat([pooled[:, head] @ pool.value[head] for head in range(4)], dim=1)
    torch.testing.assert_close(pool(tokens, heatmap), expected, atol=1e-5, rtol=1e-5)
