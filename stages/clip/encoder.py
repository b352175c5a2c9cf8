"""The CLIP stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from stages.batching import fixed_batches, map_ahead, parallel_batches, single_threads
from stages.clip.config import TOKENS, ClipConfig
from stages.clip.models import build_model, find_weights, resolve_model
from stages.clip.preprocess import Preprocess
from stages.clip.templates import DEFAULT_TEMPLATES
from stages.clip.text import all_tokens, encode_prompts, encode_text
from stages.clip.towers import EPS, ClsOnly, VitTokens, class_token_alone, grid_side, why_no_tokens
from stages.device import resolve_device
from stages.precision import DTYPES, resolve_precision, torch_environment
from stages.transfer import Transfer
from stages.types import Clip
from stages.weights import file_digest
from store.errors import UsageError
from store.features import TextSet
from store.schema import ArraySpec, Modality


def check_text(config: ClipConfig, class_names: Sequence[str], templates: Sequence[str]) -> None:
    """Raise ``UsageError`` where ``ClipEncoder.encode_text`` would, without building the model."""
    all_tokens(resolve_model(config.model, config.pretrained).config["text_cfg"], class_names, templates)


class ClipEncoder:
    """Clips in, arrays out, one row a clip, all float16 and none normalised to unit length:

    cls     [B, V, T, D]        image embeddings in the joint space, those of the model's own ``encode_image``
    value   [B, V, T, G, G, D]  see ``stages.clip.towers.VitTokens``
    penult  [B, V, T, G, G, W]

    Model inputs are taken in the order clip, view, frame and go through the model in batches of exactly
    ``config.batch_size``, across clips, the last one padded. On a CPU as many batches run side by side as there are
    threads, each on one thread: several threads on one batch would wait for each other after every layer, which costs
    most of their time as soon as something else runs on the machine, and the numbers would depend on how many they are.
    With the shape fixed a row does not depend on its position or its neighbours, so the same clip always gives the same
    bytes.

    Numbers that do not fit (an embedding above 65,504, NaN from a broken model) are returned as they are.
    """

    def __init__(self, config: ClipConfig) -> None:
        """Raises ``UsageError`` or ``MissingError`` for what can't be had; loads no weights."""
        self.model = resolve_model(config.model, config.pretrained)
        self.device = resolve_device(config.device)
        self.config = dataclasses.replace(config, precision=resolve_precision(config.precision, self.device))
        reason = why_no_tokens(self.model.config)
        if config.tokens and reason:
            raise UsageError(
                f"tokens are {','.join(config.tokens)}, but the image tower of {config.model} is {reason}, which gives"
                " image embeddings alone; use --tokens ''"
            )
        self._extract: Callable[[Tensor], dict[str, Tensor]] | None = None

    @cached_property
    def weights(self) -> Path | None:
        """The weight file, downloaded where it has to be; None for random weights. Raises ``MissingError``."""
        return find_weights(self.model)

    @property
    def _tokens(self) -> tuple[str, ...]:
        return tuple(name for name in TOKENS if name in self.config.tokens)

    @property
    def _class_alone(self) -> bool:
        return class_token_alone(self.model.config, self._tokens)

    @cached_property
    def _modality(self) -> Modality:
        config, model = self.config, self.model
        weights = {"sha256": file_digest(self.weights)} if self.weights else {"seed": config.seed}
        width, shape, dims = model.embed_dim, (len(config.views), config.num_frames), ("view", "frame")
        arrays = {"cls": ArraySpec((*shape, width), "float16", (*dims, "embed"))}
        record: dict[str, Any] = {
            "model": model.config,
            "activation": model.activation,
            "weights": weights,
            "preprocess": {"size": model.image_size, **model.preprocess, "antialias": True, "levels": 256},
            "views": list(config.views),
            "sampling": {"num_frames": config.num_frames, "index": "floor(i * n / T)"},
            "precision": config.precision,
            "tokens": list(self._tokens),
        }
        if self._class_alone:
            record["last_block"] = "class token"
        if self._tokens:
            vision = model.config["vision_cfg"]
            grid = grid_side(model.image_size // vision["patch_size"])
            record["grid"] = grid
            for name, size, dim in (
                ("value", width, "embed"),
                ("penult", vision["width"], "width"),
                ("last", width, "embed"),
            ):
                if name in self._tokens:
                    arrays[name] = ArraySpec((*shape, grid, grid, size), "float16", (*dims, "row", "column", dim))
        if "penult" in self._tokens:
            record["penult_norm"] = {"kind": "layer norm without parameters", "eps": EPS}
        origin = model.tag or ("" if self.weights else "random")
        return Modality("clip", f"{model.name} {origin}".strip(), record, arrays)

    def modality(self) -> Modality:
        """What this stage stores. Reads the weight file once for its digest (and downloads it where it has to), but
        builds no model. Raises ``MissingError`` where there are no weights."""
        return self._modality

    def environment(self) -> dict[str, Any]:
        """What can change the last bits of the numbers and is not in the record."""
        return {
            **torch_environment(self.device),
            "open_clip": open_clip.__version__,
            "batch_size": self.config.batch_size,
        }

    def setup(self) -> None:
        """Load the image tower. Once in the process that will call."""
        visual: Any = build_model(self.model, self.weights, self.config.seed).visual
        if self.device.type == "cpu":  # one thread, for the reason above: the first videos are being decoded meanwhile
            self._extract = self._threads.submit(self._extractor, visual).result()
        else:
            self._extract = self._extractor(visual)
        visual.to(device=self.device, dtype=DTYPES[self.config.precision])

    def _extractor(self, visual: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        if self._tokens or self._class_alone:
            return VitTokens(visual, self._tokens, class_alone=self._class_alone)
        return ClsOnly(visual)

    @cached_property
    def transfer(self) -> Transfer:
        """How frames come to the device, and features back."""
        return Transfer(self.device)

    @property
    def _parallel(self) -> int:
        return parallel_batches(self.device, self.config.num_threads)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return single_threads(self._parallel, "clip")

    def __call__(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """The arrays of ``modality()`` for B clips. Their frames are a multiple of T, evenly spaced, and any size."""
        if self._extract is None:
            raise RuntimeError("setup() comes before the first call")
        specs = self.modality().arrays
        if not clips:
            return {name: np.empty((0, *spec.shape), spec.dtype) for name, spec in specs.items()}
        ahead = 2 * self._parallel
        blocks = chain.from_iterable(map_ahead(self._threads, self._inputs, clips, ahead=ahead))
        batches = fixed_batches(blocks, self.config.batch_size, DTYPES[self.config.precision])
        parts = list(map_ahead(self._threads, self._encode, batches, ahead=ahead))
        arrays = self.transfer.fetch({name: torch.cat([part[name] for part in parts]) for name in specs})
        return {name: arrays[name].reshape(-1, *spec.shape) for name, spec in specs.items()}

    @torch.no_grad()  # not inference_mode: slower with reduced precision on CPUs
    def _encode(self, batch: tuple[Tensor, int]) -> dict[str, Tensor]:
        assert self._extract is not None
        images, rows = batch
        return {name: values[:rows] for name, values in self._extract(images).items()}

    def encode_text(self, class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES) -> TextSet:
        """Class names through the text tower, always in fp32. Builds the model anew and lets it go; needs no
        ``setup()``. Raises ``UsageError`` for prompts or towers that don't serve (see ``stages.clip.text``)."""
        model = build_model(self.model, self.weights, self.config.seed)
        return encode_text(
            model, self.model.config["text_cfg"], class_names, templates, self.device, run=self._threads.map
        )

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Texts as they stand through the text tower, in fp32: float32 [N, D], not normalised. Builds the model anew;
        needs no ``setup()``. Raises as ``stages.clip.text.encode_prompts``."""
        model = build_model(self.model, self.weights, self.config.seed)
        return encode_prompts(model, self.model.config["text_cfg"], prompts, self.device)

    def _inputs(self, clip: Clip) -> list[Tensor]:
        """Model inputs of one clip, a block a view."""
        preprocess = self.model.preprocess
        transform = Preprocess(
            self.model.image_size, preprocess["mean"], preprocess["std"], interpolation=preprocess["interpolation"]
        )
        frames, wanted = clip.video.frames, self.config.num_frames
        if not len(frames) or len(frames) % wanted:
            raise ValueError(f"{clip.ref.video_id} has {len(frames)} frames; allowed: multiples of {wanted}")
        return list(transform(self.transfer.send(frames[:: len(frames) // wanted]), self.config.views))
