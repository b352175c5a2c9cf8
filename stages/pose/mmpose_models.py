"""Configs of mmpose and mmdet by name, the models they describe, and what a model calls its joints."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.pose import mmcv_compat
from stages.pose.base import PoseConfig
from stages.pose.batches import Batches
from stages.pose.checkpoints import find_weights, load_into
from stages.pose.coco import COCO_JOINTS
from stages.seeded import seeded
from stages.weights import RANDOM
from store.errors import MissingError, UsageError, nearest

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config, ConfigDict


def read_config(name: str) -> Config:
    """The config file ``name``, or the config of that name that ships inside mmpose or mmdet. Builds no model.

    Raises ``UsageError`` where there is none, ``MissingError`` where the model needs a package that is not installed.
    """
    file = Path(name) if name.endswith(".py") else _shipped(name)
    if not file.is_file():
        raise UsageError(f"--pose-config names {name!r}, which is not a file; allowed: a config file or name")
    mmcv_compat.require_packages()
    from mmengine.config import Config

    config = Config.fromfile(file)
    for package in sorted(_packages(config.model)):
        if importlib.util.find_spec(package) is None:
            raise _missing(package, name, "is not installed")
    return config


def _missing(package: str, config: str, why: str) -> MissingError:
    return MissingError(
        f"{config} is built of parts of {package}, which {why}; install it with pip install {package}, or choose "
        "RTMPose, HRNet or RTMO",
        kind="missing-package",
    )


def _packages(model: Any) -> set[str]:
    """Packages that a model's parts are from beside its own (``type='mmpretrain.VisionTransformer'``)."""
    if isinstance(model, list | tuple):
        return set().union(*map(_packages, model))
    if not isinstance(model, dict):
        return set()
    scope, dot, _ = str(model.get("type", "")).partition(".")
    return ({scope} if dot else set()).union(*map(_packages, model.values()))


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


def build(config: Config, *, weights: str | None, flag: str, seed: int, device: str) -> torch.nn.Module:
    """The model of a config, in evaluation mode on ``device``, with ``weights`` (a file; ``none``: random;
    None: the published ones)."""
    mmcv_compat.install()
    import mmdet.models  # noqa: F401  (fills the registry)
    import mmpose.models  # noqa: F401
    from mmdet.registry import MODELS as DETECTORS
    from mmengine.model.utils import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmpose.registry import MODELS as ESTIMATORS

    for package in sorted(_packages(config.model)):
        try:
            importlib.import_module(f"{package}.models")  # fills its registry
        except ImportError as error:
            raise _missing(package, name_of(config), f"cannot be imported ({error})") from None
    registry = ESTIMATORS if config.get("default_scope") == "mmpose" else DETECTORS
    with seeded(seed), DefaultScope.overwrite_default_scope(registry.scope):
        model = revert_sync_batchnorm(registry.build(copy.deepcopy(config.model)))  # building edits its config
    if weights == RANDOM and float(model.data_preprocessor.std.max()) == 1:
        # Made for values of 0..255, which trained weights bring down; initial ones would let them overflow.
        next(model.backbone.parameters()).data.div_(255)
    if weights != RANDOM:
        load_into(model, find_weights(weights, config=config, flag=flag), flag=flag, config_name=name_of(config))
    return model.to(device).eval()


def accelerated(model: Any, width: int, height: int) -> Any:
    """The same model made faster, for pictures of one size: the batch norms of its trunk in the convolutions before
    them, and its weights in the layout that convolutions are fastest in (on two cores RTMPose-t takes 0.6 of its time).

    A trunk whose norms do not follow their convolutions would compute something else: it keeps them. So do heads, which
    share convolutions between levels.
    """
    import torch
    from mmcv.cnn.utils import fuse_conv_bn

    from stages.batching import one_thread

    device = next(model.parameters()).device
    probe = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0)).to(device)
    fused = copy.deepcopy(model)
    for part in ("backbone", "neck"):
        if getattr(fused, part, None) is not None:
            fuse_conv_bn(getattr(fused, part))
    with one_thread(), torch.inference_mode():
        pairs = zip(_tensors(model.extract_feat(probe)), _tensors(fused.extract_feat(probe)), strict=True)
        same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in pairs)
    return (fused if same else model).to(memory_format=torch.channels_last)


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested lists and tuples."""
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else [value]


def name_of(config: Config) -> str:
    """The name of a config's file, without its ending."""
    return Path(config.filename).stem


def short_name(config: str) -> str:
    """A config's name without the schedule that is in it: ``rtmpose-m_coco-256x192``."""
    return re.sub(r"_\d+xb\d+-\d+e", "", Path(config).stem)


def batches(config: PoseConfig, device: torch.device) -> Batches:
    """How batches run: side by side on the threads of a CPU, one after the other on another device."""
    import cv2

    cv2.setNumThreads(1)  # its crops are in these threads already
    return Batches(config.threads if device.type == "cpu" else 1)


def run(model: torch.nn.Module, inputs: Sequence[torch.Tensor], samples: list[Any]) -> list[Any]:
    """What a model's ``test_step`` finds (``pred_instances``) in pictures uint8 [3, H, W] (RGB), all of one size."""
    import torch

    bgr = torch.stack(list(inputs)).flip(1)  # as the models expect it, whichever order they are trained on
    with torch.inference_mode():
        results = model.test_step({"inputs": bgr, "data_samples": samples})  # type: ignore[operator]
    return [result.pred_instances for result in results]


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
        raise UsageError(
            f"pose config {name!r} is not in mmpose or mmdet, and a file ends in .py{nearest(name, found)}"
        )
    return found[name]


def skeleton(config: Config) -> tuple[dict[int, int], list[int]]:
    """Which of a model's joints each COCO joint is, by name, and the permutation of its joints in a mirror."""
    from mmpose.apis.inference import dataset_meta_from_config

    meta = dataset_meta_from_config(config)
    kept = config.model.test_cfg.get("output_keypoint_indices") or range(len(meta["keypoint_id2name"]))
    names = [meta["keypoint_id2name"][joint] for joint in kept]
    joints = {coco: names.index(name) for coco, name in enumerate(COCO_JOINTS) if name in names}
    if not joints:
        raise UsageError(f"{name_of(config)} knows none of COCO's joints; choose a model of the human body")
    return joints, list(meta["flip_indices"])
