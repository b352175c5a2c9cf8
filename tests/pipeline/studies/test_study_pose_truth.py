"""``study pose`` as it is run, with every head trained, where it is known whether pose helps."""

import pytest

from pipeline.head import HeadConfig, TrainConfig
from pipeline.studies import StudyConfig
from pipeline.studies.pose import study_pose
from pipeline.studies.verdict import HELPS

pytestmark = pytest.mark.slow
OFF = "video + text"


def answer(made, **training):
    config = StudyConfig(
        store=str(made.root),
        head=HeadConfig(head="pvcs", sigma=0.4),
        frames=4,
        seeds=2,
        device="cpu",
        training=TrainConfig(batch_size=64, **training),
    )
    return study_pose(config, lambda line: None)


def test_noise_helps_at_most_five_times_in_a_hundred(make_store):
    """Poses are anywhere, and tokens are alike in all cells: pooling cancels noise, wherever it is done."""
    said = []
    for seed in range(100):
        made = make_store(f"store{seed}", seed=seed, videos=240, noise=2.0)
        said.append(answer(made, epochs=4, learning_rate=3e-3).verdict)
    assert said.count(HELPS) <= 5, said


def test_three_points_are_found_eight_times_in_ten(make_store):
    """In three of a hundred videos all but the person's cell shows another class."""
    said, gains = [], []
    for seed in range(10):
        made = make_store(f"store{seed}", seed=seed, videos=4600, persons=True, misled=0.03, noise=0.5)
        report = answer(made, epochs=6, learning_rate=3e-3)
        said.append(report.verdict)
        gains.append(report.details["gains"][OFF]["gain"])
    assert 0.02 < sum(gains) / len(gains) < 0.04
    assert said.count(HELPS) >= 8, said
