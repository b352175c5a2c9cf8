"""Heads trained in one program come out as if each had been trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.head import HeadConfig, TrainConfig, train_head
from pipeline.head import train as train_module
from pipeline.head.checkpoint import load_predictions
from pipeline.head.sides import Flips
from pipeline.head.stack import CPU_NUMBERS, together_pays
from pipeline.head.train import Run, fit, fit_runs, fit_together, new_head, predict
from store.errors import UsageError

FAST = {"frames": 4, "epochs": 3, "device": "cpu", "training": TrainConfig(batch_size=16, precision="fp32")}
# Another order of sums rounds otherwise; where a gradient is nearly zero AdamW makes steps of the size of the learning
# rate out of that, so weights may differ by some of these steps and logits by far less.
TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}


def inputs_of(world, videos=44, frames=4, views=2):
    base = world.persons_and_background(videos, frames)
    dim = base.tensors["frames"].shape[-1]
    tensors = {name: tensor[:, 0].float() for name, tensor in base.tensors.items()}
    tensors["pose_embedding"] = world.noise(videos, frames, dim)
    tensors["tokens"] = world.noise(videos, frames, 2, 2, 16) + 1
    tensors["heatmap"] = world.noise(videos, frames, 2, 2).abs().clamp(max=1)
    tensors["parts"] = world.directions(base.labels, frames, 6, noise=2.0)
    tensors["part_presence"] = world.noise(videos, frames, 6).abs().clamp(max=1)
    found = world.inputs(base.labels, **tensors)
    both = {name: torch.cat([t, t.roll(1, 0)], dim=1)[:, :views] for name, t in found.tensors.items()}
    return found.only(tuple(both), **both)


CONFIGS = {
    "mean": HeadConfig(head="mean"),
    "vcs": HeadConfig(head="vcs"),
    "vilp": HeadConfig(head="vilp"),
    "vilp with its transformer": HeadConfig(head="vilp", temporal_layers=1),
    "pvcs": HeadConfig(head="pvcs"),
    "pvcs-joint": HeadConfig(head="pvcs-joint"),
    "attn": HeadConfig(head="attn", pool_heads=4),
    "fuse": HeadConfig(pool_heads=4),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "training",
    [
        TrainConfig(epochs=3, batch_size=16, precision="fp32"),
        TrainConfig(epochs=2, batch_size=16, loss="in-batch", random_frames=True, interpolation=0.5, precision="fp32"),
    ],
    ids=["all classes", "in batch"],
)
def test_each_run_is_as_if_it_were_alone(make_world, name, training):
    """Three splits of unlike sizes: other numbers of steps an epoch, other last batches."""
    config, world = CONFIGS[name], make_world(classes=4, dim=16)
    inputs = inputs_of(world).only(config.inputs)
    flips = Flips(torch.tensor([False, True]), torch.tensor([1, 0, 2, -1]))
    inputs = replace(inputs, frames=2, flips=flips)
    splits = {1: torch.arange(0, 44), 2: torch.arange(4, 40), 3: torch.arange(0, 44, 2)}
    if training.loss == "in-batch" and not config.reads_text:
        pytest.skip("reads no class names")

    def runs():
        return [
            Run(new_head(config, inputs, world.text, seed=seed, rows=rows), rows, split, seed)
            for split, rows in splits.items()
            for seed in (0, 1)
        ]

    together, alone = runs(), runs()
    heard = []
    losses = fit_together(together, inputs, training, lambda report: heard.append((report.split, report.epoch)))
    assert len(heard) == 6 * training.epochs
    for one, other, loss in zip(together, alone, losses, strict=True):
        own = inputs.rows(other.rows)
        assert loss == pytest.approx(fit(other.head, own, training, seed=other.seed), rel=1e-3)
        expected, found = predict(other.head, own), predict(one.head, own)
        torch.testing.assert_close(found, expected, **TOLERANCE)
        assert torch.equal(found.argmax(1), expected.argmax(1))
    assert not torch.allclose(predict(together[0].head, inputs), predict(together[1].head, inputs), **TOLERANCE)


def test_a_store_gives_the_same_result_either_way(make_store, tmp_path, monkeypatch):
    store = make_store(noise=3.0).open()
    found = {}
    for way, pays in (("together", True), ("alone", False)):
        monkeypatch.setattr(train_module, "together_pays", lambda *_, pays=pays: pays)
        monkeypatch.setattr("pipeline.head.evaluate.together_pays", lambda *_, pays=pays: pays)
        found[way] = train_head(store, head="fuse", split="all", seeds=3, out=tmp_path / way, **FAST)
    together, alone = found["together"], found["alone"]
    assert together.summaries == alone.summaries
    assert together.interval == alone.interval
    assert set(together.files) == set(alone.files)
    for one, other in zip(load_predictions(together), load_predictions(alone), strict=True):
        assert (one.split, one.seed, one.video_ids) == (other.split, other.seed, other.video_ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-3, rtol=1e-3)
    for one, other in zip(together.scores, alone.scores, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-3)
        assert one.train_videos == other.train_videos


def test_as_many_are_trained_together_as_fit(make_world, monkeypatch):
    world = make_world(classes=4, dim=16)
    inputs = inputs_of(world).only(("frames",))
    sizes = []
    fit_all = train_module.fit_together

    def full(runs, *rest):
        sizes.append(len(runs))
        if len(runs) > 2:
            raise torch.OutOfMemoryError
        return fit_all(runs, *rest)

    monkeypatch.setattr(train_module, "fit_together", full)
    heads = [new_head(HeadConfig(head="vcs"), inputs, world.text, seed=seed) for seed in range(5)]
    runs = [Run(head, torch.arange(len(inputs)), 1, seed) for seed, head in enumerate(heads)]
    losses = fit_runs(runs, inputs, TrainConfig(epochs=1, batch_size=16))
    assert sizes == [5, 3, 2, 2, 1]
    assert len(set(losses)) == 5


def test_one_that_does_not_fit_gets_its_features_batch_by_batch(make_world, monkeypatch):
    world = make_world(classes=4, dim=16)
    inputs = inputs_of(world).only(("frames",))
    run = Run(new_head(HeadConfig(head="vcs"), inputs, world.text), torch.arange(len(inputs)))
    fit_all = train_module.fit_together
    left, lines = [], []
    monkeypatch.setattr(type(inputs), "leave_device", lambda self: left.append(True))

    def full(*given):
        if not left:
            raise torch.OutOfMemoryError
        return fit_all(*given)

    monkeypatch.setattr(train_module, "fit_together", full)
    fit_runs([run], inputs, TrainConfig(epochs=1, batch_size=16), note=lines.append)
    assert len(lines) == 1
    assert "do not fit into the memory of cpu: they stay outside and are sent batch by batch" in lines[0]
    monkeypatch.setattr(train_module, "fit_together", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UsageError, match="a batch of 16 videos does not fit into the memory of cpu; use a smaller"):
        fit_runs([run], inputs, TrainConfig(epochs=1, batch_size=16))


def test_where_it_pays(make_world):
    world = make_world(classes=4, dim=16)
    inputs = inputs_of(world)
    frames = inputs.only(("frames",))
    assert together_pays(frames, batch_size=CPU_NUMBERS // (4 * 16))
    assert not together_pays(frames, batch_size=CPU_NUMBERS // (4 * 16) + 1)
    assert together_pays(replace(frames, frames=2), batch_size=2 * CPU_NUMBERS // (4 * 16))
    skeleton = inputs.only(("skeleton",), skeleton=torch.zeros(44, 1, 6, 2, 90))
    assert not together_pays(skeleton, batch_size=1)
    assert not together_pays(inputs.only(("tokens",)), batch_size=CPU_NUMBERS // (4 * 16))


@pytest.mark.parametrize("head", ["pose", "vcs+pose"])
def test_skeletons_are_trained_one_after_the_other(make_store, tmp_path, head):
    heard = []
    train_head(make_store().open(), head=head, seeds=2, out=tmp_path / "run", progress=heard.append, **FAST)
    assert [report.seed for report in heard] == [0] * 3 + [1] * 3
