"""Weights of mmpose's models: those of a file, or the ones that mmpose's own listing has published (see
``stages.weights``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.weights import RANDOM, file_digest, load_weights, published_weights, read_checkpoint
from store.errors import MissingError

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

# Person detectors that mmpose configures but whose checkpoints its own listing does not hold.
_ZOO = "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/"
_DETECTORS = {
    "rtmdet_m_640-8xb32_coco-person": f"{_ZOO}rtmdet_m_8xb32-100e_coco-obj365-person-235e8209.pth",
    "rtmdet_nano_320-8xb32_coco-person": f"{_ZOO}rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
}


def digest_of_weights(weights: str | None, *, config: Config, flag: str, seed: int) -> str:
    """SHA-256 of the file, or the seed of random weights. Raises as ``find_weights``."""
    return f"random-seed-{seed}" if weights == RANDOM else file_digest(find_weights(weights, config=config, flag=flag))


def find_weights(weights: str | None, *, config: Config, flag: str) -> Path:
    """The file of a model's weights: the one that ``flag`` names, else the published one, fetched where it has to be.

    Raises ``MissingError`` that says which file to put where.
    """
    url = published_checkpoint(config)
    model, published = Path(config.filename).stem, url.rpartition("/")[2] if url else None
    if weights:
        if Path(weights).is_file():
            return Path(weights)
        what = f"{published} of the mmpose model zoo" if published else "its checkpoint"
        raise MissingError(
            f"no weights for {model}: {flag} is {weights!r}, which is not a file; save {what} there",
            kind="missing-weights",
        )
    if url is None or published is None:
        raise MissingError(
            f"no weights for {model}, which mmpose lists no checkpoint for: give {flag} FILE", kind="missing-weights"
        )
    return published_weights(url, model=model, flag=flag)


def published_checkpoint(config: Config) -> str | None:
    """Address of the published checkpoint, from the listing beside a shipped config; None where it is not listed."""
    import yaml

    name = Path(config.filename).stem
    for listing in Path(config.filename).parent.glob("*.yml"):
        for model in yaml.safe_load(listing.read_text()).get("Models", ()):
            if Path(model.get("Config", "")).stem == name and model.get("Weights"):
                return str(model["Weights"])
    return _DETECTORS.get(name)


def load_into(model: torch.nn.Module, file: Path, *, flag: str, config_name: str) -> None:
    """Load a checkpoint into the model of a config. Raises ``UsageError`` where one does not fit the other."""
    state = _current(read_checkpoint(file, flag=flag))
    # Counts of training steps, which older versions of torch did not keep and nothing reads.
    counts = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    advice = "name the config it was trained with: --pose-config DETECTOR,POSE"
    load_weights(model, counts | state, file, flag=flag, name=config_name, advice=advice)


def _current(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by the names of today: without the wrapper of parallel training, without the running averages that
    mmdet 2 kept beside the weights (it saved them exchanged, so that the weights are the averages), and with the head
    as mmpose 1 calls it."""
    named = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key.replace("keypoint_head.", "head.", 1): value
        for key, value in named.items()
        if not key.startswith(("ema_", "data_preprocessor."))
    }
