"""Heads on made-up features where the right answer is known."""

import pytest
import torch

from pipeline.head.attention import AttentionPool
from pipeline.head.functional import vcs_logits
from pipeline.head.models import HEADS, INPUTS, HeadConfig
from pipeline.head.train import Batches, TrainConfig, channel_statistics, dropout_masks, fit, new_head, predict
from store.errors import UsageError

SHORT = TrainConfig(epochs=5, batch_size=64)


def accuracy(head, inputs):
    return float((predict(head, inputs).argmax(dim=1) == inputs.labels).float().mean())


def trained(name, train, text, config=SHORT, seed=0):
    head = new_head(HeadConfig(head=name, bottleneck=32), train, text, seed=seed)
    fit(head, train, config, seed=seed)
    return head


def all_inputs(world, videos=40, frames=3, grid=2, width=32):
    """Something of every kind, with nobody in half of the frames."""
    inputs = world.persons_and_background(videos, frames)
    dim = inputs.tensors["frames"].shape[-1]
    tensors = {name: tensor[:, 0].float() for name, tensor in inputs.tensors.items()}
    tensors["pose_embedding"] = world.noise(videos, frames, dim)
    tensors["tokens"] = world.noise(videos, frames, grid, grid, width) * 3 + 1
    tensors["heatmap"] = world.noise(videos, frames, grid, grid).abs().clamp(max=1)
    for name in ("presence", "pooled", "heatmap"):
        tensors[name][::2] = 0
    return world.inputs(inputs.labels, **tensors)


def only(inputs, name):
    tensors = {key: inputs.tensors[key] for key in INPUTS[name]}
    return type(inputs)(tensors, inputs.labels, inputs.slots, inputs.video_ids, inputs.sources)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_what_it_is_shown_and_repeats_itself(make_world, name):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), name)
    config = TrainConfig(epochs=25, batch_size=16, learning_rate=5e-3)
    first, second = (trained(name, inputs, world.text, config) for _ in range(2))
    assert accuracy(first, inputs) > 0.8
    assert torch.equal(predict(first, inputs), predict(second, inputs))
    other = trained(name, inputs, world.text, config, seed=1)
    assert not torch.equal(predict(first, inputs), predict(other, inputs))


def test_untrained_heads_are_zero_shot(make_world):
    world = make_world(classes=5, dim=64)
    inputs = all_inputs(world)
    heads = {name: new_head(HeadConfig(head=name), only(inputs, name), world.text) for name in HEADS}
    found = {name: predict(head, only(inputs, name)) for name, head in heads.items()}
    bank = world.text.bank
    words = bank.units.view(5, 3, -1)
    zero_shot = 50 * vcs_logits(inputs.tensors["frames"][:, 0], words, world.classes)
    for name in ("vcs", "pvcs", "fuse"):
        torch.testing.assert_close(found[name], zero_shot, atol=50e-6, rtol=0)
    assert (found["attn"] == 0).all()
    assert not torch.allclose(found["vilp"], zero_shot, atol=1e-2)


def test_one_strong_frame_among_neutral_ones(world):
    train, test = world.strong_frame(400), world.strong_frame(200)
    zero_shot = {name: accuracy(new_head(HeadConfig(head=name), train, world.text), test) for name in ("vcs", "mean")}
    assert zero_shot["vcs"] > 0.9
    assert zero_shot["mean"] < 0.7
    learnt = {name: accuracy(trained(name, train, world.text), test) for name in ("vcs", "mean")}
    assert learnt["vcs"] > learnt["mean"] + 0.1


def test_persons_carry_the_class_and_background_another(make_world):
    world = make_world(classes=10, dim=64)
    train, test = world.persons_and_background(600), world.persons_and_background(200)
    with_pose, without = (
        trained(name, only(train, name), world.text, TrainConfig(epochs=20, batch_size=64)) for name in ("pvcs", "vcs")
    )
    assert with_pose.alpha > 0.1
    assert accuracy(with_pose, only(test, "pvcs")) > accuracy(without, only(test, "vcs")) + 0.2
    # Another video's persons must not help.
    tensors = {**test.tensors, "pooled": test.tensors["pooled"].roll(1, 0)}
    shuffled = type(test)(tensors, test.labels, test.slots, test.video_ids, test.sources)
    assert accuracy(with_pose, shuffled) < accuracy(with_pose, test) - 0.3


def test_attention_finds_the_cell_that_carries_the_class(make_world):
    world = make_world(classes=6, dim=32)

    def draw(videos):
        labels = world.labels(videos)
        tokens = 0.5 * world.noise(videos, 2, 3, 3, 32) + 1
        tokens[:, 1, 2, 0] += 4 * world.classes[labels]
        return world.inputs(labels, tokens=tokens)

    head = trained("attn", draw(300), world.text, TrainConfig(epochs=40, batch_size=64))
    assert accuracy(head, draw(120)) > 0.85


def test_order_is_seen_by_the_temporal_module_only(make_world):
    """Classes that are each other in reverse."""
    world = make_world(classes=2, dim=32)
    ends = world.noise(2, 32)

    def draw(videos):
        labels = world.labels(videos)
        steps = torch.linspace(0, 1, 4).view(1, 4, 1)
        steps = torch.where(labels.view(-1, 1, 1) == 0, steps, 1 - steps)
        frames = (1 - steps) * ends[0] + steps * ends[1] + 0.3 * world.noise(videos, 4, 32)
        return world.inputs(
            labels,
            frames=frames,
            pooled=torch.zeros_like(frames),
            presence=torch.zeros(videos, 4),
            tokens=torch.ones(videos, 4, 2, 2, 32) + 0.1 * world.noise(videos, 4, 2, 2, 32),
            heatmap=torch.zeros(videos, 4, 2, 2),
        )

    train, test = draw(400), draw(200)
    config = TrainConfig(epochs=15, batch_size=64)
    assert accuracy(trained("fuse", train, world.text, config), test) > 0.9
    assert 0.35 < accuracy(trained("vcs", only(train, "vcs"), world.text, config), only(test, "vcs")) < 0.65


def test_alpha_stays_in_its_range(make_world):
    world = make_world(classes=4, dim=32)
    inputs = only(all_inputs(world), "pvcs")
    seen = []
    head = new_head(HeadConfig(head="pvcs"), inputs, world.text)
    config = TrainConfig(epochs=6, batch_size=8, learning_rate=0.05)
    fit(head, inputs, config, progress=lambda report: seen.append((report.epoch, head.alpha.item())))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= alpha <= 1 for _, alpha in seen)
    with torch.no_grad():
        head.alpha.fill_(3.0)
        head.log_scale.fill_(9.0)
    head.constrain()
    assert head.alpha == 1
    assert head.log_scale.exp() <= 100.001


def test_gradients_are_finite_with_nobody(make_world):
    world = make_world(classes=4, dim=32)
    inputs = all_inputs(world)
    nobody = {name: torch.zeros_like(inputs.tensors[name]) for name in ("pooled", "presence", "heatmap")}
    inputs = type(inputs)({**inputs.tensors, **nobody}, inputs.labels, inputs.slots, inputs.video_ids, inputs.sources)
    head = new_head(HeadConfig(), only(inputs, "fuse"), world.text)
    rows = torch.arange(8)
    logits = head(Batches(only(inputs, "fuse")).take(rows, torch.zeros_like(rows)))
    sum(x.square().sum() for x in logits).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


def test_drop_out_leaves_something_to_see():
    batch = {"frames": torch.zeros(500, 3, 2), "tokens": torch.zeros(500, 3, 2, 2, 2)}
    config = TrainConfig(frame_dropout=0.9, token_dropout=0.9)
    masks = dropout_masks(batch, config, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert masks["frame_mask"].shape == (500, 3)
    assert masks["frame_mask"].any(dim=1).all()
    assert masks["token_mask"].flatten(2).any(dim=2).all()
    assert masks["frame_mask"].float().mean() < 0.5
    assert dropout_masks(batch, TrainConfig(frame_dropout=0, token_dropout=0), torch.Generator(), "cpu") == {}


def test_batches_are_the_rows_and_views_asked_for(make_world):
    world = make_world(classes=2, dim=8)
    tensors = {"frames": torch.arange(5 * 2 * 3 * 8).view(5, 2, 3, 8).half(), "tokens": torch.rand(5, 2, 3, 2, 2, 4)}
    inputs = all_inputs(world, videos=5)
    inputs = type(inputs)(tensors, inputs.labels, inputs.slots, inputs.video_ids, inputs.sources)
    batches = Batches(inputs)
    for rows, views in (([4, 0, 2], [1, 0, 1]), ([1], [1])):
        batch = batches.take(torch.tensor(rows), torch.tensor(views))
        for name, tensor in tensors.items():
            assert batch[name].dtype == torch.float32
            assert torch.equal(batch[name], tensor[rows, views].float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"epochs is -1; allowed: 0 \(zero-shot\) or more"),
        ({"frame_dropout": 1.0}, r"frame_dropout is 1.0; allowed: 0 up to"),
        ({"batch_size": 0}, r"batch_size is 0; allowed: 1 or more"),
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
    with pytest.raises(UsageError, match="head is 'svm'; allowed: mean, vcs, vilp, pvcs, attn, fuse"):
        HeadConfig(head="svm")
    with pytest.raises(UsageError, match="tau is 0"):
        HeadConfig(tau=0)


@pytest.mark.parametrize("name", HEADS)
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
    mask = torch.tensor([[True, False, True]] * 6)
    torch.testing.assert_close(head(before, frame_mask=mask), head(after, frame_mask=mask))
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
