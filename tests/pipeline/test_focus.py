"""Frame weights against the true interval, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stores

from pipeline.focus import Gain, Truth, Weighed, equal_weights, focus, gain, read_truth
from store import FeatureStore, UsageError

INSIDE = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], bool)
TRUTH = Truth(INSIDE, np.array([False, True, True]))
WEIGHED = Weighed(
    np.array([[0.1, 0.5, 0.2, 0.2], [0.25] * 4, [0.4, 0.3, 0.2, 0.1]]), ("a", "b", "c"), ("s1", "s1", "s2")
)


def test_videos_without_frames_outside_say_nothing() -> None:
    found = focus([WEIGHED], TRUTH)
    assert found.videos == 2
    assert found.share == pytest.approx((0.7 + 0.1) / 2)
    # Of the four pairs of the first video three and a half are in order, of the other three none.
    assert found.area == pytest.approx((3.5 / 4 + 0) / 2)
    assert found.interval[0] <= found.area <= found.interval[1]


def test_a_part_of_the_videos() -> None:
    found = focus([WEIGHED], TRUTH, TRUTH.distracted)
    assert (found.videos, found.area) == (1, 0.0)


def test_equal_weights_find_nothing() -> None:
    found = focus([equal_weights(WEIGHED)], TRUTH)
    assert found.area == 0.5
    assert found.share == pytest.approx(INSIDE[[0, 2]].mean())


def test_several_weights_count_by_what_each_finds() -> None:
    backwards = Weighed(WEIGHED.weights[:, ::-1], WEIGHED.video_ids, WEIGHED.sources)
    both, each = focus([WEIGHED, backwards], TRUTH), [focus([one], TRUTH) for one in (WEIGHED, backwards)]
    assert both.area == pytest.approx(np.mean([found.area for found in each]))


def test_a_gain_is_over_the_same_videos() -> None:
    backwards = Weighed(WEIGHED.weights[:, ::-1], WEIGHED.video_ids, WEIGHED.sources)
    areas = [focus([one], TRUTH).area for one in (WEIGHED, backwards)]
    assert gain(WEIGHED, backwards, TRUTH).area == pytest.approx(areas[0] - areas[1])
    assert gain(WEIGHED, WEIGHED, TRUTH) == Gain(0.0, (0.0, 0.0), 2)


def test_of_other_datasets_nobody_knows(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    with pytest.raises(UsageError, match="allowed: synthetic"):
        read_truth(FeatureStore.open(tmp_path / "s"), ["v0"], 4)
