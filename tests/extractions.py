"""Settings for extractions that take a second."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import ExtractConfig


def small_config(root: Path, store: Path, **changes: object) -> ExtractConfig:
    """An extraction of the small videos that takes a second: tiny CLIP with random weights, no pose, shards of two."""
    settings: dict[str, object] = {
        "dataset": "folder",
        "root": str(root),
        "store": str(store),
        "frames": 4,
        "clip": "tiny",
        "clip_pretrained": "none",
        "pose": "none",
        "precision": "fp32",
        "batch_size": 8,
        "engine": "inline",
        "shard_len": 2,
    }
    return ExtractConfig(**{**settings, **changes})  # type: ignore[arg-type]
