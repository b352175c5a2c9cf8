"""Frames to train and to measure on: drawn straight from scripts, cut as the CLIP stage cuts them, with their facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.synthetic import truth
from pipeline.datasets.synthetic.captions import facts_of, held_out
from pipeline.datasets.synthetic.config import SyntheticConfig
from pipeline.datasets.synthetic.draw import frames as draw
from pipeline.datasets.synthetic.script import Script, write_scripts
from pipeline.stick.config import TRAINING_SEED, StickConfig
from stages.clip.preprocess import cut
from stages.geometry import crop_of, to_view
from stages.pose.coco import NUM_JOINTS

PERSONS = 2  # at most in a clip: who acts, and who stands about


@dataclass(frozen=True)
class Frames:
    """N frames of some clips.

    pixels  uint8 [N, 3, S, S], the view ``center``
    facts   int64 [N, facts], see ``captions.FACTS``
    joints  float32 [N, 2, 17, 3]: the actor's and a second person's, x and y as fractions of the view, and whether
            they are seen; zeros where there is no such person
    clips   int64 [N]: which of ``scripts`` a frame is of
    """

    pixels: Tensor
    facts: np.ndarray
    joints: Tensor
    clips: np.ndarray
    scripts: tuple[Script, ...]

    def __len__(self) -> int:
        return len(self.pixels)


def draw_training_frames(config: StickConfig, size: int) -> Frames:
    """Frames of every training clip that shows no combination that is held out, at moments of ``draw_moments``."""
    rendered = SyntheticConfig(num_subjects=config.subjects)
    scripts = [script for script in write_scripts(TRAINING_SEED, rendered) if not held_out(script)]
    return _take(scripts, [draw_moments(script, config.frames_a_clip) for script in scripts], size)


def draw_moments(script: Script, count: int) -> np.ndarray:
    """``count`` frames of a clip: random ones, half of them from the whole of it and half while the action lasts."""
    rng = np.random.default_rng([*script.seed, 3])
    half = count // 2
    spans = ((0, script.num_frames, count - half), (script.start, script.end, half))
    edges = [np.linspace(start, end, number + 1) for start, end, number in spans]
    return np.floor(np.concatenate([rng.uniform(edge[:-1], edge[1:]) for edge in edges])).astype(int)


def draw_test_frames(
    seed: int,
    config: SyntheticConfig,
    num_frames: int,
    size: int,
    *,
    chosen: Callable[[Script], bool] = lambda script: True,
) -> Frames:
    """The frames that the CLIP stage takes of every clip, or of the ``chosen``, before any video codec has touched
    them."""
    scripts = [script for script in write_scripts(seed, config) if chosen(script)]
    return _take(scripts, [np.arange(num_frames) * s.num_frames // num_frames for s in scripts], size)


def _take(scripts: list[Script], moments: list[np.ndarray], size: int) -> Frames:
    cv2.setNumThreads(1)
    pixels, facts, joints = [], [], []
    for script, chosen in zip(scripts, moments, strict=True):
        shown = torch.from_numpy(draw(script, chosen.tolist())).permute(0, 3, 1, 2)
        pixels.append(cut(shown, crop_of("center", script.width, script.height, size), "bicubic").contiguous())
        facts.append(facts_of(script)[chosen])
        joints.append(_joints(script, size)[torch.from_numpy(chosen)])
    clips = np.repeat(np.arange(len(scripts)), [len(chosen) for chosen in moments])
    return Frames(torch.cat(pixels), np.concatenate(facts), torch.cat(joints), clips, tuple(scripts))


def _joints(script: Script, size: int) -> Tensor:
    found = torch.zeros(script.num_frames, PERSONS, NUM_JOINTS, 3)
    for person in range(len(script.figures)):
        found[:, person] = torch.from_numpy(truth.keypoints(script, person))
    found[..., :2] = to_view(found[..., :2], "center", script.width, script.height, size)
    return found


def batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """``steps`` batches of ``size`` rows of ``count``: every row once before any comes again."""
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:size]
        order = order[size:]
