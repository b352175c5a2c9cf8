"""Paired comparisons on the same test videos, and the three verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.head.metrics import Resampling, percentiles

HELPS, EQUIVALENT, INCONCLUSIVE = "helps", "equivalent within 0.5 points", "inconclusive"
MARGIN = 0.005
_SPEARMAN_DRAWS = 1000

# Whether each test video was classified rightly: one bool array [S, N] a split, S seeds.
Outcomes = Sequence[np.ndarray]


@dataclass(frozen=True)
class Gain:
    """How much more often the first of two is right, in [-1, 1], with its 95% interval."""

    gain: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``HELPS`` where the whole interval is above zero, ``EQUIVALENT`` where it lies within half a point of it."""
        if self.low > 0:
            return HELPS
        return EQUIVALENT if self.low >= -MARGIN and self.high <= MARGIN else INCONCLUSIVE

    def __str__(self) -> str:
        return f"{100 * self.gain:+.1f} points (95% interval {100 * self.low:+.1f} to {100 * self.high:+.1f})"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def top1(outcomes: Outcomes) -> float:
    """Mean over the splits."""
    return float(np.mean([of_split.mean() for of_split in outcomes]))


class Paired:
    """Comparisons on the same test videos; ``sources`` are those of each split's.

    The bootstrap draws sources, the same ones for all that is compared, and the seeds of each, so that neither the
    choice of videos nor luck in training passes for an effect.
    """

    def __init__(self, sources: Sequence[Sequence[str]], *, seed: int = 0) -> None:
        self._resampling = Resampling(sources, seed=seed)

    def gain(self, first: Outcomes, second: Outcomes) -> Gain:
        """The gain of the first over the second.

        Where not one answer differs, drawing videos shows no spread, which does not mean that there is none: the
        interval is then what the rule of three says of an event not seen in so many sources, 3 / n on either side.
        """
        if all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
            unseen = min(1.0, 3 / self._resampling.num_sources)
            return Gain(0.0, -unseen, unseen)
        low, high = percentiles(self._resampling.means(first) - self._resampling.means(second))
        return Gain(top1(first) - top1(second), low, high)


def gain(first: Outcomes, second: Outcomes, sources: Sequence[Sequence[str]]) -> Gain:
    """The gain of the first over the second: see ``Paired``."""
    return Paired(sources).gain(first, second)


def gain_on(
    first: Outcomes, second: Outcomes, sources: Sequence[Sequence[str]], keep: Sequence[np.ndarray]
) -> Gain | None:
    """The gain on some of the test videos, bool [N] a split; None where that leaves none."""
    splits = [split for split, rows in enumerate(keep) if rows.any()]
    if not splits:
        return None
    kept = [[s for s, k in zip(sources[split], keep[split], strict=True) if k] for split in splits]
    return gain([first[s][:, keep[s]] for s in splits], [second[s][:, keep[s]] for s in splits], kept)


@dataclass(frozen=True)
class Trend:
    """A rank correlation and its 95% interval."""

    rho: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rho:+.2f} (95% interval {self.low:+.2f} to {self.high:+.2f})"

    def sentence(self, measure: str, unit: str) -> str:
        """What it says about gains: more where ``measure`` of a ``unit`` is high, or low, or nothing."""
        where = "high" if self.low > 0 else "low" if self.high < 0 else None
        says = f"the gain is larger where it is {where}" if where else "no trend can be told"
        return f"Spearman's correlation of {measure} with the gain, by {unit}: {self}: {says}."


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two arrays [N]; 0 where one of them is constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm else 0.0


def spearman_interval(x: np.ndarray, y: np.ndarray, groups: Sequence[str] | None = None) -> Trend:
    """Rank correlation and its 95% interval, by a bootstrap over the rows, or over their groups."""
    names = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    rows = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_SPEARMAN_DRAWS):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        found.append(spearman(x[drawn], y[drawn]))
    return Trend(spearman(x, y), *percentiles(np.array(found)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]
