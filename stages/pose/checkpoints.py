"""Weights of mmpose's models: where they come from, and how they are read.

A file that is named is taken as it is. Otherwise it is the published checkpoint, in ``$VILP_CACHE/weights`` (or
``~/.cache/vilp-pipe/weights``): fetched there once, or put there by hand on a machine without network.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stages.downloads import require_downloads
from stages.pose.base import file_digest
from store.errors import MissingError, UsageError

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

RANDOM = "none"
TIMEOUT = 20  # seconds without a byte

# What trainers leave in a checkpoint beside the weights (loss histories, data set facts). It is read into ``_Inert``.
_BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
    "_codecs.encode",
)

# Person detectors that mmpose configures but whose checkpoints its own listing does not hold.
_ZOO = "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/"
_DETECTORS = {
    "rtmdet_m_640-8xb32_coco-person": f"{_ZOO}rtmdet_m_8xb32-100e_coco-obj365-person-235e8209.pth",
    "rtmdet_nano_320-8xb32_coco-person": f"{_ZOO}rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
}


def cache_directory() -> Path:
    """``$VILP_CACHE/weights``, or ``~/.cache/vilp-pipe/weights``."""
    return Path(os.environ.get("VILP_CACHE") or Path.home() / ".cache" / "vilp-pipe") / "weights"


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
    file = cache_directory() / published
    if not file.is_file():
        try:
            _fetch(url, file)
        except (OSError, ValueError) as error:
            raise MissingError(
                f"no weights for {model}, and {url} cannot be fetched ({error}): put {published} into {file.parent}, "
                f"or give {flag} FILE",
                kind="missing-weights",
            ) from None
    return file


def published_checkpoint(config: Config) -> str | None:
    """Address of the published checkpoint, from the listing beside a shipped config; None where it is not listed."""
    import yaml

    name = Path(config.filename).stem
    for listing in Path(config.filename).parent.glob("*.yml"):
        for model in yaml.safe_load(listing.read_text()).get("Models", ()):
            if Path(model.get("Config", "")).stem == name and model.get("Weights"):
                return str(model["Weights"])
    return _DETECTORS.get(name)


def _fetch(url: str, file: Path) -> None:
    """Fetch a file whole or not at all. Raises ``ValueError`` where it is not what its name says: published names
    hold the first digits of the SHA-256."""
    require_downloads()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(url, timeout=TIMEOUT) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        with open(temporary, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        promised = re.search(r"-([0-9a-f]{8})(?:_\d{8})?\.pth$", file.name)
        if promised and not digest.startswith(promised[1]):
            raise ValueError(f"what came has SHA-256 {digest[:8]}..., not {promised[1]}...")
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def load_weights(model: torch.nn.Module, file: Path, *, flag: str, config_name: str) -> None:
    """Load a checkpoint into the model of a config. Raises ``UsageError`` where one does not fit the other."""
    state = {key: value for key, value in read_checkpoint(file, flag=flag).items() if "data_preprocessor" not in key}
    own = {key: value.shape for key, value in model.state_dict().items()}
    wrong = sorted(key for key in own.keys() | state.keys() if own.get(key) != getattr(state.get(key), "shape", None))
    if wrong:
        raise UsageError(
            f"{flag} is {str(file)!r}, which does not fit {config_name}: {len(wrong)} tensors differ, such as "
            f"{wrong[0]}; name the config it was trained with: --pose-config DETECTOR,POSE"
        )
    model.load_state_dict(state)


def read_checkpoint(file: Path, *, flag: str) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file or a torch checkpoint. Nothing that the file names is imported or called."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # A tuple maps a name in the file to an object of ours, so that even ``getattr`` is harmless.
    inert: list[Callable | tuple[Callable, str]] = [(_Inert, name) for name in _BOOKKEEPING]
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(inert):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants {named[1]}" if named else str(error).partition("\n")[0][:120]
        raise UsageError(
            f"{flag} is {str(file)!r}, which cannot be read as weights alone ({reason}); save its state_dict as "
            "safetensors and name that file"
        ) from None
    return content.get("state_dict", content) if isinstance(content, dict) else {}


class _Inert:
    """Takes the place of any object that is no weight: accepts every argument and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass
