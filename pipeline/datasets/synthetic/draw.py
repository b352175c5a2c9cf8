"""People and things onto a frame: filled, shaded limbs, far ones first, drawn large and then averaged down."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.datasets.synthetic.actions import OBJECT_RADIUS
from pipeline.datasets.synthetic.body import HEAD_RADIUS, INDEX
from pipeline.datasets.synthetic.scenery import paint
from pipeline.datasets.synthetic.script import COLOURS, Colour, Figure, Prop, Script

SUPERSAMPLING = 2
_SHIFT = 4  # binary places of the coordinates given to OpenCV
_CIRCLE = np.stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], -1)

# Ends, radii at both ends in body heights, and what covers it.
LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}", r, s, cover)
    for side in "lr"
    for a, b, r, s, cover in (
        ("shoulder", "elbow", 0.036, 0.029, "shirt"),
        ("elbow", "wrist", 0.028, 0.021, "sleeve"),
        ("wrist", "hand", 0.023, 0.023, "skin"),
        ("hip", "knee", 0.056, 0.042, "trousers"),
        ("knee", "ankle", 0.041, 0.028, "leg"),
        ("ankle", "toe", 0.028, 0.021, "shoe"),
    )
)

# Added to the depth: a sleeve lies on the shirt, a hand on the sleeve, and a thigh goes under the shirt.
_LIFT = {"trousers": -0.02, "skin": 0.06}


def frames(script: Script, numbers: Sequence[int] | None = None) -> np.ndarray:
    """The frames ``numbers`` of a clip, or all of them, uint8 [F, H, W, 3]."""
    numbers = range(script.num_frames) if numbers is None else numbers
    big = (script.width * SUPERSAMPLING, script.height * SUPERSAMPLING)
    backdrop = paint(script.scene, np.random.default_rng([*script.seed, 1]), *big)
    if script.seat is not None:
        _chair(backdrop, script.seat * SUPERSAMPLING, np.random.default_rng([*script.seed, 2]))
    plain = cv2.resize(backdrop, (script.width, script.height), interpolation=cv2.INTER_AREA)
    out = np.repeat(plain[None], len(numbers), 0)
    if not (script.figures or script.prop or script.occluder):
        return out
    canvas = np.empty_like(backdrop)
    for place, number in enumerate(numbers):
        np.copyto(canvas, backdrop)
        for figure in reversed(script.figures[1:]):
            _person(canvas, figure, number, None)
        if script.figures:
            _person(canvas, script.figures[0], number, script.prop)
        if script.occluder is not None:
            _occluder(canvas, script.occluder, COLOURS[script.occluder_colour])
        cv2.resize(canvas, (script.width, script.height), dst=out[place], interpolation=cv2.INTER_AREA)
    return out


def _person(canvas: np.ndarray, figure: Figure, number: int, prop: Prop | None) -> None:
    look, girth = figure.look, figure.look.build.girth
    at, depth, scale = figure.at[number] * SUPERSAMPLING, figure.depth[number], figure.scale[number] * SUPERSAMPLING
    covers: dict[str, Colour] = {
        "skin": look.skin,
        "shirt": COLOURS[look.shirt],
        "sleeve": COLOURS[look.shirt] if look.long_sleeves else look.skin,
        "trousers": COLOURS[look.trousers],
        "leg": COLOURS[look.trousers] if look.long_trousers else look.skin,
        "shoe": COLOURS["brown"] if look.trousers == "black" else COLOURS["black"],
    }
    middle = (depth[INDEX["l_hip"]] + depth[INDEX["r_hip"]] + 2 * depth[INDEX["neck"]]) / 4
    parts: list[tuple[float, int]] = [(middle, -1), (depth[INDEX["head"]] + 0.03, -2)]
    for position, (a, b, *_, cover) in enumerate(LIMBS):
        parts.append(((depth[INDEX[a]] + depth[INDEX[b]]) / 2 + _LIFT.get(cover, 0.02), position))
    if prop is not None:
        parts.append((prop.depth[number] + (0.03 if prop.kind != "umbrella" else 0.0), -3))
    for near, part in sorted(parts):
        if part == -1:
            hull = [_around(at[INDEX[f"{s}_shoulder"]], 0.045 * girth * scale[0]) for s in "lr"]
            hull += [_around(at[INDEX[f"{s}_hip"]], 0.056 * girth * scale[0]) for s in "lr"]
            _fill(canvas, np.concatenate(hull), covers["shirt"])
        elif part == -2:
            _head(canvas, at, scale, look.skin, COLOURS[look.hair], depth)
        elif part == -3 and prop is not None:
            _object(canvas, prop, number)
        else:
            a, b, r, s, cover = LIMBS[part]
            ends = at[INDEX[a]], at[INDEX[b]]
            shade = float(np.clip(0.93 + 0.8 * (near - middle), 0.78, 1.0))
            circles = [_around(end, radius * girth * scale[0]) for end, radius in zip(ends, (r, s), strict=True)]
            _fill(canvas, np.concatenate(circles), _shaded(covers[cover], shade))


def _around(centre: np.ndarray, radius: float) -> np.ndarray:
    return centre + radius * _CIRCLE


def _shaded(colour: Colour, shade: float) -> Colour:
    return round(colour[0] * shade), round(colour[1] * shade), round(colour[2] * shade)


def _fill(canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    """The convex hull of ``points``, with a darker rim that sets it off from what is behind it."""
    hull = cv2.convexHull(np.round(points * (1 << _SHIFT)).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, colour, cv2.LINE_AA, _SHIFT)
    cv2.polylines(canvas, [hull], True, _shaded(colour, 0.68), 1, cv2.LINE_AA, _SHIFT)


def _disc(
    canvas: np.ndarray, centre: np.ndarray, radius: float, colour: Colour, squash: float = 1.0, turn: float = 0
) -> None:
    x, y = (round(float(value) * (1 << _SHIFT)) for value in centre)
    axes = (max(1, round(radius * squash * (1 << _SHIFT))), max(1, round(radius * (1 << _SHIFT))))
    cv2.ellipse(canvas, (x, y), axes, turn, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)


def _head(canvas: np.ndarray, at: np.ndarray, scale: np.ndarray, skin: Colour, hair: Colour, depth: np.ndarray) -> None:
    head, nose, neck = at[INDEX["head"]], at[INDEX["nose"]], at[INDEX["neck"]]
    radius = HEAD_RADIUS * float(scale[INDEX["head"]])
    _fill(canvas, np.concatenate([_around(head, radius * 0.45), _around(neck, radius * 0.5)]), _shaded(skin, 0.88))
    upright = (head - neck) / max(float(np.linalg.norm(head - neck)), 1e-6)
    facing = (nose - head) / max(radius, 1e-6)
    turn = float(np.degrees(np.arctan2(upright[0], -upright[1])))
    _disc(canvas, head + radius * (0.22 * upright - 0.22 * facing), radius * 1.12, _shaded(hair, 0.9), 0.92, turn)
    if depth[INDEX["nose"]] > depth[INDEX["head"]] - 0.04:
        _disc(canvas, head + radius * (0.16 * facing - 0.12 * upright), radius * 1.0, skin, 0.84, turn)
        _disc(canvas, nose, radius * 0.16, _shaded(skin, 0.8))
        for side in "lr":
            if depth[INDEX[f"{side}_eye"]] > depth[INDEX["head"]] + 0.012:
                _disc(canvas, at[INDEX[f"{side}_eye"]], radius * 0.15, (30, 26, 26))


def _object(canvas: np.ndarray, prop: Prop, number: int) -> None:
    at, scale, tilt = (
        prop.at[number] * SUPERSAMPLING,
        float(prop.scale[number] * SUPERSAMPLING),
        float(prop.tilt[number]),
    )
    colour, radius = COLOURS[prop.colour], OBJECT_RADIUS[prop.kind] * scale
    if prop.kind == "ball":
        _fill(canvas, _around(at, radius), colour)
        _disc(canvas, at, radius * 0.95, _shaded(colour, 0.6), 0.3)
        _disc(canvas, at, radius * 0.95, colour, 0.16)
        _disc(canvas, at - radius * 0.4, radius * 0.22, (250, 250, 250))
    elif prop.kind == "box":
        corners = np.array([[-1, -0.8], [1, -0.8], [1, 0.9], [-1, 0.9]]) * radius * 1.15 + at
        lid = np.array([[-1, -0.8], [-0.7, -1.2], [1.3, -1.2], [1, -0.8]]) * radius * 1.15 + at
        side = np.array([[1, -0.8], [1.3, -1.2], [1.3, 0.5], [1, 0.9]]) * radius * 1.15 + at
        _fill(canvas, lid, _shaded(colour, 1.0))
        _fill(canvas, side, _shaded(colour, 0.65))
        _fill(canvas, corners, _shaded(colour, 0.85))
        _fill(
            canvas, np.array([[-0.2, -0.8], [0.2, -0.8], [0.2, 0.9], [-0.2, 0.9]]) * radius * 1.15 + at, (226, 214, 180)
        )
    else:
        _umbrella(canvas, at, scale, tilt, colour)


def _umbrella(canvas: np.ndarray, at: np.ndarray, scale: float, tilt: float, colour: Colour) -> None:
    """``at`` is the grip; closed up to a tilt of a half, then it opens."""
    angle, opened = np.pi * tilt, max(0.0, 2 * tilt - 1)
    axis = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([axis[1], -axis[0]])
    tip = at + 0.46 * scale * axis
    _fill(
        canvas,
        np.concatenate([_around(at - 0.04 * scale * axis, 0.009 * scale), _around(tip, 0.007 * scale)]),
        (70, 62, 58),
    )
    half, rise = (0.03 + 0.27 * opened) * scale, (0.3 - 0.14 * opened) * scale
    turns = np.linspace(0, np.pi, 13)
    rim = tip - rise * axis
    canopy = rim + half * np.cos(turns)[:, None] * across + rise * np.sin(turns)[:, None] * axis
    _fill(canvas, canopy, colour)
    if opened > 0.3:
        _fill(canvas, np.stack([rim + 0.33 * half * across, tip, rim - 0.33 * half * across]), _shaded(colour, 0.8))


def _chair(canvas: np.ndarray, seat: np.ndarray, rng: np.random.Generator) -> None:
    level = rng.uniform(90, 190)
    wood: Colour = (round(level), round(level * rng.uniform(0.6, 0.95)), round(level * rng.uniform(0.4, 0.9)))
    width = max(2, round(0.03 * float(np.linalg.norm(seat[0] - seat[2]))) * 3)
    points = [tuple(int(v) for v in np.round(point * (1 << _SHIFT))) for point in seat]
    for a, b in ((2, 6), (3, 7), (0, 4), (1, 5), (2, 8), (3, 9)):
        cv2.line(canvas, points[a], points[b], _shaded(wood, 0.65), width, cv2.LINE_AA, _SHIFT)
    _fill(canvas, seat[[8, 9, 11, 10]], _shaded(wood, 0.85))
    _fill(canvas, seat[:4], wood)


def _occluder(canvas: np.ndarray, box: tuple[float, float, float, float], colour: Colour) -> None:
    x1, y1, x2, y2 = (value * SUPERSAMPLING for value in box)
    _fill(canvas, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), _shaded(colour, 0.75))
    third = (x2 - x1) / 3
    _fill(
        canvas,
        np.array([[x1 + third, y1], [x2 - third, y1], [x2 - third, y2], [x1 + third, y2]]),
        _shaded(colour, 0.85),
    )
