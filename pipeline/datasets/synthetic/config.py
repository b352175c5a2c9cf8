"""What the synthetic set is made of. Every default changes the pixels: raise ``RENDERER`` when one changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.errors import UsageError

RENDERER = 1
NUM_SPLITS = 3

STATIC = ("raise arms", "squat", "kneel")
DYNAMIC = ("wave",)
# Each clip of the second is made like a clip of the first and then reversed in time.
REVERSED = {"stand up": "sit down", "put down": "pick up"}
OBJECT_OF = {"hold ball": "ball", "hold box": "box", "hold umbrella": "umbrella"}
SCENE_OF = {"on the beach": "beach", "in the kitchen": "kitchen", "in the street": "street"}
CLASSES = (*STATIC, *DYNAMIC, *(name for pair in REVERSED.items() for name in pair[::-1]), *OBJECT_OF, *SCENE_OF)

# Backgrounds of the classes that are not about the scene.
BACKDROPS = ("room", "studio", "gym", "meadow")
OBJECTS = tuple(OBJECT_OF.values())


@dataclass(frozen=True)
class SyntheticConfig:
    """What to render.

    clips               of each class and subject
    num_frames          smallest and largest number of frames a clip
    sizes               width and height in pixels, even
    fps                 frames a second
    second_person, ...  share of the clips, of every class alike: an idling second person; something in front of the
                        actor; the actor out of sight at one end of the clip
    nobody              share of the scene classes' clips that show nobody at all
    """

    classes: tuple[str, ...] = CLASSES
    num_subjects: int = 9
    clips: int = 2
    num_frames: tuple[int, int] = (50, 84)
    sizes: tuple[tuple[int, int], ...] = ((160, 120), (208, 160), (240, 180), (320, 240))
    fps: tuple[int, ...] = (12, 15, 24, 30)
    second_person: float = 0.3
    occluded: float = 0.15
    away: float = 0.12
    nobody: float = 0.15

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in CLASSES]
        if unknown or len(set(self.classes)) < max(2, len(self.classes)):
            raise UsageError(f"classes are {self.classes}; allowed: two or more different ones of {', '.join(CLASSES)}")
        if self.num_subjects < NUM_SPLITS:
            raise UsageError(f"num_subjects is {self.num_subjects}; allowed: {NUM_SPLITS} or more, one for each split")
        if self.clips < 1 or not 48 <= self.num_frames[0] <= self.num_frames[1]:
            raise UsageError(f"clips is {self.clips} and num_frames {self.num_frames}; allowed: 1 or more, 48 or more")
        if any(value % 2 or value < 64 for size in self.sizes for value in size):
            raise UsageError(f"sizes are {self.sizes}; allowed: even numbers from 64 on, as 4:2:0 video needs")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SyntheticConfig:
        """The inverse of ``dataclasses.asdict``, of what JSON makes of it too."""

        def tuples(value: Any) -> Any:
            return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value

        return cls(**{name: tuples(value) for name, value in values.items()})


TINY = SyntheticConfig(
    classes=("raise arms", "sit down", "stand up", "hold ball"),
    num_subjects=3,
    clips=1,
    num_frames=(48, 56),
    sizes=((160, 120),),
)
