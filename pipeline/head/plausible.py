"""Results that are too good to be true of frozen features, and what to look at before believing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.head.results import SplitSummary

# Top-1 above which a head on frozen features deserves suspicion, by dataset and width of the image tower (768: ViT-B,
# 1024: ViT-L and larger). Linear probes and temporal heads on frozen ViT-B/16 are reported at 60 to 72% on HMDB51 and
# 85 to 94% on UCF101; figures from 80% and 95% on come from towers that were fine-tuned on video.
CEILINGS: Mapping[str, Mapping[int, float]] = {"hmdb51": {768: 0.78, 1024: 0.84}, "ucf101": {768: 0.95, 1024: 0.98}}
# The same without training: zero-shot ViT-B/16 is reported at 40 to 48% and 66 to 72%.
ZERO_SHOT: Mapping[str, Mapping[int, float]] = {"hmdb51": {768: 0.58, 1024: 0.65}, "ucf101": {768: 0.80, 1024: 0.88}}
_LOOK = (
    "look for test videos among the training videos, for a dataset that is smaller than it says, and for weights that "
    "were trained on it"
)


def too_good(
    dataset: str, clip: Mapping[str, Any], summaries: Sequence[SplitSummary], *, chance: float, trained: bool
) -> list[str]:
    """Warnings about the mean of the splits' top-1. ``clip`` is the record of the CLIP group."""
    top1 = float(np.mean([summary.top1 for summary in summaries]))
    if not trained and "seed" in clip["weights"]:
        lowest = min(summary.interval[0] for summary in summaries)
        if lowest > 2 * chance:
            return [f"too good: {top1:.1%} without training from a CLIP model with random weights; {_LOOK}"]
        return []
    ceilings = (CEILINGS if trained else ZERO_SHOT).get(dataset)
    if ceilings is None:
        return []
    width = image_width(clip)
    ceiling = ceilings[768 if width <= 768 else 1024]
    if top1 <= ceiling:
        return []
    how = "a head on frozen features" if trained else "zero-shot"
    return [f"too good: {top1:.1%} on {dataset} is more than {ceiling:.0%}, the most expected of {how}; {_LOOK}"]


def image_width(clip: Mapping[str, Any]) -> int:
    """Width of the image tower of a CLIP group's record; 768, that of ViT-B, where the record does not say."""
    vision = clip.get("model", {}).get("vision_cfg", {}) if isinstance(clip.get("model"), Mapping) else {}
    return int(vision.get("width", 768))
