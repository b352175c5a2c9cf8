"""The video stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from stages.batching import fixed_batches, map_ahead, parallel_batches, single_threads
from stages.device import resolve_device
from stages.precision import DTYPES, resolve_precision, torch_environment
from stages.transfer import Transfer
from stages.types import Clip
from stages.video.config import VideoConfig
from stages.video.models import build_model, find_weights, preset, published
from stages.weights import file_digest
from store.schema import ArraySpec, Modality


class VideoEncoder:
    """Videos in, arrays out, one row a video:

    video_embedding  float16 [B, K, D]: what the model gives its classifier for each of K clips, not normalised

    Clips go through the model in batches of a fixed size, across videos, the last one padded. On a CPU as many batches
    run side by side as there are threads, each on one thread (see ``stages.clip.encoder``), so the same video always
    gives the same bytes, whatever its neighbours.
    """

    def __init__(self, config: VideoConfig) -> None:
        """Raises ``UsageError`` or ``MissingError`` for what can't be had; loads no weights."""
        self.device = resolve_device(config.device)
        self.config = dataclasses.replace(config, precision=resolve_precision(config.precision, self.device))
        self._published = published(config)
        self._transform = preset(config)
        self._model: nn.Module | None = None

    @cached_property
    def weights(self) -> Path | None:
        """The weight file, fetched where it has to be; None for random weights. Raises ``MissingError``."""
        return find_weights(self.config)

    def modality(self) -> Modality:
        """What this stage stores. Reads the weight file for its digest (and fetches it where it has to), but builds no
        model. Raises ``MissingError`` where there are no weights."""
        config, transform = self.config, self._transform
        values: dict[str, Any] = {name: list(getattr(transform, name)) for name in ("resize_size", "crop_size")}
        values |= {name: [float(x) for x in getattr(transform, name)] for name in ("mean", "std")}
        record = {
            "model": config.model,
            "weights": {"sha256": file_digest(self.weights)} if self.weights else {"seed": config.seed},
            "preprocess": {**values, "interpolation": transform.interpolation.value, "antialias": False},
            "views": ["center"],
            "clips": dataclasses.asdict(config.sampling),
            "output": "input of the classifier",
            "precision": config.precision,
        }
        origin = self._published.name if self._published else "" if self.weights else "random"
        spec = ArraySpec((config.num_clips, config.recipe.width), "float16", ("clip", "embed"))
        return Modality("video", f"{config.model} {origin}".strip(), record, {"video_embedding": spec})

    def environment(self) -> dict[str, Any]:
        """What can change the last bits of the numbers and is not in the record."""
        return {
            **torch_environment(self.device),
            "torchvision": torchvision.__version__,
            "batch_size": self.config.batch_size,
        }

    def setup(self) -> None:
        """Load the model. Once in the process that will call."""
        model = build_model(self.config, self.weights)
        self._model = model.to(device=self.device, dtype=DTYPES[self.config.precision])

    @cached_property
    def _transfer(self) -> Transfer:
        return Transfer(self.device)

    @property
    def _parallel(self) -> int:
        return parallel_batches(self.device, self.config.num_threads)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return single_threads(self._parallel, "video")

    def __call__(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """The arrays of ``modality()`` for B videos, each with the frames of its K clips, of any size."""
        if self._model is None:
            raise RuntimeError("setup() comes before the first call")
        shape = (self.config.num_clips, self.config.recipe.width)
        if not clips:
            return {"video_embedding": np.empty((0, *shape), np.float16)}
        ahead = self._parallel
        blocks = map_ahead(self._threads, self._input, chain.from_iterable(map(self._cut, clips)), ahead=ahead)
        batches = fixed_batches(blocks, self.config.batch_size, DTYPES[self.config.precision])
        parts = list(map_ahead(self._threads, self._encode, batches, ahead=ahead))
        arrays = self._transfer.fetch({"video_embedding": torch.cat(parts)})
        return {name: array.reshape(-1, *shape) for name, array in arrays.items()}

    def _cut(self, clip: Clip) -> Iterator[np.ndarray]:
        """The frames of a video, a clip at a time."""
        frames, sampling = clip.video.frames, self.config.sampling
        if len(frames) != sampling.num_frames:
            raise ValueError(f"{clip.ref.video_id}: {len(frames)} frames, the video stage wants {sampling.num_frames}")
        yield from np.split(frames, sampling.clips)

    def _input(self, frames: np.ndarray) -> Tensor:
        """The model's input for one clip, float32 [1, 3, L, S, S]."""
        pixels = self._transfer.send(frames).permute(0, 3, 1, 2)
        inputs: Tensor = self._transform(pixels)
        return inputs.unsqueeze(0)

    @torch.no_grad()
    def _encode(self, batch: tuple[Tensor, int]) -> Tensor:
        assert self._model is not None
        inputs, rows = batch
        embeddings: Tensor = self._model(inputs)
        return embeddings[:rows].half()
