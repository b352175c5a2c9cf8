"""Configs of mmpose and mmdet by name, and their models with weights from a file or from a seed."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.pose import mmcv_compat
from stages.pose.base import file_digest
from stages.seeded import seeded
from store.errors import MissingError, UsageError

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config, ConfigDict

RANDOM = "none"

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
_CHECKPOINTS = {
    "rtmdet_m_640-8xb32_coco-person": "rtmdet_m_8xb32-100e_coco-obj365-person-235e8209.pth",
    "rtmdet_nano_320-8xb32_coco-person": "rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
}


def read_config(name: str) -> Config:
    """The config file ``name``, or the config of that name that ships inside mmpose or mmdet. Builds no model."""
    file = Path(name) if name.endswith(".py") else _shipped(name)
    if not file.is_file():
        raise UsageError(f"--pose-config names {name!r}, which is not a file; allowed: a config file or name")
    mmcv_compat.require_packages()
    from mmengine.config import Config

    return Config.fromfile(file)


def resolved(model: ConfigDict) -> dict[str, Any]:
    """A model's config as plain JSON values, without what plays no part after training."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            skipped = ("init_cfg", "train_cfg")
            return {str(key): plain(part) for key, part in value.items() if key not in skipped}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value if isinstance(value, str | int | float | bool | None) else repr(value)

    return plain(model.to_dict())


def step_of(config: Config, kind: str) -> ConfigDict:
    """The step of type ``kind`` of a config's test pipeline."""
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == kind:
            return step
    raise UsageError(f"{config.filename} has no {kind} in its test pipeline; choose a config that has one")


def build(config: Config, *, weights: str, flag: str, seed: int, device: str) -> torch.nn.Module:
    """The model of a config, in evaluation mode on ``device``, with ``weights`` (a file, or ``none``: random)."""
    mmcv_compat.install()
    import mmdet.models  # noqa: F401  (fills the registry)
    import mmpose.models  # noqa: F401
    from mmdet.registry import MODELS as DETECTORS
    from mmengine.model.utils import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmpose.registry import MODELS as ESTIMATORS

    registry = ESTIMATORS if config.get("default_scope") == "mmpose" else DETECTORS
    with seeded(seed), DefaultScope.overwrite_default_scope(registry.scope):
        model = revert_sync_batchnorm(registry.build(copy.deepcopy(config.model)))  # building edits its config
    if weights != RANDOM:
        _load_weights(model, Path(weights), flag=flag, config_name=name_of(config))
    return model.to(device).eval()


def name_of(config: Config) -> str:
    return Path(config.filename).stem


def digest_of_weights(weights: str | None, *, config: Config, flag: str, seed: int) -> str:
    """SHA-256 of the file, or the seed of random weights. Raises ``MissingError`` where there are none."""
    if weights == RANDOM:
        return f"random-seed-{seed}"
    if not weights or not Path(weights).is_file():
        published = checkpoint_name(config)
        place = weights or f"weights/{published or name_of(config) + '.pth'}"
        what = f"{published} of the mmpose model zoo" if published else "its checkpoint"
        raise MissingError(
            f"no weights for {name_of(config)}: save {what} as {place} and give {flag} {place}", kind="missing-weights"
        )
    return file_digest(Path(weights))


def checkpoint_name(config: Config) -> str | None:
    """File name of the published checkpoint, from the listing beside a shipped config; None where it is not listed."""
    import yaml

    name = name_of(config)
    for listing in Path(config.filename).parent.glob("*.yml"):
        for model in yaml.safe_load(listing.read_text()).get("Models", ()):
            if Path(model.get("Config", "")).stem == name and model.get("Weights"):
                return model["Weights"].rpartition("/")[2]
    return _CHECKPOINTS.get(name)


def _shipped(name: str) -> Path:
    mmcv_compat.require_packages()
    found: dict[str, Path] = {}
    for package, folder in (("mmpose", "configs"), ("mmpose", "demo/mmdetection_cfg"), ("mmdet", "configs")):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for path in sorted((Path(spec.origin).parent / ".mim" / folder).rglob("*.py")):
            found.setdefault(path.stem, path)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3)
        raise UsageError(
            f"pose config {name!r} is not in mmpose or mmdet; close: {', '.join(near) or 'none'}; a file ends in .py"
        )
    return found[name]


def _load_weights(model: torch.nn.Module, file: Path, *, flag: str, config_name: str) -> None:
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
