"""Training in bf16: as good as in float32, chosen where it is faster, and recorded."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline.head import TrainConfig, evaluate_run, train_head
from pipeline.head.checkpoint import read_run
from pipeline.head.config import HeadConfig
from pipeline.head.functional import spot, spot_weights, unit, word_bank
from pipeline.head.train import fit, new_head, predict
from stages import precision
from store.errors import UsageError

FAST = {"frames": 4, "epochs": 2, "device": "cpu"}
# Easy enough to be learnt in seconds, hard enough that no head is always right.
TASKS = {
    "mean": ("weak_frames", 8),
    "vcs": ("strong_frame", 8),
    "pvcs": ("persons_in_cells", 12),
    "attn": ("persons_in_cells", 12),
    "fuse": ("persons_in_cells", 12),
    "pose": ("postures", 3),
}


@pytest.mark.parametrize("name", TASKS)
def test_bf16_is_as_right_as_fp32(make_world, name):
    """Two seeds of each on 400 videos: a standard error of two points, less where both learn alike."""
    world = make_world(classes=8, dim=64)
    task, epochs = TASKS[name]
    config = HeadConfig(head=name, pool_heads=4, bottleneck=32)
    halves = [getattr(world, task)(400) for _ in range(2)]
    if name == "fuse":
        heatmap = torch.ones(400, 1, 4, 3, 3)
        halves = [half.only((*half.tensors, "heatmap"), heatmap=heatmap) for half in halves]
    train, test = (half.only(config.inputs) for half in halves)
    training = TrainConfig(epochs=epochs, batch_size=64, learning_rate=3e-3)
    right, logits = {}, {}
    for number in ("fp32", "bf16"):
        heads = [new_head(config, train, world.text, seed=seed) for seed in range(2)]
        for seed, head in enumerate(heads):
            fit(head, train, replace(training, precision=number), seed=seed)
        logits[number] = torch.stack([predict(head, test) for head in heads])
        right[number] = float((logits[number].argmax(dim=-1) == test.labels).float().mean())
    assert not torch.equal(logits["bf16"], logits["fp32"])
    assert logits["bf16"].dtype == torch.float32
    assert right["fp32"] > 2 / 8
    assert right["bf16"] == pytest.approx(right["fp32"], abs=0.03)


def test_weights_of_frames_and_logits_stay_float32(make_world):
    world = make_world(classes=4, dim=32)
    frames = unit(world.noise(3, 8, 32))
    bank = word_bank(world.noise(4, 2, 32), world.classes)
    expected = spot_weights(frames, bank, tau=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        logits = spot(frames, bank, world.classes, tau=0.01)
        chosen = spot(frames, bank, world.classes, tau=0.01, values=frames)
        weights = spot_weights(frames, bank, tau=0.01)
    assert logits.dtype == chosen.dtype == torch.float32
    torch.testing.assert_close(logits, chosen)
    torch.testing.assert_close(weights.float(), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_goes_by_the_machine_and_is_recorded(make_store, tmp_path, monkeypatch, fast, chosen):
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: fast)
    run = train_head(make_store().open(), head="pvcs", out=tmp_path / "run", **FAST)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["precision"] == chosen
    # Tests are float32 always, so that another machine can repeat them.
    assert evaluate_run(run).reproduced
    named = train_head(
        make_store("other").open(), head="pvcs", out=tmp_path / "named", training=TrainConfig(precision=chosen), **FAST
    )
    assert named.scores[0].loss == run.scores[0].loss


def test_records_without_a_precision_are_of_float32(make_store, tmp_path):
    train_head(make_store().open(), head="mean", out=tmp_path / "run", **FAST)
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    del record["training"]["precision"]
    file.write_text(json.dumps(record))
    assert read_run(tmp_path / "run").training.precision == "fp32"


def test_a_precision_that_there_is_not():
    with pytest.raises(UsageError, match="precision is 'fp8'; allowed: auto, fp32, bf16"):
        TrainConfig(precision="fp8")
