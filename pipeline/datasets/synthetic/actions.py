"""What the actor does: for each class, a track of poses in which the action fills a part and the rest is idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.synthetic.body import INDEX, ROW, SEGMENTS, Build, changed, forward, standing, sway
from pipeline.datasets.synthetic.config import OBJECT_OF, REVERSED, SCENE_OF

# Distance from the hand that carries it to the middle of an object, in body heights.
OBJECT_RADIUS = {"ball": 0.085, "box": 0.085, "umbrella": 0.02}
ENDS_STANDING = ("sit down", "pick up")


@dataclass(frozen=True)
class Motion:
    """One performance, in the body's axes.

    points        [F, 23, 3], see ``body.forward``
    start, end    frames [start, end) of the action
    phase         float [F]: how far the action has got, 0 idle to 1 full (or done, for actions that change a state)
    object_at     [F, 3] middle of the object, or None without one
    object_tilt   [F]: 0 hangs below the hand, 0.5 lies, 1 is held up
    seat          middle of a chair's seat (3 values), or None without one
    """

    points: np.ndarray
    start: int
    end: int
    phase: np.ndarray
    object_at: np.ndarray | None = None
    object_tilt: np.ndarray | None = None
    seat: np.ndarray | None = None


@dataclass(frozen=True)
class _Act:
    """How the actor stands, and when the action happens.

    base        [10, 2], the pose in which the actor stands
    still       [F, 10, 2], small movements to add to every pose
    start, end  frames [start, end) of the action
    phase       float [F], see ``Motion``
    """

    build: Build
    base: np.ndarray
    still: np.ndarray
    start: int
    end: int
    phase: np.ndarray


def perform(
    class_name: str,
    rng: np.random.Generator,
    build: Build,
    num_frames: int,
    window: tuple[int, int],
    fps: float,
    kind: str | None,
    idle: int,
) -> Motion:
    """The actor's motion over ``num_frames``; the action lies inside the frames ``window``, after ``idle`` frames.

    ``kind`` is the object's, where the class needs one. The second class of a reversed pair is performed as the first:
    the caller reverses it.
    """
    side = str(rng.choice(["l", "r"]))
    base = standing(rng)
    class_name = REVERSED.get(class_name, class_name)
    still = sway(rng, num_frames, fps) + stride(num_frames, idle)
    if class_name in SCENE_OF:
        return Motion(forward(base + still, build), 0, num_frames, np.ones(num_frames))
    share = rng.uniform(0.25, 0.4) if class_name in ENDS_STANDING else rng.uniform(0.4, 0.7)
    length = min(round(share * (window[1] - window[0])), window[1] - idle - 4)
    start = int(rng.integers(max(idle, window[0] + 2), window[1] - length - 1))
    end = start + length
    if class_name in ENDS_STANDING:
        act = _Act(build, base, still, start, end, ramp(num_frames, [start, end - 1], [0.0, 1.0]))
        if class_name == "sit down":
            return _sit_down(rng, act)
        assert kind is not None
        return _pick_up(rng, act, side, kind)
    rise = max(5, round(length * rng.uniform(0.15, 0.25)))
    phase = ramp(num_frames, [start, start + rise, end - 1 - rise, end - 1], [0.0, 1.0, 1.0, 0.0])
    full, anchor = _held_pose(class_name, rng, base, side)
    poses = blend(base, full, phase) + still
    if class_name == "wave":
        beat = np.sin(2 * np.pi * (np.arange(num_frames) - start) * rng.uniform(1.4, 2.4) / fps)
        poses[:, ROW[f"{side}_forearm"], 1] += phase * beat * rng.uniform(25, 38)
    points = forward(poses, build, anchor)
    if class_name not in OBJECT_OF:
        return Motion(points, start, end, phase)
    assert kind is not None
    return Motion(points, start, end, phase, _carried(points, side, kind, phase), phase)


def _held_pose(class_name: str, rng: np.random.Generator, base: np.ndarray, side: str) -> tuple[np.ndarray, str]:
    """The pose that an action reaches and holds, and the foot that stays where it is."""
    other = "r" if side == "l" else "l"
    if class_name == "raise arms":
        arm, forearm = rng.uniform(145, 168), rng.uniform(160, 178)
        angles = {f"{s}_upper_arm": (rng.uniform(0, 12), arm + rng.uniform(-6, 6)) for s in "lr"}
        return changed(base, **angles, l_forearm=(0.0, forearm), r_forearm=(0.0, forearm)), "both"
    if class_name == "squat":
        bend, shin, knees = rng.uniform(92, 112), rng.uniform(-48, -36), rng.uniform(8, 24)
        arms, reach = rng.uniform(45, 88), rng.uniform(55, 92)
        angles = {f"{s}_thigh": (bend, knees) for s in "lr"} | {f"{s}_shin": (shin, -knees / 3) for s in "lr"}
        angles |= {f"{s}_upper_arm": (arms, 5.0) for s in "lr"} | {f"{s}_forearm": (reach, 0.0) for s in "lr"}
        return changed(base, torso=(rng.uniform(22, 38), 0.0), head=(rng.uniform(0, 15), 0.0), **angles), "both"
    if class_name == "kneel":
        angles = {
            f"{side}_thigh": (rng.uniform(82, 92), rng.uniform(4, 12)),
            f"{side}_shin": (rng.uniform(-6, 4), 2.0),
            f"{other}_thigh": (rng.uniform(-12, -2), rng.uniform(4, 10)),
            f"{other}_shin": (rng.uniform(-92, -84), 0.0),
            f"{side}_upper_arm": (rng.uniform(20, 40), 8.0),
            f"{side}_forearm": (rng.uniform(60, 80), -10.0),
        }
        return changed(base, torso=(rng.uniform(4, 16), 0.0), **angles), side
    if class_name == "wave":
        angles = {f"{side}_upper_arm": (rng.uniform(0, 15), rng.uniform(80, 112)), f"{side}_forearm": (0.0, 158.0)}
        return changed(base, **angles), "both"
    angles = {  # hold something up
        f"{side}_upper_arm": (rng.uniform(38, 62), rng.uniform(22, 38)),
        f"{side}_forearm": (rng.uniform(108, 132), rng.uniform(14, 30)),
    }
    return changed(base, **angles), "both"


def _sit_down(rng: np.random.Generator, act: _Act) -> Motion:
    thigh, knees = rng.uniform(82, 92), rng.uniform(4, 12)
    angles = {f"{s}_thigh": (thigh, knees) for s in "lr"} | {f"{s}_shin": (rng.uniform(-8, 6), 2.0) for s in "lr"}
    angles |= {f"{s}_upper_arm": (rng.uniform(12, 32), 8.0) for s in "lr"}
    angles |= {f"{s}_forearm": (rng.uniform(58, 76), -8.0) for s in "lr"}
    seated = changed(act.base, torso=(rng.uniform(-6, 6), 0.0), **angles)
    poses = blend(act.base, seated, act.phase)
    poses[:, ROW["torso"], 0] += rng.uniform(28, 45) * np.sin(np.pi * act.phase)  # lean forward on the way
    points = forward(poses + act.still, act.build)
    final = forward(seated[None], act.build)[0]
    hips = (final[INDEX["l_hip"]] + final[INDEX["r_hip"]]) / 2
    return Motion(points, act.start, act.end, act.phase, seat=hips - np.array([0.0, 0.065 * act.build.girth, -0.02]))


def _pick_up(rng: np.random.Generator, act: _Act, side: str, kind: str) -> Motion:
    grip = 2 * OBJECT_RADIUS[kind]
    lean, bend, reach = rng.uniform(62, 78), rng.uniform(45, 65), rng.uniform(8, 22)

    def bent(depth: float) -> np.ndarray:
        angles = {f"{s}_thigh": (bend * depth, 8.0) for s in "lr"} | {
            f"{s}_shin": (-0.8 * bend * depth, 0.0) for s in "lr"
        }
        angles |= {f"{side}_upper_arm": (reach, 2.0), f"{side}_forearm": (reach, 0.0)}
        return changed(act.base, torso=(lean * min(depth, 1.25), 0.0), head=(lean * 0.5, 0.0), **angles)

    depths = np.linspace(0.6, 1.8, 61)
    heights = forward(np.stack([bent(depth) for depth in depths]), act.build)[:, INDEX[f"{side}_hand"], 1]
    low = bent(float(depths[np.argmin(np.abs(heights - grip))]))
    middle = (act.start + act.end) // 2
    down = ramp(len(act.phase), [act.start, middle, act.end - 1], [0.0, 1.0, 0.0])
    points = forward(blend(act.base, low, down) + act.still * (1 - down)[:, None, None], act.build)
    object_at = _carried(points, side, kind, np.zeros(len(act.phase)))
    object_at[:middle] = object_at[middle]
    # An umbrella lies until it is lifted.
    tilt = ramp(len(act.phase), [middle, act.end - 1], [0.5, 0.0])
    return Motion(points, act.start, act.end, act.phase, object_at, tilt)


def _carried(points: np.ndarray, side: str, kind: str, raised: np.ndarray) -> np.ndarray:
    """The middle of an object that hangs below the hand, or rests on it when raised."""
    at = points[:, INDEX[f"{side}_hand"]].copy()
    at[:, 1] += OBJECT_RADIUS[kind] * (2 * raised - 1)
    return at


def ramp(num_frames: int, times: Sequence[int], values: Sequence[float]) -> np.ndarray:
    """Values at the given frames, eased between them and constant outside: float64 [F]."""
    frames, out = np.arange(num_frames), np.full(num_frames, float(values[0]))
    for first, last, a, b in zip(times[:-1], times[1:], values[:-1], values[1:], strict=True):
        x = np.clip((frames - first) / max(last - first, 1), 0, 1)
        out = np.where(frames >= first, a + (b - a) * x * x * (3 - 2 * x), out)
    return out


def stride(num_frames: int, idle: int) -> np.ndarray:
    """Steps of somebody who comes walking during the idle frames: angles to add, [F, 10, 2]."""
    out = np.zeros((num_frames, len(SEGMENTS), 2))
    steps = np.arange(num_frames) / 3.5
    walking = np.where(np.arange(num_frames) < idle, 1.0, 0.0)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        out[:, ROW[f"{side}_thigh"], 0] = 22 * sign * walking * np.sin(steps)
        out[:, ROW[f"{side}_shin"], 0] = walking * np.minimum(0, 30 * sign * np.sin(steps))
    return out


def blend(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Poses [F, 10, 2] from ``a`` (weight 0) to ``b`` (weight 1)."""
    return a + (b - a) * weight[:, None, None]
