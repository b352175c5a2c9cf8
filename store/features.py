"""What a reader hands out: features of a set of videos, and the text side of a CLIP model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

# Kinds of token in a prompt, as stored in ``token_kinds``.
PAD, START, TEMPLATE, NAME, END = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Features:
    """Features of B videos, in slot order, as whole tensors on one device.

    tensors      by array name: ``cls`` [B, V, T, D], ``value`` [B, V, T, G, G, D], ``penult`` [B, V, T, G, G, W]
                 (float16, not normalised), ``keypoints`` [B, Tp, P, 17, 3] and ``boxes`` [B, Tp, P, 5] (float32, x and
                 y as fractions of the frame; zeros mean nobody), ``video_embedding`` [B, K, D] (float16, a row a clip),
                 ``features`` [B, D] and ``scores`` [B, C] (float32) and ``seen`` [B] (int8) of a skeleton network
    pose_frames  int64 [T], for each of the T CLIP frames its position on the pose axis Tp; None without pose
    labels       int64 [B]
    slots        int64 [B]
    sizes        float32 [B, 2], width and height of the source frames in pixels
    video_ids    B names
    sources      B names of source groups (videos cut from one source share it)
    """

    tensors: Mapping[str, torch.Tensor]
    pose_frames: torch.Tensor | None
    labels: torch.Tensor
    slots: torch.Tensor
    sizes: torch.Tensor
    video_ids: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]


@dataclass(frozen=True)
class TextSet:
    """Class names through one CLIP text tower, with K prompt templates, C classes and L token positions.

    class_embeddings  float32 [K, C, D], as ``encode_text`` gives them, not normalised
    word_embeddings   float32 [K, C, L, D], every token position projected to the joint space, not normalised
    token_kinds       int8 [K, C, L], one of PAD, START, TEMPLATE, NAME, END
    logit_scale       multiplier of cosines (already exponentiated); ``logit_bias`` is 0 where the model has none
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    class_embeddings: torch.Tensor
    word_embeddings: torch.Tensor
    token_kinds: torch.Tensor
    logit_scale: float
    logit_bias: float


def on_pose_axis(clip_frames: np.ndarray, stored: int, pose_frames: int) -> np.ndarray:
    """Where some of the ``stored`` frames of CLIP, given by their positions, are among the ``pose_frames`` frames of
    pose: the same frames of the video, however long it is. Raises ``UsageError`` where one of them is not there."""
    places, between = divmod(clip_frames * pose_frames, stored)
    if between.any():
        raise UsageError(
            f"frames are {len(clip_frames)} of the {stored} of CLIP, of which some are not among the {pose_frames} of "
            f"pose; allowed: frames={math.gcd(stored, pose_frames)}, or a pose group whose --pose-frames is a multiple "
            f"of {stored}"
        )
    return places
