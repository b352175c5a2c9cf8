"""Heatmaps as ViLP publishes them (arXiv 2308.03908): a picture of where body parts are, through CLIP's image tower.

A frame's picture is the highest confidence of all joints of all persons at every pixel, in grey. It shows what the
model sees of the frame in the same view: rendered from keypoints directly in the pixels of the view, or cut out of
imported maps, which cover the whole frame. The published code cuts its maps by their own aspect ratio instead, which
is that of the estimator's input and not of the frame, so that frame and map are not cut alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.geometry import crop_of, to_view
from stages.heatmap import render
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import UsageError, one_of
from store.schema import ArraySpec

DRAWINGS = ("joints", "limbs")
# The targets that OpenPose learns: 7 pixels in pictures of 368.
SIGMA = 7 / 368


@dataclass(frozen=True)
class HeatmapConfig:
    """How heatmaps are drawn and embedded.

    clip     the model, its views and T (``num_frames``); its tokens are not asked for
    drawing  ``joints``, or ``limbs``: also the segments between them
    sigma    of the Gaussian, as a fraction of the side of the view
    """

    clip: ClipConfig
    drawing: str = "joints"
    sigma: float = SIGMA

    def __post_init__(self) -> None:
        one_of("heatmap", self.drawing, DRAWINGS)
        if not 0 < self.sigma <= 1:
            raise UsageError(f"sigma is {self.sigma}; allowed: a fraction of the view, more than 0, at most 1")


class HeatmapEncoder:
    """Pictures of heatmaps, and their CLIP embeddings [V, T, D] a clip, exactly as the CLIP stage embeds frames."""

    def __init__(self, config: HeatmapConfig) -> None:
        self._config = config
        # A picture is drawn in the pixels of its view, so to the encoder it is a frame that is seen whole.
        self._encoder = ClipEncoder(replace(config.clip, views=("squash",), tokens=()))
        self._size = self._encoder.model.image_size

    @property
    def num_frames(self) -> int:
        """T."""
        return self._config.clip.num_frames

    def record(self, *, rendered: bool) -> dict[str, Any]:
        """What changes the numbers; ``rendered`` from keypoints, or imported."""
        clip = {key: value for key, value in self._encoder.modality().record.items() if key not in ("views", "tokens")}
        drawing = (
            {"drawing": self._config.drawing, "sigma": self._config.sigma} if rendered else {"drawing": "imported"}
        )
        return {"clip": clip, "views": list(self._config.clip.views), "levels": 256, **drawing}

    def environment(self) -> dict[str, Any]:
        return self._encoder.environment()

    def spec(self) -> ArraySpec:
        width = self._encoder.model.embed_dim
        shape = (len(self._config.clip.views), self.num_frames, width)
        return ArraySpec(shape, "float16", ("view", "frame", "embed"))

    def setup(self) -> None:
        self._encoder.setup()

    def render(self, keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
        """Pictures uint8 [V, T, S, S] of keypoints [T, P, 17, 3] in fractions of a frame of ``width`` x ``height``."""
        pictures = []
        for view in self._config.clip.views:
            moved = keypoints.copy()
            moved[..., :2] = to_view(keypoints[..., :2], view, width, height, self._size)
            maps = render(
                torch.from_numpy(moved),
                self._size,
                sigma=self._config.sigma * self._size,
                limbs=self._config.drawing == "limbs",
            )
            pictures.append(_levels(maps))
        return np.stack(pictures)

    def cut(self, maps: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
        """Pictures uint8 [V, T, S, S] of maps [h, w] in 0..1, which show whole frames of ``width`` x ``height``."""
        pictures = []
        for view in self._config.clip.views:
            crop = crop_of(view, width, height, self._size)
            rows, columns = slice(crop.top, crop.top + crop.size), slice(crop.left, crop.left + crop.size)
            size = (crop.height, crop.width)
            fitted = [interpolate(_batch(m), size, mode="bilinear", antialias=True)[0, 0, rows, columns] for m in maps]
            stacked = torch.stack(fitted)
            pictures.append(_levels(stacked.flip(-1) if crop.mirrored else stacked))
        return np.stack(pictures)

    def encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings float16 [B, V, T, D] of the pictures uint8 [V, T, S, S] of B clips."""
        clips = [_clip(one_view) for views in pictures for one_view in views]
        return self._encoder(clips)["cls"].reshape(len(pictures), *self.spec().shape)


def _levels(maps: torch.Tensor) -> np.ndarray:
    """Values 0..1 as grey levels; what is between two is the lower one, as in the published code."""
    return (maps.clamp(0, 1) * 255).byte().numpy()


def _batch(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None, None]


def _clip(pictures: np.ndarray) -> Clip:
    """Pictures uint8 [T, S, S] as a clip of grey frames."""
    count, height, width = pictures.shape
    frames = np.repeat(pictures[..., None], 3, axis=-1)
    places = np.arange(count, dtype=np.int32)
    return Clip(VideoRef(0, "", ""), DecodedVideo(frames, places, places / 1.0, count, count, 0.0, width, height))
