"""What stands behind the people: plain backdrops for every class, and the scenes that three classes are about.

A backdrop is painted once a clip, at the size of the supersampled frame: float coordinates are fractions of it.
"""

from __future__ import annotations

import cv2
import numpy as np

Colour = tuple[int, int, int]


class _Canvas:
    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng = rng
        self.pixels = np.zeros((height, width, 3), np.uint8)
        self.size = np.array([width, height])

    def colour(self, low: int, high: int, tint: tuple[float, float, float] = (1, 1, 1), spread: int = 12) -> Colour:
        """A random colour: one brightness between the bounds, tinted, every channel varied a little."""
        level = self.rng.uniform(low, high) * np.array(tint) + self.rng.uniform(-spread, spread, 3)
        red, green, blue = (int(value) for value in np.clip(level, 0, 255))
        return red, green, blue

    def gradient(self, top: Colour, bottom: Colour, y1: float, y2: float) -> None:
        """From one colour to another, between two heights as fractions."""
        first, last = round(y1 * self.size[1]), round(y2 * self.size[1])
        mix = np.linspace(0, 1, max(last - first, 1))[:, None, None]
        self.pixels[first:last] = (np.array(top) * (1 - mix) + np.array(bottom) * mix).astype(np.uint8)

    def rectangle(
        self, x1: float, y1: float, x2: float, y2: float, colour: Colour, border: Colour | None = None
    ) -> None:
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], colour)
        if border is not None:
            for a, b in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
                self.line(a, b, border, 0.006)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        corners = np.round(np.array(points) * self.size * 8).astype(np.int32)
        cv2.fillPoly(self.pixels, [corners], colour, cv2.LINE_AA, 3)

    def circle(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """``radius`` as a fraction of the height."""
        centre = (round(float(x * self.size[0] * 8)), round(float(y * self.size[1] * 8)))
        side = max(1, round(float(radius * self.size[1] * 8)))
        cv2.ellipse(self.pixels, centre, (side, side), 0, 0, 360, colour, -1, cv2.LINE_AA, 3)

    def line(self, a: tuple[float, float], b: tuple[float, float], colour: Colour, width: float) -> None:
        ends = [tuple(int(value) for value in np.round(np.array(point) * self.size * 8)) for point in (a, b)]
        cv2.line(self.pixels, ends[0], ends[1], colour, max(1, round(float(width * self.size[1]))), cv2.LINE_AA, 3)

    def texture(self, amount: float, y1: float, y2: float, grain: int) -> None:
        """Blotches of brightness, ``grain`` pixels wide."""
        first, last = round(y1 * self.size[1]), round(y2 * self.size[1])
        height, width = last - first, int(self.size[0])
        noise = self.rng.normal(0, amount, (height // grain + 1, width // grain + 1)).astype(np.float32)
        blotches = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
        band = self.pixels[first:last]
        band[:] = np.clip(band + blotches[..., None], 0, 255).astype(np.uint8)


def paint(scene: str, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """The scene, uint8 [H, W, 3]."""
    canvas = _Canvas(rng, width, height)
    _PAINTERS[scene](canvas, rng)
    return canvas.pixels


def _room(c: _Canvas, rng: np.random.Generator) -> None:
    floor = rng.uniform(0.66, 0.76)
    wall = c.colour(150, 225, spread=25)
    c.gradient(wall, tuple(int(v * 0.88) for v in wall), 0, floor)  # type: ignore[arg-type]
    c.gradient(c.colour(90, 150, (1.1, 0.95, 0.8)), c.colour(110, 180, (1.1, 0.95, 0.8)), floor, 1)
    c.texture(4, floor, 1, 6)
    c.rectangle(0, floor - 0.02, 1, floor, c.colour(190, 240))
    for x in rng.permutation([0.04, 0.3, 0.56, 0.8])[: rng.integers(2, 4)]:
        what = rng.integers(4)
        if what == 0:  # a window
            c.rectangle(x, 0.12, x + 0.2, 0.42, c.colour(190, 240, (0.85, 0.95, 1.05)), c.colour(200, 250))
            c.line((x + 0.1, 0.12), (x + 0.1, 0.42), c.colour(200, 250), 0.008)
        elif what == 1:  # a picture
            c.rectangle(x, 0.15, x + 0.14, 0.33, c.colour(80, 220, spread=70), c.colour(40, 120))
        elif what == 2:  # shelves
            c.rectangle(x, 0.3, x + 0.16, floor + 0.04, c.colour(80, 170, (1.1, 0.9, 0.7)), c.colour(40, 90))
            for y in np.arange(0.38, floor, 0.09):
                c.line((x, y), (x + 0.16, y), c.colour(40, 90), 0.006)
        else:  # a plant
            c.rectangle(x + 0.03, floor - 0.08, x + 0.09, floor + 0.05, c.colour(100, 190, (1.1, 0.8, 0.6)))
            for _ in range(7):
                c.circle(
                    x + 0.06 + rng.normal(0, 0.025),
                    floor - 0.14 + rng.normal(0, 0.05),
                    0.045,
                    c.colour(60, 130, (0.6, 1, 0.5)),
                )


def _studio(c: _Canvas, rng: np.random.Generator) -> None:
    back = c.colour(80, 220, spread=40)
    c.gradient(back, tuple(int(v * 0.75) for v in back), 0, 0.74)  # type: ignore[arg-type]
    c.gradient(tuple(int(v * 0.8) for v in back), tuple(min(255, int(v * 1.05)) for v in back), 0.74, 1)  # type: ignore[arg-type]
    for x in np.arange(0, 1, rng.uniform(0.07, 0.16)):
        c.line((x, 0), (x, 0.74), tuple(int(v * 0.92) for v in back), 0.012)  # type: ignore[arg-type]
    c.texture(3, 0, 1, 8)


def _gym(c: _Canvas, rng: np.random.Generator) -> None:
    floor = rng.uniform(0.64, 0.74)
    c.gradient(c.colour(150, 210, spread=20), c.colour(130, 190, spread=20), 0, floor)
    c.rectangle(0, floor * 0.72, 1, floor, c.colour(70, 190, spread=50))
    for x in np.arange(rng.uniform(0, 0.1), 1, 0.12):
        c.line((x, floor * 0.72), (x, floor), c.colour(60, 120), 0.005)
    c.gradient(c.colour(150, 200, (1.1, 0.9, 0.65)), c.colour(160, 220, (1.1, 0.9, 0.65)), floor, 1)
    for _ in range(3):
        x = rng.uniform(-0.2, 1)
        c.line((x, floor), (x + rng.uniform(-0.5, 0.5), 1), c.colour(60, 240, spread=60), 0.012)
    c.texture(3, floor, 1, 5)


def _meadow(c: _Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.5, 0.62)
    c.gradient(c.colour(170, 220, (0.8, 0.93, 1.1)), c.colour(215, 240), 0, horizon)
    for _ in range(rng.integers(3, 7)):
        x, size = rng.uniform(0, 1), rng.uniform(0.08, 0.17)
        c.line((x, horizon + 0.03), (x, horizon - size), c.colour(60, 100, (1.1, 0.9, 0.7)), 0.02)
        for _ in range(5):
            c.circle(
                x + rng.normal(0, size * 0.3),
                horizon - size + rng.normal(0, size * 0.3),
                size * 0.6,
                c.colour(70, 130, (0.7, 1.05, 0.5)),
            )
    c.gradient(c.colour(110, 150, (0.75, 1.1, 0.5)), c.colour(90, 140, (0.75, 1.1, 0.5)), horizon, 1)
    c.texture(9, horizon, 1, 4)


def _beach(c: _Canvas, rng: np.random.Generator) -> None:
    horizon, shore = rng.uniform(0.36, 0.46), rng.uniform(0.6, 0.7)
    c.gradient(c.colour(150, 200, (0.65, 0.9, 1.2)), c.colour(220, 245), 0, horizon)
    c.circle(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), rng.uniform(0.05, 0.08), c.colour(235, 250, (1.05, 1, 0.7)))
    c.gradient(c.colour(100, 150, (0.3, 0.9, 1.3)), c.colour(150, 190, (0.5, 1, 1.15)), horizon, shore)
    for _ in range(rng.integers(8, 14)):
        x, y = rng.uniform(0, 1), rng.uniform(horizon + 0.02, shore)
        c.line((x, y), (x + rng.uniform(0.05, 0.2), y), c.colour(220, 250), 0.006)
    if rng.random() < 0.6:  # a boat
        x = rng.uniform(0.1, 0.85)
        c.polygon(
            [(x - 0.05, horizon), (x + 0.05, horizon), (x + 0.03, horizon + 0.03), (x - 0.03, horizon + 0.03)],
            c.colour(60, 150, spread=60),
        )
        c.polygon([(x, horizon - 0.14), (x, horizon - 0.01), (x + 0.045, horizon - 0.01)], c.colour(225, 250))
    sand = c.colour(200, 225, (1.08, 0.96, 0.72))
    c.gradient(c.colour(235, 250), sand, shore, shore + 0.02)
    c.gradient(sand, c.colour(205, 235, (1.08, 0.96, 0.72)), shore + 0.02, 1)
    c.texture(7, shore + 0.02, 1, 3)
    if rng.random() < 0.7:  # a palm
        x, top = rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.85, 0.97)]), rng.uniform(0.12, 0.25)
        c.line((x, shore + 0.12), (x + 0.02, top), c.colour(100, 140, (1.1, 0.85, 0.6)), 0.03)
        for angle in np.linspace(-3.0, 0.1, 7):
            tip = (x + 0.02 + 0.16 * np.cos(angle), top + 0.1 * np.sin(angle) + 0.05)
            c.polygon([(x + 0.02, top - 0.02), tip, (x + 0.02, top + 0.03)], c.colour(60, 120, (0.5, 1.05, 0.4)))


def _kitchen(c: _Canvas, rng: np.random.Generator) -> None:
    floor, counter = rng.uniform(0.7, 0.76), rng.uniform(0.45, 0.5)
    tile, grout = c.colour(200, 240, spread=18), c.colour(150, 190)
    c.gradient(tile, tile, 0, floor)
    for y in np.arange(0, counter, 0.055):
        c.line((0, y), (1, y), grout, 0.004)
    for x in np.arange(0, 1, 0.055):
        c.line((x, 0), (x, counter), grout, 0.004)
    doors, edge = c.colour(90, 225, spread=45), c.colour(50, 90)
    for x in np.arange(-0.05, 1, 0.18):
        c.rectangle(x, -0.02, x + 0.17, 0.2, doors, edge)
        c.rectangle(x, counter + 0.03, x + 0.17, floor, doors, edge)
        c.line((x + 0.14, 0.15), (x + 0.14, 0.18), c.colour(200, 240), 0.008)
        c.line((x + 0.14, counter + 0.07), (x + 0.14, counter + 0.1), c.colour(200, 240), 0.008)
    c.rectangle(0, counter, 1, counter + 0.035, c.colour(60, 130, spread=20))
    x = rng.uniform(0.05, 0.7)  # a stove with its oven and a pot
    c.rectangle(x, counter, x + 0.2, floor, c.colour(190, 230), edge)
    c.rectangle(x + 0.02, counter + 0.1, x + 0.18, floor - 0.04, c.colour(30, 60), edge)
    c.rectangle(x + 0.05, counter - 0.07, x + 0.14, counter, c.colour(90, 190, spread=50), edge)
    x = rng.choice([0.0, 0.82])  # a fridge
    c.rectangle(x, 0.12, x + 0.18, floor + 0.03, c.colour(215, 245), edge)
    c.line((x, 0.35), (x + 0.18, 0.35), edge, 0.006)
    a, b = c.colour(190, 235), c.colour(90, 150)
    c.gradient(a, a, floor, 1)
    for row, y in enumerate(np.linspace(floor, 1, 5)[:-1]):
        for column in range(8):
            if (row + column) % 2:
                c.rectangle(column / 8, y, (column + 1) / 8, y + (1 - floor) / 4, b)


def _street(c: _Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.6, 0.66)
    c.gradient(c.colour(160, 210, (0.85, 0.95, 1.1)), c.colour(210, 235), 0, ground)
    x = rng.uniform(-0.1, 0.0)
    while x < 1:  # houses with windows
        width, top = rng.uniform(0.16, 0.28), rng.uniform(0.02, 0.25)
        wall, glass = c.colour(100, 190, (1.1, 0.95, 0.85), 30), c.colour(60, 230, (0.95, 1, 1.05))
        c.rectangle(x, top, x + width, ground, wall, c.colour(60, 90))
        for wy in np.arange(top + 0.04, ground - 0.1, 0.09):
            for wx in np.arange(x + 0.025, x + width - 0.04, 0.055):
                c.rectangle(wx, wy, wx + 0.032, wy + 0.055, glass)
        x += width
    c.gradient(c.colour(150, 185), c.colour(150, 185), ground, ground + 0.07)
    road = c.colour(70, 105, spread=6)
    c.gradient(road, tuple(int(v * 1.15) for v in road), ground + 0.07, 1)  # type: ignore[arg-type]
    c.texture(5, ground + 0.07, 1, 3)
    for x in np.arange(rng.uniform(-0.2, 0), 1, 0.24):
        c.rectangle(x, 0.9, x + 0.13, 0.925, c.colour(225, 245))
    x, paint_ = rng.uniform(0.0, 0.7), c.colour(80, 200, spread=80)  # a parked car
    y = ground + 0.06
    c.polygon(
        [(x + 0.06, y - 0.06), (x + 0.1, y - 0.13), (x + 0.22, y - 0.13), (x + 0.27, y - 0.06)],
        c.colour(150, 210, (0.9, 1, 1.05)),
    )
    c.rectangle(x, y - 0.06, x + 0.32, y + 0.03, paint_)
    for wheel in (x + 0.07, x + 0.25):
        c.circle(wheel, y + 0.03, 0.038, c.colour(20, 40))
    x = rng.choice([rng.uniform(0.02, 0.15), rng.uniform(0.85, 0.98)])  # a lamp
    c.line((x, ground + 0.06), (x, 0.15), c.colour(30, 60), 0.014)
    c.circle(x, 0.14, 0.03, c.colour(235, 250, (1, 1, 0.8)))


_PAINTERS = {
    "room": _room,
    "studio": _studio,
    "gym": _gym,
    "meadow": _meadow,
    "beach": _beach,
    "kitchen": _kitchen,
    "street": _street,
}
