"""Verdicts: seldom wrong where there is no effect, mostly right where there is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.studies.placebos import TIME
from pipeline.studies.pose import OFF, judge
from pipeline.studies.verdict import (
    EQUIVALENT,
    HELPS,
    INCONCLUSIVE,
    Gain,
    Paired,
    gain,
    gain_on,
    spearman,
    spearman_interval,
    top1,
)

PLACEBOS = ("training mean", "uniform grid", "another video")
VIDEOS, SOURCES, SEEDS = 1530, 300, 3


def study(rng, planted):
    """Gains of real pose over no pose and placebos, each ``planted`` on average; the videos of a source are alike."""
    source = np.arange(VIDEOS) % SOURCES
    chances = np.clip(rng.beta(4, 2, size=SOURCES)[source] + rng.normal(0, 0.1, size=VIDEOS), 0, 1)
    common = rng.random(VIDEOS)

    def head(shift):
        own = np.where(rng.random((SEEDS, VIDEOS)) < 0.12, rng.random((SEEDS, VIDEOS)), common)
        return [own < np.clip(chances + shift, 0, 1)]

    real = head(planted)
    paired = Paired([[f"s{number}" for number in source]], seed=int(rng.integers(1 << 30)))
    return {name: paired.gain(real, head(0.0)) for name in (OFF, *PLACEBOS)}


def test_at_most_five_null_studies_in_a_hundred_say_helps():
    rng = np.random.default_rng(0)
    studies = [study(rng, 0.0) for _ in range(100)]
    assert sum(judge(gains)[0] == HELPS for gains in studies) <= 5
    # What the placebos add to is itself honest: the comparison with no pose alone is no more often wrong.
    assert sum(gains[OFF].verdict == HELPS for gains in studies) <= 5


def test_three_points_are_found_eight_times_in_ten():
    rng = np.random.default_rng(2)
    verdicts = [judge(study(rng, 0.03 / 0.97))[0] for _ in range(10)]
    assert verdicts.count(HELPS) >= 8


def test_the_gain_is_the_difference_of_accuracies():
    rng = np.random.default_rng(3)
    first, second = ([rng.random((2, 50)) < 0.7, rng.random((2, 30)) < 0.5] for _ in range(2))
    sources = [[f"s{i // 3}" for i in range(50)], [f"s{i // 3}" for i in range(30)]]
    found = gain(first, second, sources)
    assert found.gain == pytest.approx(top1(first) - top1(second))
    assert found.low < found.gain < found.high
    keep = [np.arange(50) < 20, np.zeros(30, bool)]
    part = gain_on(first, second, sources, keep)
    assert part.gain == pytest.approx(first[0][:, :20].mean() - second[0][:, :20].mean())
    assert gain_on(first, second, sources, [np.zeros(50, bool), np.zeros(30, bool)]) is None


def test_videos_of_one_source_count_as_little_as_they_should():
    """Fifty copies of each of ten videos say no more than the ten."""
    rng = np.random.default_rng(4)
    first, second = rng.random((1, 10)) < 0.8, rng.random((1, 10)) < 0.5
    alone = gain([first], [second], [[f"s{i}" for i in range(10)]])
    copied = gain([first.repeat(50, 1)], [second.repeat(50, 1)], [[f"s{i // 50}" for i in range(500)]])
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_luck_in_training_widens_the_interval():
    rng = np.random.default_rng(5)
    sources = [[f"s{i}" for i in range(400)]]
    steady = rng.random((1, 400)) < 0.7
    lucky = np.stack([np.ones(400, bool), np.zeros(400, bool), steady[0]])
    wide = gain([lucky], [steady.repeat(3, 0)], sources)
    assert wide.high - wide.low > 0.4


def test_heads_that_never_differ_are_equivalent_only_on_many_sources():
    """Drawing from videos that all agree shows no spread, however few they are."""
    for sources, verdict in ((20, INCONCLUSIVE), (700, EQUIVALENT)):
        right = np.arange(sources)[None] % 3 > 0
        found = gain([right], [right], [[f"s{i}" for i in range(sources)]])
        assert (found.gain, found.high) == (0, 3 / sources)
        assert found.verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.004, HELPS),
        (-0.005, 0.005, EQUIVALENT),
        (0.0, 0.02, INCONCLUSIVE),
        (-0.006, 0.004, INCONCLUSIVE),
        (-0.004, 0.006, INCONCLUSIVE),
        (-0.02, -0.01, INCONCLUSIVE),
    ],
)
def test_the_three_verdicts(low, high, verdict):
    assert Gain((low + high) / 2, low, high).verdict == verdict


def test_pose_helps_only_where_it_beats_everything():
    win, draw, same = Gain(0.03, 0.01, 0.05), Gain(0.01, -0.01, 0.03), Gain(0.0, -0.002, 0.002)
    verdict, sentence = judge({OFF: win, "uniform grid": Gain(0.02, 0.005, 0.04)})
    assert verdict == HELPS
    assert "the nearest is uniform grid" in sentence
    verdict, sentence = judge({OFF: win, "uniform grid": draw, "person box": same})
    assert verdict == INCONCLUSIVE
    assert "does not beat uniform grid and person box: something helps" in sentence
    verdict, sentence = judge({OFF: win, "uniform grid": win, TIME: draw})
    assert verdict == INCONCLUSIVE
    assert "its own poses at other moments do as well" in sentence
    assert judge({OFF: same, "uniform grid": win})[0] == EQUIVALENT
    assert judge({OFF: draw, "uniform grid": win})[0] == INCONCLUSIVE
    assert "the other way: pose hurts" in judge({OFF: Gain(-0.03, -0.05, -0.01)})[1]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=12), st.integers(0, 1000))
def test_rank_correlation(values, seed):
    x = np.array(values, float)
    y = np.random.default_rng(seed).integers(0, 4, size=len(x)).astype(float)
    rho = spearman(x, y)
    assert -1 - 1e-9 <= rho <= 1 + 1e-9
    assert spearman(y, x) == pytest.approx(rho)
    assert spearman(np.exp(x), 3 * y - 1) == pytest.approx(rho)  # ranks alone count
    assert spearman(x, -y) == pytest.approx(-rho)
    if len(set(values)) > 1:
        assert spearman(x, x) == pytest.approx(1)


def test_a_trend_is_told_and_its_absence_too():
    rng = np.random.default_rng(0)
    x = rng.random(60)
    up = spearman_interval(x, x + 0.3 * rng.random(60))
    assert up.low > 0
    assert "larger where it is high" in up.sentence("speed", "class")
    none = spearman_interval(x, rng.random(60))
    assert none.low < 0 < none.high
    assert "no trend" in none.sentence("speed", "class")
