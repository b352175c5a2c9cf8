"""Zero-shot, across datasets and few-shot; inner validation; views; what makes a result suspicious."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.head import HeadConfig, TrainConfig, evaluate_run, few_shot, train_head, zero_shot
from pipeline.head import data as head_data
from pipeline.head.inner import FOLDS, inner_folds, inner_split, tune
from pipeline.head.plausible import too_good
from pipeline.head.protocols import half_class_top1, retarget
from pipeline.head.results import SplitSummary
from pipeline.head.train import new_head, predict
from store.errors import StoreError, UsageError

FAST = {"frames": 4, "epochs": 2, "device": "cpu", "training": TrainConfig(batch_size=16)}


def run_of(made, tmp_path, head="vcs", **options):
    return train_head(made.open(), head=head, out=tmp_path / "run", **{**FAST, **options})


def test_zero_shot_without_a_run_is_the_untrained_head(make_store, tmp_path):
    made = make_store()
    untrained = run_of(made, tmp_path, split="all", epochs=0)
    found = zero_shot(made.open(), head="vcs", frames=4, device="cpu")
    assert found.splits == untrained.summaries
    assert found.trained_on is None
    assert found.videos == made.videos
    assert len(found.half) == 10
    # Two of four classes are easier to tell apart than four.
    assert np.mean(found.half) >= found.everything["top1"]
    json.dumps(found.to_dict(), allow_nan=False)
    again = zero_shot(run=untrained, device="cpu")
    assert again.splits == found.splits
    assert again.trained_on is None


@pytest.mark.parametrize("head", ["vcs", "fuse", "pvcs+pose", "pvcs-joint"])
def test_a_run_goes_to_another_dataset(make_store, tmp_path, head):
    made = make_store()
    run = run_of(made, tmp_path, head=head, seeds=2)
    # The same CLIP group and videos, whose classes have other names and another order.
    other = make_store("other", class_names=("pour", "run", "swim", "talk"), order=(2, 0, 3, 1))
    with pytest.raises(StoreError, match="give --zero-shot to take its text stream to the other classes"):
        evaluate_run(run, other.open())
    found = zero_shot(other.open(), run=run, device="cpu")
    assert (found.trained_on, found.heads, found.head) == ("made-up", 2, head)
    # What was learnt about words and frames holds for them under any name; offsets of classes would not.
    assert found.everything["top1"] > 0.8
    assert found.splits[0].split == 1


def test_what_was_learnt_about_its_own_classes_stays_behind(make_world):
    world, other = make_world(classes=4, dim=16), make_world(classes=7, dim=16, seed=1)
    labels = world.labels(8)
    inputs = world.inputs(labels, frames=world.directions(labels, 3, noise=0.5))
    head = new_head(HeadConfig(head="vcs"), inputs, world.text)
    before = predict(retarget(head, other.text), inputs)
    head = new_head(HeadConfig(head="vcs"), inputs, world.text)
    with torch.no_grad():
        head.offsets.add_(1.0)
        head.adapter.up.bias.add_(0.1)
    after = predict(retarget(head, other.text), inputs)
    assert after.shape == (8, 7)
    assert not torch.equal(after, before)  # the adapter stays
    with torch.no_grad():
        head.adapter.up.bias.zero_()
    assert torch.equal(predict(head, inputs), before)


def test_zero_shot_needs_words(make_store, tmp_path):
    store = make_store().open()
    for head in ("attn", "pose", HeadConfig(modalities="V+P"), HeadConfig(modalities="P+T")):
        with pytest.raises(UsageError, match=r"epochs is 0 \(zero-shot\) and head .* compares no frames with words"):
            zero_shot(store, head=head, frames=4)
        with pytest.raises(UsageError, match=r"epochs is 0 \(zero-shot\)"):
            train_head(store, head=head, out=tmp_path / "run", **{**FAST, "epochs": 0})


def test_half_of_the_classes_is_a_choice_among_them():
    scores = np.array([[0.9, 0.1, 0.8, 0.0], [0.9, 0.5, 0.0, 0.0], [0.9, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.1]])
    labels = np.arange(4)
    right = []
    for seed in range(10):
        kept = np.sort(np.random.default_rng(seed).permutation(4)[:2])
        right.append(np.mean([max(kept, key=lambda c, label=label: scores[label, c]) == label for label in kept]))
    assert half_class_top1([scores], labels) == pytest.approx(tuple(right))
    assert len(set(right)) > 1
    for classes in (2, 3):  # one alone is no choice
        assert half_class_top1([scores[:, :classes]], labels % classes) == ()


def test_few_shot_trains_on_so_many_and_tests_on_all(make_store, tmp_path, monkeypatch):
    made = make_store()
    run = run_of(made, tmp_path, split="all", seeds=2)
    few = few_shot(run, (1, 3), device="cpu")
    assert [(row["shots"], row["train_videos"]) for row in few.rows] == [(1, 4), (3, 12)]
    assert [s["split"] for s in few.rows[0]["splits"]] == [1, 2]
    assert few.seeds == 2
    all_of_them = few_shot(run, (1000,), device="cpu")
    assert any("4 classes have fewer than 1000 training videos" in line for line in all_of_them.warnings)
    assert [s["top1"] for s in all_of_them.rows[0]["splits"]] == [s.top1 for s in run.summaries]
    json.dumps(few.to_dict(), allow_nan=False)
    for shots in ((), (0,), (2, -1)):
        with pytest.raises(UsageError, match=r"few-shot is .*; allowed: numbers from 1 on"):
            few_shot(run, shots)


def test_few_shot_says_what_gives_test_videos_away(make_store, tmp_path):
    """Found in the store: the record of a run may be older than what the store holds, or than the warning."""
    run = run_of(make_store(files={16: "hash0"}), tmp_path, head="mean")
    (leak,) = (line for line in run.warnings if line.startswith("leak"))
    stale = replace(run, warnings=("leak: 5 of 16 test videos", "another note"))
    for recorded in (run, replace(run, warnings=()), stale):
        found = few_shot(recorded, (1,), device="cpu").warnings
        assert [line for line in found if line.startswith("leak")] == [leak]
    assert "another note" in found
    clean = run_of(make_store("clean"), tmp_path, head="mean")
    assert not [line for line in few_shot(clean, (1,), device="cpu").warnings if line.startswith("leak")]


def test_the_inner_validation_shares_no_source(make_world):
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.integers(0, 5, size=200)
        sources = [f"{label % 3 if rng.random() < 0.2 else label}-{rng.integers(8)}" for label in labels]
        fitting, held = inner_split(labels, sources, seed=seed)
        assert sorted([*fitting, *held]) == list(range(200))
        assert not {sources[i] for i in fitting} & {sources[i] for i in held}
        assert set(labels[fitting]) == set(labels)
        assert 0.1 < len(held) / 200 < 0.4


def test_an_inner_validation_needs_sources():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(UsageError, match=r"the 4 training videos come from 2 sources, too few .* without --tune"):
        inner_split(labels, ["a", "a", "b", "b"])
    fitting, held = inner_split(labels, ["a", "b", "c", "d"])
    assert len(fitting) == len(held) == 2


def test_each_source_is_held_out_by_one_fold_and_each_class_by_all():
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.integers(0, 5, size=200)
        sources = [f"{label % 3 if rng.random() < 0.2 else label}-{rng.integers(8)}" for label in labels]
        folds = inner_folds(labels, sources, seed=seed)
        assert len(folds) == FOLDS
        assert sorted(row for _, held in folds for row in held) == list(range(200))
        for fitting, held in folds:
            assert sorted([*fitting, *held]) == list(range(200))
            assert not {sources[i] for i in fitting} & {sources[i] for i in held}
            assert set(labels[fitting]) == set(labels[held]) == set(labels)
            assert 0.15 < len(held) / 200 < 0.35
        again = inner_folds(labels, sources, seed=seed)
        for one, other in zip(folds, again, strict=True):
            np.testing.assert_array_equal(one[1], other[1])


def test_a_fold_leaves_every_class_training_videos():
    labels = np.array([0, 0, 1, 1, 2])
    with pytest.raises(UsageError, match="the 5 training videos come from 3 sources, too few to hold some out"):
        inner_folds(labels, ["a", "a", "b", "b", "c"])
    # Of three sources two folds hold one each, and the only one with class 2 is held out by none.
    folds = inner_folds(labels, ["a", "b", "a", "b", "c"])
    assert sorted(held.tolist() for _, held in folds) == [[0, 2], [1, 3]]


def test_tuning_takes_what_validates_best_and_never_sees_the_test_set(make_store, tmp_path, monkeypatch):
    made = make_store(noise=3.0)
    events = []
    load = head_data.load_inputs
    monkeypatch.setattr(head_data, "load_inputs", lambda *a, **k: events.append(k["subset"]) or load(*a, **k))
    bad = TrainConfig(batch_size=16, learning_rate=1e-5)
    result = run_of(made, tmp_path, head="mean", tune=True, training=bad, frames=2)
    assert events == ["train", "test"]
    tuning = result.tuning["1"]
    best = max(trial["top1"] for trial in tuning["trials"])
    assert tuning["chosen"] in [trial["training"] for trial in tuning["trials"] if trial["top1"] == best]
    first = tuning["trials"][0]["training"]
    names = [{key for key, value in trial["training"].items() if value != first[key]} for trial in tuning["trials"]]
    assert {"learning_rate"} in names
    assert any("random_frames" in changed for changed in names)
    assert any("interpolation" in changed for changed in names)
    assert tuning["train_videos"] + tuning["validation_videos"] == result.scores[0].train_videos
    assert evaluate_run(result).reproduced


def test_a_better_setting_replaces_a_worse_one(make_world):
    world = make_world(classes=6, dim=32)
    labels = world.labels(120)
    frames = world.noise(6, 32)[labels][:, None] + 0.5 * world.noise(120, 3, 32)
    train = world.inputs(labels, frames=frames)
    slow = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-6)
    tuning = tune(HeadConfig(head="mean"), train, world.text, slow)
    by_setting = [(trial.top1, trial.training) for trial in tuning.trials]
    assert tuning.chosen == max(by_setting, key=lambda pair: pair[0])[1]
    tried = [trial.training for trial in tuning.trials]
    assert [setting.learning_rate for setting in tried[:3]] == pytest.approx([1e-6, 1e-6 / 3, 3e-6])
    assert [setting.epochs for setting in tried[3:5]] == [1, 4]
    # All stored frames are read, so there are no random ones to try.
    assert [(setting.interpolation, setting.random_frames) for setting in tried[5:]] == [(0.5, False)]


def test_stored_views_are_averaged_and_can_be_chosen(make_store, tmp_path):
    made = make_store(views=("center", "flip"))
    run = run_of(made, tmp_path, head="pvcs")
    assert run.selection.views == ("center", "flip")
    assert evaluate_run(run).reproduced
    one = evaluate_run(run, views=("flip",))
    assert one.selection.views == ("flip",)
    assert one.reproduced is None
    with pytest.raises(UsageError, match="views is 'squash'; allowed: center, flip"):
        evaluate_run(run, views=("squash",))


def test_random_frames_come_from_their_segments(make_store, tmp_path):
    made = make_store()
    run = run_of(made, tmp_path, frames=2, training=TrainConfig(batch_size=16, random_frames=True))
    plain = train_head(made.open(), head="vcs", out=tmp_path / "plain", **{**FAST, "frames": 2})
    assert run.sizes.frames == 2
    assert evaluate_run(run).reproduced
    assert run.files["split1-seed0.safetensors"] != plain.files["split1-seed0.safetensors"]


SUMMARY = SplitSummary(1, 0.9, 0.99, 0.9, (0.88, 0.92))


@pytest.mark.parametrize(
    ("dataset", "clip", "trained", "chance", "warned"),
    [
        ("hmdb51", {"weights": {"tag": "openai"}}, True, 1 / 51, "90.0% on hmdb51 is more than 78%"),
        ("ucf101", {"weights": {"tag": "openai"}}, True, 1 / 101, None),
        ("ucf101", {"weights": {"tag": "openai"}}, False, 1 / 101, "90.0% on ucf101 is more than 80%"),
        (
            "hmdb51",
            {"weights": {}, "model": {"vision_cfg": {"width": 1024}}},
            True,
            1 / 51,
            "more than 84%, the most expected of a head on frozen features",
        ),
        ("mine", {"weights": {}}, True, 0.1, None),
        ("mine", {"weights": {"seed": 0}}, False, 0.1, "without training from a CLIP model with random weights"),
        ("mine", {"weights": {"seed": 0}}, True, 0.1, None),
    ],
)
def test_results_that_are_too_good_are_named(dataset, clip, trained, chance, warned):
    lines = too_good(dataset, clip, [SUMMARY], chance=chance, trained=trained)
    assert len(lines) == (warned is not None)
    assert all(line.startswith("too good") and warned in line for line in lines)


def test_the_mean_has_an_interval_and_a_line_for_a_table(make_store, tmp_path):
    run = run_of(make_store(), tmp_path, split="all", seeds=2)
    low, high = run.interval
    assert low <= run.top1 <= high
    head, line = run.to_dict()["table"]
    assert line.count("|") == head.count("|")
    assert f"{run.top1:.1%}" in line
    assert " made-up | vcs |" in line


def test_one_video_a_class_can_be_trained_on(make_store, tmp_path):
    run = run_of(make_store(videos=8, sources=1), tmp_path)
    assert run.scores[0].train_videos == 4
    assert evaluate_run(run).reproduced


def test_a_class_whose_videos_are_all_quarantined_is_named(make_store, tmp_path):
    run = run_of(make_store(quarantined_class=2), tmp_path)
    assert "no training video in split 1 for 1 of 4 classes: climb" in run.warnings
    assert "no test video in split 1 for 1 of 4 classes: climb" in run.warnings
    assert any("0 are not extracted and 15 quarantined" in line for line in run.warnings)
    assert not run.complete


def test_what_does_not_fit_on_the_device_is_streamed(make_store, tmp_path, monkeypatch):
    store = make_store().open()
    resident = train_head(store, head="fuse", out=tmp_path / "resident", **FAST)

    def full(tensor, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(head_data, "_move", full)
    streamed = train_head(store, head="fuse", out=tmp_path / "streamed", **FAST)
    assert any(
        "do not fit into the memory of cpu: they stay outside and are sent" in line for line in streamed.warnings
    )
    assert streamed.summaries == resident.summaries
