"""What the synthetic set shows, without rendering: balance, reversed pairs, postures, who is in view."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.datasets.synthetic import CLASSES, SyntheticConfig, truth
from pipeline.datasets.synthetic.body import INDEX, NUM_JOINTS, ROW, SEGMENTS, Build, forward
from pipeline.datasets.synthetic.config import BACKDROPS, OBJECT_OF, REVERSED, SCENE_OF
from pipeline.datasets.synthetic.script import COLOURS, LEAD, Script, _deal, _script, _subject, splits_of, write_scripts
from store.errors import UsageError

PAIRS = [(partner, name) for name, partner in REVERSED.items()]


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return list(write_scripts(0, SyntheticConfig()))


def of(scripts: list[Script], class_name: str) -> list[Script]:
    return [script for script in scripts if script.class_name == class_name]


def test_every_class_subject_and_clip_once(scripts):
    assert Counter(script.class_name for script in scripts) == dict.fromkeys(CLASSES, 18)
    assert Counter(script.subject for script in scripts) == dict.fromkeys(range(9), 28)
    assert len({script.video_id for script in scripts}) == len(scripts) == 252
    assert all(50 <= script.num_frames <= 84 for script in scripts)


def test_every_subject_tests_one_split():
    assert all(sorted(splits_of(subject)) == ["test", "train", "train"] for subject in range(9))


def test_what_is_not_the_class_is_dealt_out_evenly(scripts):
    for facts in (
        lambda s: s.codec,
        lambda s: (s.width, s.height),
        lambda s: s.fps,
        lambda s: s.occluder is not None,
    ):
        counts = [Counter(map(facts, of(scripts, name))) for name in CLASSES]
        for value in counts[0] | counts[-1]:
            share = [count[value] for count in counts]
            assert max(share) - min(share) <= 1, (value, share)
    second = [sum(len(s.figures) == 2 for s in of(scripts, name)) for name in CLASSES if name not in SCENE_OF]
    assert set(second) == {5}
    for name in CLASSES:
        scenes = Counter(script.scene for script in of(scripts, name))
        if name in SCENE_OF:
            assert scenes == {SCENE_OF[name]: 18}
        else:
            assert set(scenes) == set(BACKDROPS)
            assert max(scenes.values()) - min(scenes.values()) <= 1


def test_scale_view_and_clothes_do_not_depend_on_the_class(scripts):
    """One-way analysis of variance; F(13, 238) is above 2.8 once in a thousand sets that are independent."""
    people = [script for script in scripts if script.figures]
    label = np.array([CLASSES.index(script.class_name) for script in people])
    for fact in (
        lambda s: s.yaw,
        lambda s: s.person_height,
        lambda s: list(COLOURS).index(s.figures[0].look.shirt),
        lambda s: s.figures[0].look.build.girth,
        lambda s: s.num_frames,
    ):
        values = np.array([float(fact(script)) for script in people])
        groups = [values[label == number] for number in range(len(CLASSES))]
        between = sum(len(g) * (g.mean() - values.mean()) ** 2 for g in groups) / (len(groups) - 1)
        within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (len(values) - len(groups))
        assert between / within < 2.8


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_reversed_pair_is_one_performance_played_both_ways(first, second):
    config = SyntheticConfig(second_person=1, occluded=0, away=0.5)
    cards = {name: values[0] for name, values in _deal(np.random.default_rng(0), config, first).items()}
    look = _subject(np.random.default_rng(1))
    a, b = (_script((0, 7), name, 0, 0, look, cards, config) for name in (first, second))
    lead = round(LEAD * a.num_frames)
    n = a.num_frames - lead  # frames of the performance that both clips show
    assert b.num_frames == a.num_frames
    for played, reverse in zip(a.figures, b.figures, strict=True):
        np.testing.assert_array_equal(reverse.at[:n][::-1], played.at[:n])
    np.testing.assert_array_equal(b.phase[:n][::-1], a.phase[:n])
    assert (b.start, b.end) == (n - a.end, n - a.start)
    if a.prop is not None and b.prop is not None:
        np.testing.assert_array_equal(b.prop.at[:n][::-1], a.prop.at[:n])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_order_alone_tells_a_reversed_pair_apart(first, second):
    """The best threshold on the mean over 8 or 16 sampled frames is near chance; last against first is always right."""
    config = SyntheticConfig(classes=(first, second))
    drawn = [script for seed in range(12) for script in write_scripts(seed, config)]
    label = np.array([script.class_name == first for script in drawn])
    for sampled in (8, 16):
        tracks = [s.phase[np.arange(sampled) * s.num_frames // sampled] for s in drawn]
        mean = np.array([track.mean() for track in tracks])
        accuracy = [np.mean((mean < threshold) == label) for threshold in np.linspace(0, 1, 101)]
        assert max(*accuracy, 1 - min(accuracy)) < 0.6
        assert (np.array([track[-1] > track[0] for track in tracks]) == label).all()


def test_the_action_fills_a_part_and_the_rest_is_idle(scripts):
    for script in scripts:
        assert 0 <= script.start < script.end <= script.num_frames
        if script.class_name in SCENE_OF:
            assert (script.start, script.end) == (0, script.num_frames)
            continue
        assert 0.1 < (script.end - script.start) / script.num_frames < 0.75
        before, after = script.phase[: script.start + 1], script.phase[script.end - 1 :]
        assert np.ptp(before) == np.ptp(after) == 0
        assert np.ptp(script.phase[script.start : script.end]) == 1
    starts = [s.start / s.num_frames for s in scripts if s.class_name not in SCENE_OF]
    assert np.std(starts) > 0.12


def test_left_is_the_persons_left():
    """In the body's axes, x is to the person's left, and limbs that are abducted point outwards."""
    pose = np.zeros((1, len(SEGMENTS), 2))
    pose[:, ROW["l_upper_arm"] :, 1] = 20
    points = forward(pose, Build())[0]
    for inner, outer in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
        assert points[INDEX[f"l_{outer}"], 0] > points[INDEX[f"l_{inner}"], 0] > 0
        assert points[INDEX[f"r_{outer}"], 0] < points[INDEX[f"r_{inner}"], 0] < 0
    assert points[INDEX["l_eye"], 0] > 0 > points[INDEX["r_eye"], 0]
    assert points[INDEX["nose"], 2] > points[INDEX["head"], 2]


def test_seen_from_the_front_left_is_on_the_right_of_the_screen(scripts):
    front = [s for s in scripts if s.figures and abs(s.yaw) < 30]
    assert len(front) > 50
    for script in front:
        at = script.figures[0].at
        assert (at[:, INDEX["l_shoulder"], 0] > at[:, INDEX["r_shoulder"], 0]).all()


def test_postures(scripts):
    """Heights of joints over the ankles in body heights say what the actor does at the height of the action."""

    def height(script: Script, joint: str) -> float:
        figure, frame = script.figures[0], int(np.argmax(script.phase))
        if script.class_name in ("pick up", "put down"):
            frame = (script.start + script.end) // 2
        ankle = max(figure.at[frame, INDEX["l_ankle"], 1], figure.at[frame, INDEX["r_ankle"], 1])
        return (ankle - figure.at[frame, INDEX[joint], 1]) / (script.person_height * script.height)

    def heights(class_name: str, *joints: str) -> np.ndarray:
        return np.array([[height(s, joint) for joint in joints] for s in of(scripts, class_name) if s.figures])

    nose, *wrists = heights("raise arms", "nose", "l_wrist", "r_wrist").T
    assert (np.minimum(*wrists) > nose).all()
    assert (heights("squat", "l_hip") < 0.32).all()
    assert (heights("kneel", "l_hip") < 0.42).all()
    assert (heights("wave", "l_wrist", "r_wrist").max(1) > 0.7).all()
    assert (np.abs(heights("sit down", "l_hip") - heights("stand up", "l_hip").mean()) < 0.15).all()
    for name in ("pick up", "put down"):
        assert (heights(name, "l_wrist", "r_wrist").min(1) < 0.32).all()
    for name in OBJECT_OF:
        assert (heights(name, "l_wrist", "r_wrist").max(1) > 0.5).all()
    for name in SCENE_OF:
        assert (heights(name, "l_hip") > 0.4).all()


def test_the_object_is_in_the_hand(scripts):
    for script in scripts:
        if script.class_name in OBJECT_OF:
            assert script.prop is not None
            assert script.prop.kind == OBJECT_OF[script.class_name]
            hands = script.figures[0].at[:, [INDEX["l_hand"], INDEX["r_hand"]]]
            gap = np.linalg.norm(hands - script.prop.at[:, None], axis=-1) / (script.person_height * script.height)
            assert gap.max(0).min() < 0.12
        elif script.class_name in ("pick up", "put down"):
            assert script.prop is not None
        else:
            assert script.prop is None


def test_nobody_second_persons_and_absence(scripts):
    nobody = [script for script in scripts if not script.figures]
    assert {script.class_name for script in nobody} == set(SCENE_OF)
    away = 0
    for script in scripts:
        for person in range(len(script.figures)):
            box, keypoints = truth.boxes(script, person), truth.keypoints(script, person)
            gone = box[:, 4] == 0
            assert (keypoints[gone, :, 2] == 0).all()
            assert box.shape == (script.num_frames, 5)
            assert keypoints.shape == (script.num_frames, NUM_JOINTS, 3)
            if person == 0 and gone.any():
                away += 1
                assert not gone[script.start : script.end].any() or script.class_name in SCENE_OF
    assert away >= 14


def test_what_hides_a_joint_shows_in_its_visibility(scripts):
    pole = next(s for s in scripts if s.occluder is not None and s.figures and s.occluder[1] == 0)
    assert pole.occluder is not None
    x1, _, x2, _ = pole.occluder
    keypoints = truth.keypoints(pole, 0)
    behind = (keypoints[..., 0] * pole.width >= x1 + 1e-3) & (keypoints[..., 0] * pole.width <= x2 - 1e-3)
    assert behind.any()
    assert (keypoints[behind][:, 2] == 0).all()
    profile = max((s for s in scripts if len(s.figures) == 1 and s.occluder is None), key=lambda s: s.yaw)
    ears = truth.keypoints(profile, 0)[:, [3, 4], 2].mean(0)  # facing right: the left ear is behind the head
    assert sorted(ears)[0] <= 0.6
    assert sorted(ears)[1] > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("jump", "wave")},
        {"classes": ("wave",)},
        {"num_subjects": 2},
        {"clips": 0},
        {"sizes": ((161, 120),)},
    ],
)
def test_config_is_checked(wrong):
    with pytest.raises(UsageError, match="allowed"):
        SyntheticConfig(**wrong)
