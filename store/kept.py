"""Settings of the runs that made a store, as TOML that ``vilp-pipe extract --config`` takes: for people, and to repeat
an extraction. Nothing else reads them.

The name of each is the beginning of its own hash, so runs with equal settings keep one, and a flipped byte shows.
"""

from __future__ import annotations

from store.layout import CONFIGS
from store.objects import Objects
from store.sealed import sha256


def keep_config(objects: Objects, text: bytes) -> str:
    """Keep the settings of a run; returns their key."""
    key = f"{CONFIGS}/{sha256(text)[:16]}.toml"
    objects.swap(key, text, None)  # parts of a run may come at once, with the same
    return key


def bring_configs(source: Objects, destination: Objects) -> None:
    """Copy what is kept, what is damaged left out."""
    damaged = damaged_configs(source)
    for key in source.list(CONFIGS):
        if key not in damaged:
            destination.swap(key, source.get(key) or b"", None)


def damaged_configs(objects: Objects) -> list[str]:
    """Keys of settings that are not as they were written."""
    return [key for key in objects.list(CONFIGS) if key != f"{CONFIGS}/{sha256(objects.get(key) or b'')[:16]}.toml"]
