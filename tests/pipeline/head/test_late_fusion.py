"""Late fusion with a weight from inner validation: at least as good as either on made-up scores, 0 where they are
noise, and the test set never chooses."""

import pickle

import numpy as np
import pytest
import torch

from pipeline.head import TrainConfig, late_fusion, other_scores, train_head
from pipeline.head.inner import FOLDS
from pipeline.head.late import FEWEST_SOURCES, WEIGHTS, choose_weight, fuse
from pipeline.head.metrics import hits
from pipeline.head.other_scores import log_probabilities
from store.errors import MissingError, UsageError

FAST = {"frames": 4, "epochs": 3, "device": "cpu", "training": TrainConfig(batch_size=16)}
LABELS = np.arange(240) % 8
SOURCES = [f"source{i // 4}" for i in range(240)]


def scores(seed, strength, *, good=slice(None)):
    """Log-probabilities of 240 videos of 8 classes that say the truth by ``strength`` for the ``good`` classes."""
    logits = np.random.default_rng(seed).normal(size=(len(LABELS), 8))
    known = np.isin(LABELS, np.arange(8)[good])
    logits[known, LABELS[known]] += strength
    return log_probabilities(2 * logits)


def accuracy(values):
    return hits(values, LABELS).mean()


@pytest.mark.parametrize("seed", range(8))
def test_both_together_are_at_least_as_good_as_either(seed):
    """Chosen on some videos, tested on others: where both know something, where each knows other classes, and where
    only one of them knows anything."""
    for one, other in (
        ({"strength": 1.5}, {"strength": 1.5}),
        ({"strength": 3, "good": slice(0, 4)}, {"strength": 3, "good": slice(4, 8)}),
        ({"strength": 0.2}, {"strength": 3}),
        ({"strength": 3}, {"strength": 0.2}),
    ):
        weight, _ = choose_weight(scores(seed, **one), scores(seed + 100, **other), LABELS, SOURCES)
        head, others = scores(seed + 200, **one), scores(seed + 300, **other)
        together = accuracy(fuse(head, others, weight))
        assert together >= max(accuracy(head), accuracy(others)) - 0.02, (weight, one, other)
        if one == other:
            assert together > max(accuracy(head), accuracy(others)) + 0.05


@pytest.mark.parametrize("seed", range(20))
def test_noise_gets_no_weight(seed):
    weight, tried = choose_weight(scores(seed, 1.5), scores(seed + 100, 0), LABELS, SOURCES)
    assert weight == 0
    assert set(tried) == {f"{w:g}" for w in WEIGHTS}
    assert tried["64"] < 0.3


def test_what_one_source_says_is_one_voice():
    """Eighty videos cut from one source that the other scores help by luck are no evidence."""
    head, other = scores(1, 1.5), scores(2, 1.5)
    assert choose_weight(head, other, LABELS, SOURCES)[0] > 0
    assert choose_weight(head, other, LABELS, ["one"] * len(LABELS))[0] == 0
    # Of four sources, however much each gains; of five it is enough.
    for count in (FEWEST_SOURCES - 1, FEWEST_SOURCES):
        weight, _ = choose_weight(
            scores(1, 0.0), scores(2, 9.0), LABELS, [f"s{i // (240 // count)}" for i in range(240)]
        )
        assert (weight > 0) == (count == FEWEST_SOURCES)


def test_equal_weights_go_to_the_head_alone():
    same = scores(1, 1.5)
    assert choose_weight(same, same, LABELS, SOURCES)[0] == 0
    np.testing.assert_array_equal(fuse(same, np.full_like(same, np.nan), 1.0), same)


def dump(path, store, *, strength, seed=0, tensors=False, names=True, subset=None):
    """A score file as mmaction2 1.x writes it, of which the scores say the truth by ``strength``."""
    rng = np.random.default_rng(seed)
    entries = []
    for row in store.videos.to_pylist():
        if subset in (None, row["split1"]):
            values = rng.normal(size=len(store.class_names)).astype(np.float32)
            values[row["label"]] += strength
            probabilities = np.exp(values) / np.exp(values).sum()
            label = np.array([row["label"]])
            entry = {"pred_score": probabilities, "gt_label": label}
            if tensors:
                entry = {name: torch.from_numpy(value) for name, value in entry.items()}
            entries.append({"frame_dir": row["video_id"], **entry} if names else entry)
    path.write_bytes(pickle.dumps(entries))
    return path


@pytest.fixture
def vcs(make_store, tmp_path):
    made = make_store(videos=240, sources=4, noise=6.0)
    train_head(made.open(), head="vcs", split="all", seeds=2, out=tmp_path / "vcs", **FAST)
    return made


def test_scores_that_tell_the_truth_are_used(vcs, tmp_path):
    found = late_fusion(
        tmp_path / "vcs", [dump(tmp_path / "s.pkl", vcs.open(), strength=3, tensors=True)], device="cpu"
    )
    assert [split.split for split in found.splits] == [1, 2]
    for split in found.splits:
        assert split.weight > 0
        assert split.fused["top1"] >= max(split.head["top1"], split.other["top1"]) - 0.02
        assert split.fused["top1"] > split.head["top1"] + 0.05
        assert (split.lacking, split.videos + split.validation_videos) < (1, 240)
    assert any("may have been trained on the videos" in warning for warning in found.warnings)
    assert found.to_dict()["splits"][0]["weight"] == found.splits[0].weight


def test_scores_that_are_noise_change_nothing(vcs, tmp_path):
    found = late_fusion(tmp_path / "vcs", [dump(tmp_path / "s.pkl", vcs.open(), strength=0)], device="cpu")
    for split in found.splits:
        assert split.weight == 0
        assert split.fused == split.head


def test_a_skeleton_network_trained_here_is_fused(vcs, tmp_path):
    """The keypoints of this store are noise, so it gets no weight."""
    train_head(vcs.open(), head="poseconv", split="all", out=tmp_path / "poseconv", **FAST)
    found = late_fusion(tmp_path / "vcs", [tmp_path / "poseconv"], device="cpu")
    assert "(poseconv)" in found.other
    assert all(split.weight == 0 and split.fused == split.head for split in found.splits)
    train_head(vcs.open(), head="attn", split=1, out=tmp_path / "attn", **FAST)
    with pytest.raises(UsageError, match="has no split 2; train it on the same splits"):
        late_fusion(tmp_path / "vcs", [tmp_path / "attn"], device="cpu")


def test_heads_that_choose_have_not_seen_the_videos_on_which_they_choose(vcs, tmp_path, monkeypatch):
    trained, asked = [], []
    real_fit, real_predict = other_scores.fit_runs, other_scores.predict

    def fit_runs(runs, inputs, *others):
        trained.extend((run.head, inputs.rows(run.rows)) for run in runs)
        return real_fit(runs, inputs, *others)

    monkeypatch.setattr(other_scores, "fit_runs", fit_runs)
    monkeypatch.setattr(
        other_scores, "predict", lambda head, held: (asked.append((head, held)), real_predict(head, held))[1]
    )
    train_head(vcs.open(), head="mean", split="all", out=tmp_path / "mean", **FAST)
    found = late_fusion(tmp_path / "vcs", [tmp_path / "mean"], device="cpu")
    rows = vcs.open().videos.to_pylist()
    train, test = (
        [{row["video_id"] for row in rows if row[f"split{split}"] == subset} for split in (1, 2)]
        for subset in ("train", "test")
    )
    assert len(trained) == len(asked) == 2 * 2 * FOLDS  # both runs, two splits
    for number, ((head, part), (asked_head, held)) in enumerate(zip(trained, asked, strict=True)):
        assert head is asked_head
        assert not set(part.sources) & set(held.sources)
        assert not (set(part.video_ids) | set(held.video_ids)) & test[number // (2 * FOLDS)]
    # Each training video chooses, once, by both.
    for run in range(4):
        held = [name for _, inputs in asked[run * FOLDS : (run + 1) * FOLDS] for name in inputs.video_ids]
        assert sorted(held) == sorted(train[run // 2])
    for split, names in zip(found.splits, train, strict=True):
        assert (split.folds, split.validation_videos) == (FOLDS, len(names))
        assert split.validation_sources == len({row["source"] for row in rows if row["video_id"] in names})


def test_few_sources_are_enough_where_each_is_held_out(make_store, tmp_path):
    """Six training sources, each with videos of every class: one inner validation would be of one or two of them."""
    store = make_store(videos=72, sources=8, noise=4.0, movements=True, tokens=()).open()
    for head in ("vcs", "pose"):
        train_head(store, head=head, out=tmp_path / head, **{**FAST, "epochs": 6})
    found = late_fusion(tmp_path / "vcs", [tmp_path / "pose"], device="cpu")
    (split,) = found.splits
    assert (split.validation_sources, split.validation_videos, split.folds) == (6, 48, FOLDS)
    assert set(split.validation) == {f"{weight:g}" for weight in WEIGHTS}
    assert split.weight > 0
    assert split.validation[f"{split.weight:g}"] == max(split.validation.values())
    assert found.gains["head"]["low"] > 0
    assert not any("told from luck" in warning for warning in found.warnings)


def test_of_too_few_sources_the_weight_is_0_and_a_line_says_so(make_store, tmp_path):
    store = make_store(videos=40, sources=8, noise=4.0, movements=True, tokens=()).open()
    for head in ("vcs", "pose"):
        train_head(store, head=head, out=tmp_path / head, **{**FAST, "epochs": 6})
    found = late_fusion(tmp_path / "vcs", [tmp_path / "pose"], device="cpu")
    (split,) = found.splits
    assert (split.weight, split.validation_sources) == (0, FEWEST_SOURCES - 1)
    assert max(split.validation.values()) > split.validation["0"]
    assert any("chosen on 4 sources; of fewer than 5 no gain can be told from luck" in line for line in found.warnings)


def test_scores_in_files_keep_to_one_inner_validation(vcs, tmp_path):
    """Their network has seen all training videos, of which more would prove no more."""
    found = late_fusion(tmp_path / "vcs", [dump(tmp_path / "s.pkl", vcs.open(), strength=3)], device="cpu")
    for split in found.splits:
        assert split.folds == 1
        assert split.validation_videos < (240 - split.videos) / 2


def test_the_test_set_does_not_choose(vcs, tmp_path):
    """Scores that are right about test videos alone get no weight."""
    store = vcs.open()
    paths = [dump(tmp_path / "train.pkl", store, strength=0, subset="train")]
    paths += [dump(tmp_path / "test.pkl", store, strength=9, subset="test")]
    train_head(store, head="vcs", split=1, out=tmp_path / "one", **FAST)
    found = late_fusion(tmp_path / "one", paths, device="cpu")
    assert found.splits[0].other["top1"] > 0.9
    assert found.splits[0].weight == 0
    with pytest.raises(MissingError, match=r"test\.pkl has no scores of the \d+ training videos of split 1"):
        late_fusion(tmp_path / "one", paths[1:], device="cpu")
    partly = late_fusion(tmp_path / "one", paths[:1], device="cpu").splits[0]
    assert partly.lacking == partly.videos
    assert partly.fused == partly.head


def test_scores_of_other_classes_are_refused(vcs, tmp_path):
    store = vcs.open()
    entries = [
        {"frame_dir": row["video_id"], "pred_score": np.full(4, 0.25), "gt_label": (row["label"] + 1) % 4}
        for row in store.videos.to_pylist()
    ]
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(entries))
    with pytest.raises(UsageError, match="its classes are others, or in another order"):
        late_fusion(tmp_path / "vcs", [tmp_path / "other.pkl"], device="cpu")
    few = [{"frame_dir": "v0", "pred_score": np.full(3, 0.3)}]
    (tmp_path / "few.pkl").write_bytes(pickle.dumps(few))
    with pytest.raises(UsageError, match="holds scores of 3 classes, and the dataset has 4"):
        late_fusion(tmp_path / "vcs", [tmp_path / "few.pkl"], device="cpu")
    train_head(store, head="vcs", out=tmp_path / "zero", **{**FAST, "epochs": 0})
    with pytest.raises(UsageError, match="is zero-shot"):
        late_fusion(tmp_path / "zero", [tmp_path / "few.pkl"], device="cpu")
