"""What a modality stores: its arrays, their shapes a video, and the facts that change its numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """One array of a modality: ``[N, *shape]`` with one row a slot.

    Floating arrays are filled with NaN and integer arrays with -1, so that a reader that knows nothing of commits sees
    what is missing.
    """

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.dims):
            raise ValueError(f"shape {self.shape} and dims {self.dims} differ in length")
        if np.dtype(self.dtype).kind not in "fi":
            raise ValueError(f"dtype is {self.dtype!r}; allowed: floating and signed integer types")

    @property
    def fill(self) -> float | int:
        return float("nan") if np.dtype(self.dtype).kind == "f" else -1

    @property
    def nbytes(self) -> int:
        """Bytes a video."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Modality:
    """A group of arrays with its own commits.

    ``kind`` is ``frames``, ``clip`` or ``pose``; ``record`` holds everything that changes the numbers (resolved model
    config, weight digest, preprocessing, sampling, library versions) as plain JSON values; the group's id is the short
    ``name`` and a hash of the record, so the same numbers always get the same id.
    """

    kind: str
    name: str
    record: Mapping[str, Any]
    arrays: Mapping[str, ArraySpec] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{slug(self.name)}-{record_hash(self.record)[:8]}"

    @property
    def path(self) -> str:
        """Path of the group inside the store, such as ``clip/vit-b-32-1a2b3c4d``."""
        return f"{self.kind}/{self.id}"


def record_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a record of plain JSON values, independent of key order."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def slug(name: str) -> str:
    """``name`` in lower-case letters, digits and hyphens: safe as a path segment anywhere."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
