"""Torchvision's video models: which weights a choice stands for, and how a model is built without its classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from stages.seeded import seeded
from stages.video.config import VideoConfig
from stages.weights import RANDOM, load_weights, published_weights, read_checkpoint
from store.errors import MissingError, UsageError

FLAG = "--video-pretrained"


def published(config: VideoConfig) -> WeightsEnum | None:
    """Torchvision's weights that a config names; None for a file and for random ones. Raises ``UsageError`` for a name
    that is none of the model's, and ``MissingError`` for a file that is not there."""
    known: Any = get_model_weights(config.model)
    names = ", ".join(weights.name for weights in known)
    name = config.pretrained
    if name is None:
        return known.DEFAULT
    if name == RANDOM or Path(name).is_file():
        return None
    if name in known.__members__:
        return known[name]
    if Path(name).suffix or len(Path(name).parts) > 1:
        raise MissingError(
            f"video weights {name!r} are no file; give {FLAG} a file, a name ({names}) or none for random weights",
            kind="missing-weights",
        )
    raise UsageError(
        f"video weights are {name!r}; allowed for {config.model}: {names}, a weight file, none for random weights"
    )


def find_weights(config: VideoConfig) -> Path | None:
    """The weight file, fetched where it has to be; None for random weights. Raises ``MissingError``."""
    weights = published(config)
    if weights is not None:
        return published_weights(weights.url, model=config.model, flag=FLAG)
    return None if config.pretrained == RANDOM else Path(str(config.pretrained))


def preset(config: VideoConfig) -> Any:
    """Torchvision's own transform for the model: frames uint8 [T, 3, H, W] become float32 [3, T, S, S], on the device
    that they are on."""
    weights = published(config) or get_model_weights(config.model).DEFAULT
    return weights.transforms()


def build_model(config: VideoConfig, weights: Path | None) -> nn.Module:
    """The model in fp32 on the CPU, for evaluation, with the classifier's input as its output: with ``weights``, whose
    own classifier is left out, or with random ones. Raises ``UsageError`` for a file that does not fit."""
    with seeded(config.seed):
        model = get_model(config.model, weights=None)
    classifier = "fc" if hasattr(model, "fc") else "head"
    setattr(model, classifier, nn.Identity())
    if weights is not None:
        content = read_checkpoint(weights, flag=FLAG)
        state = {key: value for key, value in content.items() if not key.startswith(f"{classifier}.")}
        advice = "name the model whose weights these are with --video"
        load_weights(model, state, weights, flag=FLAG, name=config.model, advice=advice)
    return model.eval().requires_grad_(False)
