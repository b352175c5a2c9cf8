"""The whole path keeps its accuracy: videos of people that the embedded CLIP has not seen, through decoding, cropping,
encoding, true poses, the store and untrained heads. A picture that is cut elsewhere, a skeleton on the wrong side or
other words than those of the class name all show here, where they leave every shape and every hash as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.config import default_config
from pipeline.datasets.synthetic import SyntheticConfig, render_dataset
from pipeline.demo import zero_shot_top1
from pipeline.extraction import extract
from pipeline.focus import focus, read_truth, untrained, weights_of
from pipeline.head import pooling, text
from stages.clip import preprocess
from stages.geometry import crop_of, to_view
from store import FeatureStore
from store.features import TEMPLATE


class Figures(NamedTuple):
    """Top-1 of the mean of frames, of VCS and of tokens under the persons; area of the weights of the last two."""

    mean: float
    vcs: float
    tokens: float
    vcs_area: float
    tokens_area: float


def figures(store: FeatureStore) -> Figures:
    mean, vcs, tokens = untrained(store, "mean"), untrained(store, "vcs"), untrained(store, "pvcs", alpha=1.0)
    areas = []
    for head, inputs in (vcs, tokens):
        weighed = weights_of([head], inputs)
        areas.append(focus(weighed, read_truth(store, weighed.video_ids, 8)).area)
    return Figures(*(zero_shot_top1(*pair)[0] for pair in (mean, vcs, tokens)), *areas)


def extracted(folder: Path, config: SyntheticConfig, seed: int) -> FeatureStore:
    render_dataset(folder / "videos", config=config, seed=seed)
    settings: dict[str, Any] = {
        "root": str(folder / "videos"),
        "store": str(folder / "store"),
        "seed": seed,
        "engine": "inline",
    }
    settings |= {"frames": 8, "pose_frames": 8, "tokens": ("value",)}
    extract(replace(default_config("synthetic"), **settings))
    return FeatureStore.open(folder / "store")


# People whom neither the embedded CLIP nor the demonstration has seen.
QUICK = SyntheticConfig(num_subjects=3, clips=1, sizes=((160, 120),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return extracted(tmp_path_factory.mktemp("quick"), QUICK, seed=11)


@pytest.fixture(scope="module")
def whole(store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VILP_CACHE", str(tmp_path_factory.mktemp("cache")))
        return figures(store)


def test_quick(whole):
    print(whole)


def test_keypoints_on_the_wrong_side(store, whole, monkeypatch, tmp_path):
    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr(pooling, "to_view", lambda points, view, *sizes: to_view(points, "flip", *sizes))
    print(figures(store))


def test_wrong_words(store, whole, monkeypatch, tmp_path):
    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr(text, "word_mask", lambda kinds, mode: kinds == TEMPLATE)
    print(figures(store))


def test_crop(monkeypatch, tmp_path):
    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr(preprocess, "crop_of", lambda *a: replace(crop_of(*a), left=0))
    print(figures(extracted(tmp_path, QUICK, seed=11)))
