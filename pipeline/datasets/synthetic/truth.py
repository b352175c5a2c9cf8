"""True keypoints and boxes of a script, computed from geometry alone."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.synthetic.body import HEAD_RADIUS, INDEX, NUM_JOINTS
from pipeline.datasets.synthetic.draw import LIMBS
from pipeline.datasets.synthetic.script import Figure, Script

HIDDEN, BEHIND_ONESELF, VISIBLE = 0.0, 0.5, 1.0


def _part(a: tuple[str, ...], b: tuple[str, ...], radius: float) -> tuple[list[int], list[int], float, list[int]]:
    ends = [INDEX[name] for name in a], [INDEX[name] for name in b]
    return *ends, radius, [joint for joint in (*ends[0], *ends[1]) if joint < NUM_JOINTS]


# What can hide a joint: limbs, torso and head as segments with one radius in body heights. An end is the middle of the
# points it names; the joints among them are on the part, not behind it.
_PARTS = [
    *(_part((a,), (b,), (r + s) / 2) for a, b, r, s, _ in LIMBS),
    _part(("l_shoulder", "r_shoulder"), ("l_hip", "r_hip"), 0.085),
    _part(("head",), ("head",), HEAD_RADIUS),
]


def keypoints(script: Script, person: int) -> np.ndarray:
    """float32 [F, 17, 3]: x and y as fractions of the frame (outside 0 to 1 off screen), and how visible a joint is.

    1 visible, 0.5 behind another part of the same person, 0 behind something else or off screen.
    """
    figure = script.figures[person]
    at, depth = figure.at[:, :NUM_JOINTS], figure.depth[:, :NUM_JOINTS]
    seen = np.where(_covered(at, depth + 0.05, figure, skip_own=True), BEHIND_ONESELF, VISIBLE)
    for other in script.figures[:person]:  # each stands behind those before
        seen[_covered(at, np.full_like(depth, -np.inf), other)] = HIDDEN
    if script.occluder is not None:
        x1, y1, x2, y2 = script.occluder
        x, y = at[..., 0], at[..., 1]
        seen[(x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)] = HIDDEN
    size = np.array([script.width, script.height])
    seen[((at < 0) | (at >= size)).any(-1)] = HIDDEN
    return np.concatenate([at / size, seen[..., None]], -1).astype(np.float32)


def boxes(script: Script, person: int) -> np.ndarray:
    """float32 [F, 5]: x1, y1, x2, y2 as fractions of the frame, clipped to it, and a score: 1, or 0 when off screen.

    The box is around the whole person, what something else hides included.
    """
    figure = script.figures[person]
    radius = np.full(figure.at.shape[1], 0.035) * figure.look.build.girth
    radius[INDEX["head"]] = 1.1 * HEAD_RADIUS
    margin = (figure.scale * radius)[..., None]
    size = np.array([script.width, script.height])
    low = np.clip((figure.at - margin).min(1) / size, 0, 1)
    high = np.clip((figure.at + margin).max(1) / size, 0, 1)
    score = ((high - low) * size > 2).all(-1)
    return (np.concatenate([low, high, np.ones((len(low), 1))], -1) * score[:, None]).astype(np.float32)


def _covered(at: np.ndarray, depth: np.ndarray, figure: Figure, *, skip_own: bool = False) -> np.ndarray:
    """Whether points [F, P, 2] lie inside the outline of ``figure``, of its parts nearer than ``depth``: bool [F, P].

    With ``skip_own`` the points are the figure's own joints, which the limbs that end there do not hide.
    """
    covered = np.zeros(depth.shape, bool)
    for a, b, radius, own in _PARTS:
        start, end = figure.at[:, a].mean(1)[:, None], figure.at[:, b].mean(1)[:, None]
        near, far = figure.depth[:, a].mean(1)[:, None], figure.depth[:, b].mean(1)[:, None]
        along = end - start
        where = np.clip(((at - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9), 0, 1)
        distance = np.linalg.norm(at - start - where[..., None] * along, axis=-1)
        hit = (distance < radius * figure.look.build.girth * figure.scale[:, a[:1]]) & (
            near + where * (far - near) > depth
        )
        if skip_own:
            hit[:, own] = False
        covered |= hit
    return covered
