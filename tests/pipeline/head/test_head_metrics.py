"""Accuracies and intervals on small cases worked by hand."""

import numpy as np
import pytest

from pipeline.head.metrics import Resampling, clustered_interval, hits, mean_class_accuracy, ranking, roc_area


def test_hits_and_ties():
    scores = np.array([[3, 1, 2], [0, 0, 0], [1, 5, 5]], dtype=np.float32)
    assert ranking(scores, 2).tolist() == [[0, 2], [0, 1], [1, 2]]
    assert hits(scores, np.array([0, 1, 2])).tolist() == [True, False, False]
    assert hits(scores, np.array([2, 1, 0]), 2).tolist() == [True, True, False]
    assert hits(scores, np.array([1, 2, 0]), 5).all()


def test_mean_class_accuracy_counts_every_class_once():
    labels = np.array([0, 0, 0, 0, 2])
    assert mean_class_accuracy(np.array([1, 1, 1, 1, 0]), labels) == pytest.approx(0.5)
    assert mean_class_accuracy(np.array([0.5, 1, 1, 0.5, 1]), labels) == pytest.approx(0.875)


def test_the_area_under_the_curve_is_a_chance():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, size=40).astype(float), rng.random(40) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert roc_area(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(roc_area(scores, np.ones(40, bool)))
    assert np.isnan(roc_area(scores, np.zeros(40, bool)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    sources = [f"s{i // 5}" for i in range(400)]
    covered = 0
    for trial in range(100):
        chance = np.repeat(rng.uniform(0.3, 0.9, size=80), 5)
        low, high = clustered_interval(rng.random(400) < chance, sources, draws=400, seed=trial)
        covered += low <= 0.6 <= high
    assert 86 <= covered <= 100


def test_videos_of_one_source_count_as_one():
    correct = np.repeat(np.arange(20) % 2, 10)
    clustered = clustered_interval(correct, [f"s{i // 10}" for i in range(200)])
    independent = clustered_interval(correct, [f"s{i}" for i in range(200)])
    assert clustered[1] - clustered[0] > 2.5 * (independent[1] - independent[0])
    assert clustered_interval(correct, [f"s{i // 10}" for i in range(200)]) == clustered
    assert clustered_interval(np.ones(5), ["a", "a", "b", "b", "b"]) == (1.0, 1.0)


def test_a_draw_of_several_splits_is_the_mean_over_them():
    """A draw that leaves a split without videos (nothing but c, or nothing but b) is left out."""
    resampling = Resampling([["a", "b"], ["a", "c"]], draws=1000)
    assert resampling.num_sources == 3
    means = resampling.means([np.ones((2, 2)), np.zeros((2, 2))])
    assert means.tolist() == [0.5] * len(means)
    assert len(means) == pytest.approx(1000 * 25 / 27, abs=40)
