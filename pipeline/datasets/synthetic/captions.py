"""What can truly be said of a rendered frame: its facts, and sentences that state some of them.

A fact is one of a few values (``FACTS``), so that it is known of every caption whether it is true of every frame, and
of every beginning of a caption too: after ``a person hold`` the frame may still be of any class that begins with
``hold``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.datasets.synthetic import truth
from pipeline.datasets.synthetic.config import BACKDROPS, CLASSES, OBJECTS, REVERSED, SCENE_OF
from pipeline.datasets.synthetic.script import COLOURS, Script

IDLE, SEATED, NOBODY = "idle", "seated", "nobody"
ACTIONS = (*(name for name in CLASSES if name not in SCENE_OF), IDLE, SEATED, NOBODY)
NONE = "none"
HUES = (*COLOURS, NONE)
FACTS: dict[str, tuple[str, ...]] = {
    "action": ACTIONS,
    "place": (*BACKDROPS, *SCENE_OF.values()),
    "object": (*OBJECTS, NONE),
    "object colour": HUES,
    "shirt": HUES,
    "trousers": HUES,
    "persons": ("0", "1", "2"),
    "view": ("front", "left", "right", NONE),
    "hidden": ("no", "yes"),
}
_PLACE_OF = {name: place for place, name in enumerate(FACTS)}
EVERYTHING = -1  # all bits: whatever the value of the fact

# From this phase on a pose that is reached and held counts as the action; of one that leads from one state to another,
# what lies between the two does.
HELD, BETWEEN = 0.5, (0.06, 0.94)

# How an action is said, after ``a person``. The first way is the name of the class, as the prompts of a store have it.
WAYS: dict[str, tuple[str, ...]] = {
    "raise arms": ("raise arms", "raising both arms", "with both arms up"),
    "squat": ("squat", "squatting", "in a deep squat"),
    "kneel": ("kneel", "kneeling", "on one knee"),
    "wave": ("wave", "waving", "waving a hand"),
    "sit down": ("sit down", "sitting down", "taking a seat"),
    "stand up": ("stand up", "standing up", "getting up from a chair"),
    "pick up": ("pick up", "picking something up", "pick up from the ground"),
    "put down": ("put down", "putting something down", "put down on the ground"),
    "hold ball": ("hold ball", "holding a ball up", "holding up a ball"),
    "hold box": ("hold box", "holding a box up", "holding up a box"),
    "hold umbrella": ("hold umbrella", "holding an umbrella up", "holding up an umbrella"),
    IDLE: ("standing still", "doing nothing", "standing around"),
    SEATED: ("seated on a chair", "seated", "resting on a chair"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "room": ("in a room", "at home"),
    "studio": ("in a studio", "before a plain wall"),
    "gym": ("in a gym", "in a sports hall"),
    "meadow": ("on a meadow", "on the grass"),
    "beach": ("on the beach", "at the sea"),
    "kitchen": ("in the kitchen", "near the stove"),
    "street": ("in the street", "in the city"),
}
VIEWS = {"front": "seen from the front", "left": "facing left", "right": "facing right"}
OPENINGS = ("a video of a person", "a photo of a person", "a person", "someone")
EMPTY = ("nobody", "a video of nobody", "an empty scene")


@dataclass(frozen=True)
class Caption:
    """A sentence in parts that follow each other with a space, and what has been said after each of them.

    said  int64 [parts, facts]: bit v is set where the fact may still have value v
    """

    parts: tuple[str, ...]
    said: np.ndarray

    @property
    def text(self) -> str:
        return " ".join(self.parts)


def facts_of(script: Script) -> np.ndarray:
    """The value of every fact in every frame, int64 [frames, facts], as positions in ``FACTS``."""
    shown = [truth.boxes(script, person)[:, 4] > 0 for person in range(len(script.figures))]
    found = np.zeros((script.num_frames, len(FACTS)), np.int64)
    for frame in range(script.num_frames):
        actor = bool(shown) and bool(shown[0][frame])
        persons = sum(bool(person[frame]) for person in shown)
        prop = script.prop if script.prop is not None and script.figures and _on_screen(script, frame) else None
        look = script.figures[0].look if actor else None
        values = {
            "action": _action(script, frame) if actor else IDLE if persons else NOBODY,
            "place": script.scene,
            "object": prop.kind if prop else NONE,
            "object colour": prop.colour if prop else NONE,
            "shirt": look.shirt if look else NONE,
            "trousers": look.trousers if look else NONE,
            "persons": str(persons),
            "view": script.view if actor else NONE,
            "hidden": "yes" if script.occluder is not None and actor else "no",
        }
        found[frame] = [FACTS[name].index(values[name]) for name in FACTS]
    return found


def write_caption(facts: np.ndarray, rng: np.random.Generator) -> Caption:
    """A sentence that states some of the ``facts`` [facts] of a frame, in one of many ways."""
    value = {name: FACTS[name][position] for name, position in zip(FACTS, facts, strict=True)}
    writer = _Writer()
    if value["persons"] == "0":
        writer.say(str(rng.choice(EMPTY)), persons=("0",), action=(NOBODY,))
    else:
        writer.say(str(rng.choice(OPENINGS)), persons=("1", "2"))
        told = rng.random(7) < (0.25, 0.75, 0.2, 0.35, 0.15, 0.15, 0.1)
        if not told.any():
            told[1] = True
        if told[0] and value["shirt"] != NONE:
            if rng.random() < 0.5:
                writer.say(f"in a {value['shirt']} shirt", shirt=(value["shirt"],))
            else:
                writer.say(f"in {value['trousers']} trousers", trousers=(value["trousers"],))
        if told[1]:
            writer.tell("action", value["action"], rng)
        if told[2] and value["object"] != NONE:
            colour, kind = value["object colour"], value["object"]
            writer.say(f"with a {colour} {kind}", object=(kind,), **{"object colour": (colour,)})
        if told[3]:
            writer.tell("place", value["place"], rng)
        if told[4] and value["view"] != NONE:
            writer.say(VIEWS[value["view"]], view=(value["view"],))
        if told[5]:
            writer.say("alone" if value["persons"] == "1" else "beside another person", persons=(value["persons"],))
        if told[6] and value["hidden"] == "yes":
            writer.say("partly hidden", hidden=("yes",))
    if value["persons"] == "0" and rng.random() < 0.8:
        writer.tell("place", value["place"], rng)
    return writer.caption()


def write_prompts(rng: np.random.Generator) -> list[Caption]:
    """A sentence for every action and every place, which states nothing else but that there is somebody."""
    prompts = []
    for name, ways in (("action", WAYS), ("place", PLACES)):
        for value in ways:
            writer = _Writer()
            writer.say(str(rng.choice(OPENINGS)), persons=("1", "2"))
            writer.tell(name, value, rng)
            prompts.append(writer.caption())
    return prompts


def true_of(facts: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Whether each of the statements ``said`` [S, facts] is true of each frame in ``facts`` [N, facts]: bool [N, S]."""
    return (((1 << facts)[:, None] & said[None]) != 0).all(-1)


def held_out(script: Script) -> bool:
    """Whether a clip shows a combination that no training clip shows: of the twelve colours one of the actor's shirt
    with each class, and two of each object."""
    colours = tuple(COLOURS)
    number = CLASSES.index(REVERSED.get(script.class_name, script.class_name))
    shirt = bool(script.figures) and colours.index(script.figures[0].look.shirt) == number % len(colours)
    if script.prop is None:
        return shirt
    return shirt or colours.index(script.prop.colour) % 6 == OBJECTS.index(script.prop.kind)


class _Writer:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._said: list[np.ndarray] = []

    def say(self, text: str, **allowed: Sequence[str]) -> None:
        """Add a part after which the named facts can have only the allowed values."""
        self._add(text, {name: _bits(name, values) for name, values in allowed.items()})

    def tell(self, name: str, value: str, rng: np.random.Generator) -> None:
        """Add an action or a place word by word, in one of the ways to say it: what the words so far leave open stays
        open."""
        for word, bits in _word_by_word(name, _first_or_any(_WAYS_OF[name][value], rng)):
            self._add(word, {name: bits})

    def caption(self) -> Caption:
        return Caption(tuple(self._parts), np.stack(self._said))

    def _add(self, text: str, allowed: dict[str, int]) -> None:
        now = self._said[-1].copy() if self._said else np.full(len(FACTS), EVERYTHING, np.int64)
        for name, bits in allowed.items():
            now[_PLACE_OF[name]] &= bits
        self._parts.append(text)
        self._said.append(now)


_WAYS_OF = {"action": WAYS, "place": PLACES}


@cache
def _word_by_word(name: str, way: str) -> list[tuple[str, int]]:
    """The words of one way to say a fact, and the values that the fact may still have after each."""
    words, found = way.split(), []
    for count in range(1, len(words) + 1):
        begun = [
            value
            for value, ways in _WAYS_OF[name].items()
            if any(other.split()[:count] == words[:count] for other in ways)
        ]
        found.append((words[count - 1], _bits(name, begun)))
    return found


def _bits(name: str, values: Sequence[str]) -> int:
    return sum(1 << FACTS[name].index(value) for value in values)


def _first_or_any(ways: tuple[str, ...], rng: np.random.Generator) -> str:
    """The name of the class half of the time, so that the prompts of a store are well known."""
    return ways[0] if rng.random() < 0.5 else ways[int(rng.integers(len(ways)))]


def _action(script: Script, frame: int) -> str:
    """What the actor does in a frame, as far as it can be seen."""
    name, phase = script.class_name, float(script.phase[frame])
    if name in SCENE_OF:
        return IDLE
    pair = REVERSED.get(name, name)
    if pair not in REVERSED.values():
        return name if phase >= HELD else IDLE
    if BETWEEN[0] < phase < BETWEEN[1]:
        return name
    return SEATED if pair == "sit down" and phase >= BETWEEN[1] else IDLE


def _on_screen(script: Script, frame: int) -> bool:
    assert script.prop is not None
    x, y = script.prop.at[frame]
    return bool(0 <= x < script.width and 0 <= y < script.height)
