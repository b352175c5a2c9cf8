"""Accuracies and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Bootstrap draws: percentiles of 95% intervals are then stable to about a tenth of their width.
DRAWS = 2000
LEVEL = 0.95


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


def roc_area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of ``scores`` [N] for bool ``positive`` [N]: the chance that a positive scores higher
    than a negative, ties counting half; NaN where one of the two is absent."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def clustered_interval(
    correct: np.ndarray, sources: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval (95%) of the mean of ``correct`` [N] by a bootstrap over source groups.

    Videos cut from one source are alike, so sources are drawn, not videos. Of several seeds, give each video's
    mean.
    """
    return percentiles(Resampling([sources], draws=draws, seed=seed).means([correct[None]]))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The middle 95% of draws [R]: its lower and its upper end."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Resampling:
    """Bootstrap draws of source groups, the same ones for everything that is compared on the same videos.

    ``sources`` are those of the test videos of each split; a source that is in several splits is drawn for all of them
    at once.
    """

    def __init__(self, sources: Sequence[Sequence[str]], *, draws: int = DRAWS, seed: int = 0) -> None:
        names, group = np.unique(np.concatenate([np.asarray(names) for names in sources]), return_inverse=True)
        self._groups = np.split(group, np.cumsum([len(names) for names in sources])[:-1])
        self._rng = np.random.default_rng(seed)
        self.num_sources = len(names)
        # How often each draw has each source.
        drawn = self._rng.integers(len(names), size=(draws, len(names))) + len(names) * np.arange(draws)[:, None]
        self._times = np.bincount(drawn.ravel(), minlength=draws * len(names)).reshape(draws, -1).astype(np.float64)

    def means(self, correct: Sequence[np.ndarray]) -> np.ndarray:
        """For each draw the mean over the splits of the mean over their videos and seeds: float64 [draws].

        ``correct`` has one array [S, N] a split. Where there are several seeds they are drawn anew as well, here and
        for every call, since another training would have given other ones.
        """
        draws, groups = self._times.shape
        seeds = len(correct[0])
        shares = self._rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
        total = np.zeros(draws)
        for of_split, group in zip(correct, self._groups, strict=True):
            sums = np.stack([np.bincount(group, weights=row, minlength=groups) for row in of_split])
            # Without BLAS, whose sums depend on the number of threads, and whose threads wait for each other here.
            sizes = np.einsum("dg,g->d", self._times, np.bincount(group, minlength=groups).astype(np.float64))
            # A draw without any video of a split says nothing about it: rare, and only where sources are few.
            found = np.einsum("ds,sd->d", shares, np.einsum("sg,dg->sd", sums, self._times))
            total += np.divide(found, sizes, out=np.full(draws, np.nan), where=sizes > 0)
        return total[np.isfinite(total)] / len(correct)
