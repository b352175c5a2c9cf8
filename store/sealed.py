"""JSON that notices when any one of its bytes changes.

A sealed file is the canonical JSON text of ``{"sha256": ..., "value": ...}``, where the hash is that of the canonical
text of the value. A reader parses it, checks the hash and checks that the file is canonical, so that even a flipped
byte that JSON would forgive is found. Sealed files are kept twice, and either copy serves.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from store.errors import StoreError
from store.objects import Objects


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def seal(value: Any) -> bytes:
    """A plain JSON value as a text that holds its own hash; ``unseal`` gives it back."""
    text = canonical(value)
    return canonical({"sha256": sha256(text.encode()), "value": value}).encode()


def unseal(data: bytes) -> Any:
    """The value of a sealed text; ValueError where any byte of it is not as it was written."""
    document = json.loads(data)
    if not isinstance(document, dict) or seal(document.get("value")) != data:
        raise ValueError("the seal is broken")
    return document["value"]


def copy_key(key: str) -> str:
    """Where the second copy of an object lies: ``a/store.json`` -> ``a/store.copy.json``."""
    stem, _, suffix = key.rpartition(".")
    return f"{stem}.copy.{suffix}"


def put_twice(objects: Objects, key: str, data: bytes, *, point: str) -> None:
    """Write an object and its copy. The copy goes first, so that one of the two is whole at any time."""
    objects.put(copy_key(key), data, point=f"{point}-copy")
    objects.put(key, data, point=point)


def settle(objects: Objects, key: str, data: bytes, *, point: str = "object") -> None:
    """Make an object and its copy both hold ``data``: a crash, or damage, may have left one of them behind."""
    for candidate, name in ((copy_key(key), f"{point}-copy"), (key, point)):
        if objects.get(candidate) != data:
            objects.put(candidate, data, point=name)


def get_sealed(objects: Objects, key: str) -> Any | None:
    """Value of a sealed object, from its copy where the first is damaged; None where there is neither.

    Raises ``StoreError`` (``store-corrupt``) where both are damaged.
    """
    found = False
    for candidate in (key, copy_key(key)):
        data = objects.get(candidate)
        if data is None:
            continue
        found = True
        try:
            return unseal(data)
        except ValueError:
            continue
    if found:
        raise StoreError(
            f"{objects.describe(key)} and its copy are damaged; restore one of them from a backup, "
            "or extract into a new store",
            kind="store-corrupt",
        )
    return None
