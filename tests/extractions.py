"""Settings for extractions that take a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import pipeline.extraction
from pipeline.config import ExtractConfig
from pipeline.graph import Graph


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


def pose_config(root: Path, store: Path, **changes: object) -> ExtractConfig:
    """An extraction in half a second: no CLIP, and a pose estimator that needs neither weights nor torch."""
    settings = {"modalities": ("pose",), "pose": "plain_pose:PlainEstimator", "frames": 2, "pose_frames": 4}
    return small_config(root, store, **{**settings, **changes})


def limit_decoders(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Hold the decoding processes of extractions to other limits than the defaults (fields of ``DecodeConfig``)."""

    def limited(config: ExtractConfig, root: Path) -> Graph:
        graph = make_graph(config, root)
        return dataclasses.replace(graph, decode=dataclasses.replace(graph.decode, **limits))

    make_graph = pipeline.extraction.make_graph
    monkeypatch.setattr(pipeline.extraction, "make_graph", limited)
