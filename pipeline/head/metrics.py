"""Accuracies and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranking(scores: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` best classes of each row of ``scores`` [N, C], best first; equal scores by class number."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def hits(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Whether the label is among the ``k`` best classes: bool [N]."""
    return (ranking(scores, k) == labels[:, None]).any(axis=1)


def mean_class_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have test videos of the share of their videos that are right."""
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=correct)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def clustered_interval(
    correct: np.ndarray, sources: Sequence[str], *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``correct`` [N] by a bootstrap over source groups.

    Videos cut from one source are alike, so sources are drawn, not videos. Of several seeds, give each video's
    mean.
    """
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    sizes = np.bincount(group)
    sums = np.bincount(group, weights=correct)
    times = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=draws)
    means = (times @ sums) / (times @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
