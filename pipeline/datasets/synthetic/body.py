"""A human figure: proportions, poses as joint angles, and where that puts the joints.

Lengths are in body heights. The body's axes: x to the person's left, y up, z to the front; the feet stand at y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The seventeen joints in COCO's order, then the points that only drawing needs.
POINTS = (
    *(
        "nose",
        "l_eye",
        "r_eye",
        "l_ear",
        "r_ear",
        "l_shoulder",
        "r_shoulder",
        "l_elbow",
        "r_elbow",
        "l_wrist",
        "r_wrist",
    ),
    *("l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle"),
    *("head", "neck", "l_hand", "r_hand", "l_toe", "r_toe"),
)
NUM_JOINTS = 17
INDEX = {name: position for position, name in enumerate(POINTS)}

# A pose is two angles in degrees a segment: flexion (to the front) and abduction (outwards). Limbs hang at zero, torso
# and head stand. All angles are absolute, not relative to the parent: arms hang though the torso bends.
SEGMENTS = (
    *("torso", "head", "l_upper_arm", "r_upper_arm", "l_forearm", "r_forearm"),
    *("l_thigh", "r_thigh", "l_shin", "r_shin"),
)
ROW = {name: position for position, name in enumerate(SEGMENTS)}
_SWAY_DEGREES = 2.5

HEAD_RADIUS = 0.068
ANKLE_HEIGHT, KNEE_RADIUS = 0.035, 0.045


@dataclass(frozen=True)
class Build:
    """Proportions of one person; ``girth`` scales the thickness of limbs and torso."""

    torso: float = 0.29
    shoulders: float = 0.105
    hips: float = 0.06
    upper_arm: float = 0.165
    forearm: float = 0.145
    thigh: float = 0.235
    shin: float = 0.225
    girth: float = 1.0

    @staticmethod
    def draw(rng: np.random.Generator) -> Build:
        def vary(value: float, by: float = 0.08) -> float:
            return float(value * rng.uniform(1 - by, 1 + by))

        return Build(
            vary(0.29),
            vary(0.105, 0.12),
            vary(0.06, 0.15),
            vary(0.165),
            vary(0.145),
            vary(0.235),
            vary(0.225),
            vary(1.05, 0.15),
        )


def standing(rng: np.random.Generator) -> np.ndarray:
    """A relaxed standing pose, float64 [10, 2]."""
    pose = np.zeros((len(SEGMENTS), 2))
    pose[ROW["torso"]] = rng.uniform(-2, 4), rng.uniform(-2, 2)
    pose[ROW["head"]] = rng.uniform(-4, 10), rng.uniform(-5, 5)
    for side in "lr":
        pose[ROW[f"{side}_upper_arm"]] = rng.uniform(-8, 8), rng.uniform(5, 16)
        pose[ROW[f"{side}_forearm"]] = rng.uniform(5, 25), rng.uniform(0, 10)
        pose[ROW[f"{side}_thigh"]] = rng.uniform(-2, 4), rng.uniform(2, 9)
        pose[ROW[f"{side}_shin"]] = rng.uniform(-4, 0), rng.uniform(1, 5)
    return pose


def changed(pose: np.ndarray, **angles: tuple[float, float]) -> np.ndarray:
    """``pose`` with the named segments at other angles."""
    pose = pose.copy()
    for name, value in angles.items():
        pose[ROW[name]] = value
    return pose


def sway(rng: np.random.Generator, num_frames: int, fps: float) -> np.ndarray:
    """The small movements of somebody who stands still: angles to add, [F, 10, 2]. Looks the same in reverse."""
    time = np.arange(num_frames)[:, None, None] / fps
    shape = (3, len(SEGMENTS), 2)
    hertz, phase = rng.uniform(0.1, 0.6, shape), rng.uniform(0, 2 * np.pi, shape)
    waves = np.sin(2 * np.pi * hertz * time[..., None, :, :].reshape(num_frames, 1, 1, 1) + phase)
    amount = np.ones((len(SEGMENTS), 1))
    amount[ROW["l_thigh"] :] = 0.3  # feet stay where they are
    return _SWAY_DEGREES * amount * waves.mean(1)


def forward(poses: np.ndarray, build: Build, anchor: str = "both") -> np.ndarray:
    """Positions of ``POINTS``, [F, 23, 3], from angles [F, 10, 2].

    The lowest foot or knee touches the ground; the ankle named by ``anchor`` ("l", "r", or "both" for their middle)
    stays above the origin.
    """
    radians = np.radians(poses)
    out = np.zeros((len(poses), len(POINTS), 3))

    def put(name: str, value: np.ndarray) -> None:
        out[:, INDEX[name]] = value

    def get(name: str) -> np.ndarray:
        return out[:, INDEX[name]]

    def up(segment: str) -> np.ndarray:
        flexion, roll = radians[:, ROW[segment], 0], radians[:, ROW[segment], 1]
        return np.stack([np.sin(roll), np.cos(roll) * np.cos(flexion), np.cos(roll) * np.sin(flexion)], -1)

    def down(segment: str) -> np.ndarray:
        sign = 1.0 if segment.startswith("l_") else -1.0
        flexion, abduction = radians[:, ROW[segment], 0], radians[:, ROW[segment], 1]
        return np.stack(
            [sign * np.sin(abduction), -np.cos(abduction) * np.cos(flexion), np.cos(abduction) * np.sin(flexion)], -1
        )

    spine, roll = up("torso"), radians[:, ROW["torso"], 1]
    across = np.stack([np.cos(roll), -np.sin(roll), np.zeros_like(roll)], -1)
    put("neck", build.torso * spine)
    skull, tilt = up("head"), radians[:, ROW["head"], 1]
    sideways = np.stack([np.cos(tilt), -np.sin(tilt), np.zeros_like(tilt)], -1)
    front = np.cross(sideways, skull)
    head = get("neck") + 0.035 * spine + (HEAD_RADIUS + 0.02) * skull
    put("head", head)
    put("nose", head + HEAD_RADIUS * (1.0 * front - 0.1 * skull))
    for side, sign in (("l", 1.0), ("r", -1.0)):
        put(f"{side}_eye", head + HEAD_RADIUS * (0.85 * front + 0.22 * skull + sign * 0.38 * sideways))
        put(f"{side}_ear", head + HEAD_RADIUS * (0.05 * skull + sign * 0.95 * sideways))
        put(f"{side}_shoulder", get("neck") - 0.02 * spine + sign * build.shoulders * across)
        put(f"{side}_elbow", get(f"{side}_shoulder") + build.upper_arm * down(f"{side}_upper_arm"))
        put(f"{side}_wrist", get(f"{side}_elbow") + build.forearm * down(f"{side}_forearm"))
        put(f"{side}_hand", get(f"{side}_wrist") + 0.035 * down(f"{side}_forearm"))
        put(f"{side}_hip", np.array([sign * build.hips, 0.0, 0.0]))
        put(f"{side}_knee", get(f"{side}_hip") + build.thigh * down(f"{side}_thigh"))
        put(f"{side}_ankle", get(f"{side}_knee") + build.shin * down(f"{side}_shin"))
        # The foot is square to the shin: flat under a standing leg, its toes on the ground behind a kneeling one.
        shin = radians[:, ROW[f"{side}_shin"], 0]
        foot = np.stack([np.full_like(shin, sign * 0.015), -0.15 + np.sin(shin), np.cos(shin)], -1)
        put(f"{side}_toe", get(f"{side}_ankle") + 0.085 * foot)
    out[..., 1] -= np.min(
        [get(f"{side}_ankle")[:, 1] - ANKLE_HEIGHT for side in "lr"]
        + [get(f"{side}_knee")[:, 1] - KNEE_RADIUS for side in "lr"],
        axis=0,
    )[:, None]
    feet = [get(f"{side}_ankle") for side in "lr" if anchor in (side, "both")]
    out[..., ::2] -= np.mean(feet, axis=0)[:, None, ::2]
    out[:, INDEX["l_toe"] :, 1] = np.maximum(out[:, INDEX["l_toe"] :, 1], 0.012)
    return out
