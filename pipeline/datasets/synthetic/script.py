"""Everything about one clip before a pixel is drawn: who, where, what, and the truth about it.

A script is a pure function of the seed, the config and the clip's place in the set. What is not about the class
(backdrop, clothes, viewpoint, scale, second person, occluder, codec, size) is drawn from the same distribution for all
classes, and the kinds among it are dealt out in equal numbers to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pipeline.datasets.synthetic.actions import perform, ramp
from pipeline.datasets.synthetic.body import NUM_JOINTS, Build, forward, standing, sway
from pipeline.datasets.synthetic.config import (
    BACKDROPS,
    CLASSES,
    NUM_SPLITS,
    OBJECT_OF,
    OBJECTS,
    REVERSED,
    SCENE_OF,
    SyntheticConfig,
)

T = TypeVar("T")
Colour = tuple[int, int, int]

CODECS = {"h264": "mp4", "mpeg4": "avi"}
CAMERA_DISTANCE = 5.0  # body heights
# A clip and its reverse show the same thing in the frames that are sampled from them, not in all frames: T frames are
# taken at floor(i n / T), which leans to the start by n / T. Clips are cut from performances longer by this share of n,
# forward ones from the end and reversed ones from the start, which makes up for it half-way between T = 8 and T = 16.
LEAD = 3 / 32

COLOURS: dict[str, Colour] = {
    "red": (196, 52, 48),
    "orange": (230, 132, 40),
    "yellow": (232, 204, 64),
    "green": (62, 142, 72),
    "teal": (40, 140, 146),
    "blue": (52, 88, 180),
    "purple": (124, 72, 160),
    "pink": (226, 130, 166),
    "white": (232, 232, 226),
    "grey": (128, 130, 134),
    "black": (40, 40, 46),
    "brown": (122, 82, 54),
}
SKIN: tuple[Colour, ...] = ((246, 214, 188), (228, 184, 148), (198, 144, 104), (150, 100, 68), (104, 68, 48))
HAIR = ("black", "brown", "grey", "yellow")


@dataclass(frozen=True)
class Look:
    """Colours of one person by name of ``COLOURS``; skin as RGB."""

    build: Build
    skin: Colour
    hair: str
    shirt: str
    trousers: str
    long_sleeves: bool
    long_trousers: bool


@dataclass(frozen=True)
class Figure:
    """One person on the screen: ``at`` [F, 23, 2] in pixels, ``depth`` [F, 23] towards the camera in body heights.

    ``scale`` [F, 23] is pixels a body height at each point.
    """

    look: Look
    at: np.ndarray
    depth: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Prop:
    """The object that the actor handles, on the screen: middle ``at`` [F, 2], ``depth`` [F], ``scale`` [F]."""

    kind: str
    colour: str
    at: np.ndarray
    depth: np.ndarray
    scale: np.ndarray
    tilt: np.ndarray


@dataclass(frozen=True)
class Script:
    """One clip.

    figures     the actor first; empty where the clip shows nobody
    start, end  frames [start, end) of the action
    phase       float [F], 0 to 1: from idle to the full posture; standing to seated; lying to carried. The second class
                of a reversed pair goes from 1 to 0
    seat        points of a chair, [12, 2] pixels
    occluder    x1, y1, x2, y2 in pixels of something in front of everybody
    """

    video_id: str
    class_name: str
    subject: int
    seed: tuple[int, ...]
    codec: str
    width: int
    height: int
    fps: int
    num_frames: int
    scene: str
    figures: tuple[Figure, ...]
    prop: Prop | None
    seat: np.ndarray | None
    occluder: tuple[float, float, float, float] | None
    occluder_colour: str
    start: int
    end: int
    phase: np.ndarray
    yaw: float
    person_height: float

    @property
    def path(self) -> str:
        return f"videos/{slug(self.class_name)}/{self.video_id}.{CODECS[self.codec]}"

    @property
    def view(self) -> str:
        """Which side of the screen the actor faces: front, left or right."""
        return "front" if abs(self.yaw) < 25 else "right" if self.yaw > 0 else "left"


def slug(class_name: str) -> str:
    """A class name as a name of a folder: ``sit down`` becomes ``sit_down``."""
    return class_name.replace(" ", "_")


def write_scripts(seed: int, config: SyntheticConfig) -> Iterator[Script]:
    """The scripts of all clips, by class, subject and clip."""
    looks = [_subject(np.random.default_rng([seed, 0, subject])) for subject in range(config.num_subjects)]
    for class_name in config.classes:
        number = CLASSES.index(class_name)
        cards = _deal(np.random.default_rng([seed, 1, number]), config, class_name)
        for position in range(config.num_subjects * config.clips):
            subject, clip = divmod(position, config.clips)
            yield _script(
                (seed, 2, number, subject, clip),
                class_name,
                subject,
                clip,
                looks[subject],
                {name: values[position] for name, values in cards.items()},
                config,
            )


def splits_of(subject: int) -> tuple[str, ...]:
    """Every third subject tests a split: each is unseen in exactly one split."""
    return tuple("test" if subject % NUM_SPLITS == split else "train" for split in range(NUM_SPLITS))


def _deal(rng: np.random.Generator, config: SyntheticConfig, class_name: str) -> dict[str, list[Any]]:
    """For every clip of one class what of a kind it gets, each kind equally often, in an order of its own."""
    count = config.num_subjects * config.clips

    def equal(kinds: Sequence[T]) -> list[T]:
        dealt = [kinds[position % len(kinds)] for position in range(count)]
        return [dealt[position] for position in rng.permutation(count)]

    def share(part: float) -> list[bool]:
        chosen = rng.permutation(count)[: round(part * count)]
        return [position in chosen for position in range(count)]

    return {
        "scene": equal(BACKDROPS) if class_name not in SCENE_OF else [SCENE_OF[class_name]] * count,
        "codec": equal(list(CODECS)),
        "size": equal(config.sizes),
        "fps": equal(config.fps),
        "object": equal(OBJECTS),
        "second": share(config.second_person),
        "occluded": share(config.occluded),
        "away": share(config.away),
        "nobody": share(config.nobody if class_name in SCENE_OF else 0.0),
    }


def _subject(rng: np.random.Generator) -> Look:
    """Who a subject is; the clothes are drawn anew for every clip."""
    skin, hair = SKIN[rng.integers(len(SKIN))], str(rng.choice(HAIR))
    return _dressed(Look(Build.draw(rng), skin, hair, "", "", False, False), rng)


def _dressed(look: Look, rng: np.random.Generator) -> Look:
    shirt, trousers = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    return replace(
        look,
        shirt=shirt,
        trousers=trousers,
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.7),
    )


def _script(
    seed: tuple[int, ...],
    class_name: str,
    subject: int,
    clip: int,
    look: Look,
    cards: dict[str, Any],
    config: SyntheticConfig,
) -> Script:
    rng = np.random.default_rng(seed)
    width, height = cards["size"]
    fps = cards["fps"]
    num_frames = int(rng.integers(config.num_frames[0], config.num_frames[1] + 1))
    lead = round(LEAD * num_frames)
    total = num_frames + lead
    look = _dressed(look, rng)
    yaw, pitch = float(rng.uniform(-65, 65)), float(rng.uniform(3, 11))
    person_height = float(rng.uniform(0.5, 0.68))
    at = width * rng.uniform(0.38, 0.62), height * rng.uniform(0.88, 0.96)
    camera = _Camera(at[0], at[1], person_height * height, pitch)
    # The actor walks in, or out where the end of the action is its idle side; seated people stay.
    idle = lead + round(0.3 * num_frames) if cards["away"] else 0
    kind = OBJECT_OF.get(class_name) or (cards["object"] if class_name in ("pick up", "put down") else None)
    motion = perform(class_name, rng, look.build, total, (lead, num_frames), fps, kind, idle)
    offset = _walk_in(rng, total, idle, width / camera.scale)
    turn = np.full(total, yaw)
    actor = camera.film(look, motion.points, turn, offset)
    prop = None
    if kind is not None and motion.object_at is not None and motion.object_tilt is not None:
        # What lies on the ground stays there while the actor comes; what is held comes along.
        moved = offset if class_name in OBJECT_OF else np.zeros(total)
        screen, depth, scale = camera.project(motion.object_at[:, None], turn, moved)
        colour = str(rng.choice(list(COLOURS)))
        prop = Prop(kind, colour, screen[:, 0], depth[:, 0], scale[:, 0], motion.object_tilt)
    seat = None
    if motion.seat is not None:
        seat = camera.project(_chair(motion.seat)[None], np.array([yaw]), np.zeros(1))[0][0]
    figures = [actor]
    if cards["second"]:
        figures.append(_second_person(rng, camera, total, fps, at[0] / width, width / camera.scale))
    script = Script(
        video_id=f"{slug(class_name)}_s{subject:02d}_c{clip:02d}",
        class_name=class_name,
        subject=subject,
        seed=seed,
        codec=cards["codec"],
        width=width,
        height=height,
        fps=fps,
        num_frames=total,
        scene=cards["scene"],
        figures=() if cards["nobody"] else tuple(figures),
        prop=prop,
        seat=seat,
        occluder=_occluder(rng, actor, width, height) if cards["occluded"] else None,
        occluder_colour=str(rng.choice(list(COLOURS))),
        start=motion.start,
        end=motion.end,
        phase=motion.phase,
        yaw=yaw,
        person_height=person_height,
    )
    # What is not half of a pair looks the same in both directions of time, the actor's coming and going included.
    paired = class_name in REVERSED or class_name in REVERSED.values()
    backwards = class_name in REVERSED if paired else bool(rng.random() < 0.5)
    return _play(script, num_frames, backwards)


def _play(script: Script, num_frames: int, backwards: bool) -> Script:
    """The last ``num_frames`` of ``script``, or its first ones in reverse order."""
    lead = script.num_frames - num_frames
    order = np.arange(num_frames)[::-1] if backwards else np.arange(num_frames) + lead

    def taken(thing: T) -> T:
        arrays = {name: value[order] for name, value in vars(thing).items() if isinstance(value, np.ndarray)}
        return replace(thing, **arrays)  # type: ignore[type-var]

    start, end = (
        (num_frames - script.end, num_frames - script.start) if backwards else (script.start - lead, script.end - lead)
    )
    return replace(
        script,
        num_frames=num_frames,
        figures=tuple(taken(figure) for figure in script.figures),
        prop=None if script.prop is None else taken(script.prop),
        start=max(0, start),
        end=min(num_frames, end),
        phase=script.phase[order],
    )


@dataclass(frozen=True)
class _Camera:
    """Looks at the ground point (x, y) in pixels, slightly from above; ``scale`` pixels a body height there."""

    x: float
    y: float
    scale: float
    pitch: float

    def project(
        self, points: np.ndarray, yaw: np.ndarray, offset: np.ndarray, back: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels [F, P, 2], depth [F, P] and scale [F, P] of points [F, P, 3] turned by ``yaw`` and moved aside."""
        turn, pitch = np.radians(yaw)[:, None], np.radians(self.pitch)
        x = points[..., 0] * np.cos(turn) + points[..., 2] * np.sin(turn) + offset[:, None]
        z = points[..., 2] * np.cos(turn) - points[..., 0] * np.sin(turn) - back
        up = points[..., 1] * np.cos(pitch) - z * np.sin(pitch)
        near = z * np.cos(pitch) + points[..., 1] * np.sin(pitch)
        scale = self.scale * CAMERA_DISTANCE / (CAMERA_DISTANCE - near)
        return np.stack([self.x + scale * x, self.y - scale * up], -1), near, scale

    def film(self, look: Look, points: np.ndarray, yaw: np.ndarray, offset: np.ndarray, back: float = 0.0) -> Figure:
        return Figure(look, *self.project(points, yaw, offset, back))


def _walk_in(rng: np.random.Generator, num_frames: int, idle: int, screen: float) -> np.ndarray:
    """Sideways offset a frame, in body heights: out of sight at first, at home when the idle frames are over."""
    side = rng.choice([-1.0, 1.0])
    if not idle:
        return np.zeros(num_frames)
    return side * (0.75 * screen + 0.4) * ramp(num_frames, [round(0.25 * idle), idle], [1.0, 0.0])


def _second_person(
    rng: np.random.Generator, camera: _Camera, num_frames: int, fps: float, actor_x: float, screen: float
) -> Figure:
    """Somebody who stands about beside or behind the actor."""
    look = _subject(rng)
    points = forward(standing(rng) + sway(rng, num_frames, fps), look.build)
    side = 1.0 if actor_x < 0.5 else -1.0
    offset = side * min(rng.uniform(0.4, 0.75), 0.42 * screen)
    return camera.film(
        look, points, np.full(num_frames, rng.uniform(-70, 70)), np.full(num_frames, offset), rng.uniform(0.1, 0.7)
    )


def _occluder(rng: np.random.Generator, actor: Figure, width: int, height: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 in pixels of a pole, or of a low block that hides the legs' lower part."""
    middle = float(np.median(actor.at[-1, :NUM_JOINTS, 0]))
    if rng.random() < 0.5:
        half = width * rng.uniform(0.02, 0.04)
        x = middle + width * rng.uniform(-0.08, 0.08)
        return x - half, 0.0, x + half, float(height)
    left = middle - width * rng.uniform(0.1, 0.35)
    return left, height * rng.uniform(0.76, 0.84), left + width * rng.uniform(0.35, 0.6), float(height)


def _chair(seat: np.ndarray) -> np.ndarray:
    """Twelve points: the seat's corners, the feet below them, the back's top corners and its bottom ones."""
    half, deep, back = 0.11, 0.1, 0.3
    corners = np.array([[-half, 0, deep], [half, 0, deep], [half, 0, -deep], [-half, 0, -deep]]) + seat
    feet = corners * np.array([1, 0, 1])
    top = corners[2:] + np.array([0, back, -0.02])
    return np.concatenate([corners, feet, top, corners[2:] + np.array([0, back * 0.45, -0.01])])
