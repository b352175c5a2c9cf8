"""What a modality stores: its arrays, their shapes a video, and the facts that change its numbers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

# Kinds of groups with a row a slot; a text set, the one other kind, lies below its CLIP group.
KINDS = ("frames", "clip", "pose", "video", "posefeat")


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
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Modality:
    """A group of arrays with its own commits.

    ``kind`` is one of ``KINDS`` or ``text``; ``record`` holds everything that changes the numbers (resolved model
    config, weight digest, preprocessing, sampling, library versions) as plain JSON values; the group's id is the short
    ``name`` and a hash of the record, so the same numbers always get the same id. The arrays of a text set have no row
    a slot: their shapes are complete, and ``parent`` is the path of the CLIP group they belong to.
    """

    kind: str
    name: str
    record: Mapping[str, Any]
    arrays: Mapping[str, ArraySpec] = field(default_factory=dict)
    parent: str = ""

    @cached_property
    def id(self) -> str:
        return f"{slug(self.name)}-{record_hash(self.record)[:8]}"

    @property
    def path(self) -> str:
        """Path of the group inside the store, such as ``clip/vit-b-32-1a2b3c4d``."""
        return f"{self.parent}/{self.kind}/{self.id}".lstrip("/")

    @property
    def per_video(self) -> bool:
        """Whether the arrays have one row a slot."""
        return self.kind != "text"

    def length(self, dim: str) -> int:
        """Length of a named dimension of the arrays, such as ``frame``: it is the same in all that have it."""
        return next(spec.shape[spec.dims.index(dim)] for spec in self.arrays.values() if dim in spec.dims)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "record": dict(self.record),
            "arrays": {
                n: {"shape": list(a.shape), "dtype": a.dtype, "dims": list(a.dims)} for n, a in self.arrays.items()
            },
            "parent": self.parent,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Modality:
        arrays = {n: ArraySpec(tuple(a["shape"]), a["dtype"], tuple(a["dims"])) for n, a in data["arrays"].items()}
        return cls(data["kind"], data["name"], data["record"], arrays, data["parent"])


def record_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a record of plain JSON values, independent of key order."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def slug(name: str) -> str:
    """``name`` in lower-case letters, digits and hyphens: safe as a path segment anywhere."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
