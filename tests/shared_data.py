"""Where real test data lies."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def find_shared() -> Path | None:
    """The folder with real clips, weights and golden files: ``$VILP_SHARED``, or ``../shared`` beside the project."""
    path = Path(os.environ.get("VILP_SHARED", PROJECT.parent / "shared"))
    return path.resolve() if path.is_dir() else None
