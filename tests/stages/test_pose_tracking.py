"""Persons followed through a clip: crossing, gaps, crowds, order and ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stages.pose import Persons
from stages.pose.tracking import MAX_GAP, assign_slots, box_similarity, keypoint_similarity

# A figure in the unit square: one place a joint, all different.
FIGURE = np.stack([np.linspace(0.1, 0.9, 17), (np.arange(17) * 7 % 17) / 17], 1)


def person(x: float, y: float = 50, *, size: float = 40, score: float = 0.9, pose: float = 0.0) -> tuple:
    figure = np.clip(FIGURE + pose * np.sin(np.arange(34).reshape(17, 2)), 0, 1)
    corner = np.array([x - size / 2, y - size / 2])
    keypoints = np.concatenate([corner + size * figure, np.full((17, 1), 0.8)], 1)
    return keypoints, np.array([*corner, *(corner + size), score])


def frame(*people: tuple) -> Persons:
    if not people:
        return Persons.nobody()
    return Persons(
        np.stack([keypoints for keypoints, _ in people]).astype(np.float32),
        np.stack([box for _, box in people]).astype(np.float32),
    )


def test_slots_are_one_person_each_where_two_cross() -> None:
    # 0 walks right, 1 walks left and is smaller; their boxes are one over the other at time 8. The order in the
    # frame alternates, so that taking persons as they come fails.
    frames, want = [], []
    for time in range(17):
        people = [person(20 + 10 * time), person(180 - 10 * time, size=36, pose=0.1)]
        frames.append(frame(*people[:: 1 if time % 2 else -1]))
        want.append([0, 1] if time % 2 else [1, 0])
    assert assign_slots(frames, 2).tolist() == want


def test_the_same_figures_cross_where_one_is_hidden_meanwhile() -> None:
    frames = []
    for time in range(17):
        people = [person(20 + 10 * time, score=0.95), person(180 - 10 * time)]
        frames.append(frame(*people[:1]) if 7 <= time <= 9 else frame(*people))
    slots = assign_slots(frames, 2)
    assert (slots[:, 0] == 0).all()
    assert slots[:, 1].tolist() == [1] * 7 + [-1] * 3 + [1] * 7


def test_twins_cross_between_two_frames() -> None:
    # After the crossing each stands nearer to where the other was: only their movement tells them apart.
    frames = [frame(person(20 + 24 * time, score=0.95), person(196 - 24 * time)) for time in range(8)]
    assert assign_slots(frames, 2).tolist() == [[0, 1]] * 8


def test_a_gap_keeps_the_slot_until_it_is_too_long() -> None:
    short = [frame(person(50)), *[frame()] * MAX_GAP, frame(person(52)), frame(person(52))]
    slots = assign_slots(short, 2)
    assert slots[:, 0].tolist() == [-1] * (MAX_GAP + 1) + [0, 0]
    assert slots[:, 1].tolist() == [0] + [-1] * (MAX_GAP + 2)
    assert assign_slots(short[:1] + short[2:], 2)[:, 0].tolist() == [0] + [-1] * (MAX_GAP - 1) + [0, 0]


def test_a_fast_person_whose_boxes_do_not_overlap_is_one() -> None:
    frames = [frame(person(20 + 44 * time)) for time in range(10)]
    assert assign_slots(frames, 2).tolist() == [[0, -1]] * 10


def test_a_person_who_speeds_up_is_followed_by_prediction() -> None:
    frames = [frame(person(x)) for x in np.cumsum([20, 40, 60, 80, 100])]
    assert assign_slots(frames, 2).tolist() == [[0, -1]] * 5


def test_far_away_or_of_another_size_is_someone_else() -> None:
    assert assign_slots([frame(person(20)), frame(person(200))], 2).tolist() == [[0, -1], [-1, 0]]
    assert assign_slots([frame(person(20)), frame(person(20, size=12))], 2).tolist() == [[0, -1], [-1, 0]]


def test_more_than_p_persons_keeps_the_most_prominent_over_the_clip() -> None:
    # In frame 3 a big passer-by is the largest, but only there.
    crowd = [person(60 * place, size=20 + 4 * place) for place in range(6)]
    frames = [frame(*crowd) for _ in range(8)]
    frames[3] = frame(person(200, y=300, size=150), *crowd)
    assert assign_slots(frames, 3).tolist() == [[5, 4, 3]] * 3 + [[6, 5, 4]] + [[5, 4, 3]] * 4


def test_score_counts_in_the_order_of_slots() -> None:
    assert assign_slots([frame(person(20, score=0.4), person(200, size=38))], 2).tolist() == [[1, 0]]


def test_the_order_of_persons_in_a_frame_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    frames = [
        frame(*[person(40 * i + rng.normal(0, 8), size=40 + rng.normal(0, 3), pose=0.05) for i in range(4)])
        for _ in range(12)
    ]
    slots = assign_slots(frames, 3)
    for _ in range(5):
        orders = [rng.permutation(4) for _ in frames]
        shuffled = [Persons(f.keypoints[order], f.boxes[order]) for f, order in zip(frames, orders, strict=True)]
        again = assign_slots(shuffled, 3)
        for time, order in enumerate(orders):
            assert [order[slot] if slot >= 0 else -1 for slot in again[time]] == slots[time].tolist()


def test_ties_are_settled_by_place_not_by_order() -> None:
    twins = [person(20), person(100), person(180)]
    chosen = set()
    for order in itertools.permutations(range(3)):
        slots = assign_slots([frame(*[twins[i] for i in order])] * 3, 2)
        chosen.add(tuple(order[slot] for slot in slots[0]))
        assert (slots == slots[0]).all()
    assert len(chosen) == 1


def test_identities_of_the_estimator_stand() -> None:
    a, b = frame(person(20), person(100)), frame(person(20), person(100))
    swapped = [Persons(a.keypoints, a.boxes, np.array([7, 3])), Persons(b.keypoints, b.boxes, np.array([3, 7]))]
    assert assign_slots(swapped, 2).tolist() in ([[0, 1], [1, 0]], [[1, 0], [0, 1]])


def test_nobody_at_all() -> None:
    assert assign_slots([frame(), frame()], 3).tolist() == [[-1] * 3] * 2
    assert assign_slots([], 3).shape == (0, 3)


def test_similarities_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 20]], float)
    diou, ratio = box_similarity(boxes[:1], boxes)
    # Side by side: IoU 0, centres 10 apart, outer diagonal squared 20^2 + 10^2. Inside: IoU 1/4, 50 over 800.
    np.testing.assert_allclose(diou, [[1, -100 / 500, 1 / 4 - 50 / 800]])
    np.testing.assert_allclose(ratio, [[1, 1, 4]])
    keypoints = np.zeros((1, 17, 3))
    keypoints[..., 2] = 1
    moved = keypoints.copy()
    moved[0, 0, 0] = 3.0
    expected = (16 + np.exp(-9 / (2 * 100 * 0.052**2))) / 17
    np.testing.assert_allclose(keypoint_similarity(keypoints, moved, np.array([100.0])), [[expected]])
    moved[0, 0, 2] = 0
    np.testing.assert_allclose(keypoint_similarity(keypoints, moved, np.array([100.0])), [[1]])


@pytest.mark.parametrize(
    ("keypoints", "boxes", "ids"),
    [
        ((2, 17, 3), (1, 5), None),
        ((1, 18, 3), (1, 5), None),
        ((2, 17, 3), (2, 4), None),
        ((2, 17, 3), (2, 5), [1, 1]),
        ((2, 17, 3), (2, 5), [1]),
    ],
)
def test_persons_of_a_wrong_shape_are_refused(keypoints: tuple, boxes: tuple, ids: list | None) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Persons(np.zeros(keypoints), np.zeros(boxes), None if ids is None else np.array(ids))
