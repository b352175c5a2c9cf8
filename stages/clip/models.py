"""Which CLIP model a name and a choice of weights stand for, and how it is built.

open_clip 3.3 does not adapt a model to its weights: ``ViT-B-16`` with the tag ``openai`` is built with GELU, although
those weights were trained with QuickGELU, and only a warning says so (open_clip issues 771, 915). Here the activation
follows the tag, and what was resolved is what goes into the store's record.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import open_clip
from open_clip.coca_model import CoCa
from open_clip.factory import load_checkpoint
from open_clip.model import CLIP, CLIPVisionCfg, CustomTextCLIP
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from stages.downloads import require_downloads, resolves
from stages.seeded import seeded
from store.errors import MissingError, UsageError, nearest

logger = logging.getLogger(__name__)

TINY: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 128, "patch_size": 32, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}

# A model of our own that comes with its weights, laid out as open_clip lays out a model in a folder; see its card.
STICK, EMBEDDED = "stick", "embedded"
STICK_FOLDER = Path(__file__).with_name("stick")


@dataclass(frozen=True)
class ResolvedModel:
    """A model as it will be built; nothing is loaded yet.

    config      open_clip's model config, with ``quick_gelu`` as the weights need it
    preprocess  mean, std (of pixels in 0..1) and interpolation of the model's own evaluation transform
    tag         open_clip's tag of the weights, or ``embedded``; None where they are a file or random
    file        the weight file, None where they are random or not looked for yet
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    tag: str | None
    file: Path | None

    @property
    def image_size(self) -> int:
        return _square(self.config["vision_cfg"].get("image_size", CLIPVisionCfg.image_size))

    @property
    def embed_dim(self) -> int:
        return int(self.config["embed_dim"])

    @property
    def activation(self) -> str:
        return "quick_gelu" if self.config["quick_gelu"] else "gelu"


def resolve_model(model: str, pretrained: str) -> ResolvedModel:
    """The model that the two options name. Raises ``UsageError`` for a name or tag that does not exist and
    ``MissingError`` for a file that does not."""
    name = model.replace("/", "-")
    config = _config(name)
    if config is None:
        near = nearest(name, ["tiny", STICK, *open_clip.list_models()])
        raise UsageError(f"CLIP model is {model!r}, which open_clip does not know{near}")
    if "hf_model_name" in config["text_cfg"]:
        raise UsageError(
            f"CLIP model is {model!r}, whose text tower is a Hugging Face model; use one with its own tower"
        )
    config.setdefault("quick_gelu", False)

    tags = [EMBEDDED] if name == STICK else list_pretrained_tags_by_model(name)
    if name == STICK and pretrained == EMBEDDED:
        file = STICK_FOLDER / "open_clip_model.safetensors"
        return ResolvedModel(name, config, _preprocess_of_all(name, tags), EMBEDDED, file)
    if pretrained == "none":
        return ResolvedModel(name, config, _preprocess_of_all(name, tags), None, None)
    if tag_config := get_pretrained_cfg(name, pretrained):
        config["quick_gelu"] = bool(tag_config.get("quick_gelu", False))
        return ResolvedModel(name, config, _preprocess(tag_config), pretrained, None)
    file = Path(pretrained)
    if file.is_file():
        _check_activation(name, config, file)
        return ResolvedModel(name, config, _preprocess_of_all(name, tags), None, file)
    if file.suffix or len(file.parts) > 1:
        raise MissingError(
            f"CLIP weights {pretrained!r} are no file; give --clip-pretrained a file, a tag of {name}"
            f" ({', '.join(tags) or 'it has none'}) or none for random weights",
            kind="missing-weights",
        )
    raise UsageError(
        f"CLIP weights are {pretrained!r}; allowed for {name}: {', '.join(tags)}{', ' if tags else ''}"
        f"a weight file, none for random weights{nearest(pretrained, [*tags, 'none'])}"
    )


def find_weights(model: ResolvedModel) -> Path | None:
    """The weight file, downloaded by open_clip where it is not in its cache; None for random weights.

    Raises ``MissingError`` (``missing-weights``) where it can't be had.
    """
    if model.tag is None or model.file is not None:
        return model.file
    source = get_pretrained_cfg(model.name, model.tag)
    hub = source.get("hf_hub", "")
    try:
        if hub and (cached := _cached(hub)):
            return cached
        _check_reachable(hub)
        return Path(download_pretrained(source))
    except Exception as error:  # any of urllib's, huggingface_hub's or open_clip's own
        where = f"open_clip_model.safetensors of huggingface.co/{hub.rstrip('/')}" if hub else source["url"]
        # The file does not say which activation it needs, so the name has to.
        name = f"{model.name}-quickgelu" if _has_quick_gelu_twin(model) else model.name
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingError(
            f"no weights {model.tag!r} for {model.name}: not cached and not downloaded ({reason:.120}); on a machine"
            f" with a network get {where}, put it anywhere here, and pass --clip {name} --clip-pretrained FILE",
            kind="missing-weights",
        ) from None


def build_model(model: ResolvedModel, weights: Path | None, seed: int) -> nn.Module:
    """The whole model in fp32 on the CPU, for evaluation: with ``weights``, or random ones from ``seed``.

    Files are never unpickled beyond tensors. Raises ``UsageError`` for a file that is no checkpoint of this model.
    """
    config = copy.deepcopy(model.config)
    custom = config.pop("custom_text", False)
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False  # no download of other weights on the side
    architecture = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    with seeded(seed):
        built = architecture(**config)
    if weights is not None:
        _load(built, model.name, weights)
    return built.eval().requires_grad_(False)


def _load(built: nn.Module, name: str, weights: Path) -> None:
    if zipfile.is_zipfile(weights):
        with zipfile.ZipFile(weights) as archive:
            scripted = any("/code/" in entry for entry in archive.namelist())
        if scripted:
            raise UsageError(
                f"CLIP weights {str(weights)!r} are a TorchScript archive, as OpenAI published, which can hold code and"
                " is not opened; where you trust it, save torch.jit.load(FILE).state_dict() without its entries"
                " input_resolution, context_length and vocab_size with safetensors.torch.save_file, and use"
                f" --clip {name.removesuffix('-quickgelu')}-quickgelu with that file"
            )
    if weights.suffix in (".npz", ".npy"):
        raise UsageError(f"CLIP weights are {str(weights)!r}; allowed: safetensors or a torch checkpoint")
    try:
        load_checkpoint(built, str(weights), strict=True, weights_only=True)
    except Exception as error:  # unpickling, safetensors, missing keys or shapes: one line for all of them
        raise UsageError(
            f"CLIP weights {str(weights)!r} are no checkpoint of {name} ({error!s:.300}); allowed: safetensors or a"
            " torch checkpoint that loads with weights_only"
        ) from None


def _config(name: str) -> dict[str, Any] | None:
    """open_clip's config of a model, one that may be changed; None where there is no such model."""
    if name == "tiny":
        return copy.deepcopy(TINY)
    if name == STICK:
        return json.loads((STICK_FOLDER / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    return open_clip.get_model_config(name) if ":" not in name else None


def _preprocess(tag_config: dict[str, Any]) -> dict[str, Any]:
    merged = merge_preprocess_dict(PreprocessCfg(), tag_config)
    return {
        "mean": [float(x) for x in merged["mean"]],
        "std": [float(x) for x in merged["std"]],
        "interpolation": merged["interpolation"],
    }


def _preprocess_of_all(name: str, tags: list[str]) -> dict[str, Any]:
    """For weights without a tag: what all tags of the model agree on, else open_clip's default."""
    found = [_preprocess(get_pretrained_cfg(name, tag)) for tag in tags]
    return found[0] if found and all(p == found[0] for p in found) else _preprocess({})


def _has_quick_gelu_twin(model: ResolvedModel) -> bool:
    return model.config["quick_gelu"] and f"{model.name}-quickgelu" in open_clip.list_models()


def _check_activation(name: str, config: dict[str, Any], file: Path) -> None:
    """Weights don't say which activation they were trained with; a wrong one costs accuracy without an error."""
    twin = f"{name}-quickgelu"
    if config["quick_gelu"] or twin not in open_clip.list_models():
        return
    # The names that matter: the file's own, and the repository's in a Hugging Face cache.
    names = [file.name, *(part for part in file.parts if part.startswith("models--"))]
    if any("openai" in part.lower() for part in names):
        raise UsageError(
            f"CLIP weights {str(file)!r} look like OpenAI's, which need QuickGELU, but --clip {name} has GELU;"
            f" use --clip {twin}"
        )
    _say_gelu(file, name, twin)


@functools.cache  # a model is looked up several times in a run
def _say_gelu(file: Path, name: str, twin: str) -> None:
    logger.warning(
        "%s is taken as trained with GELU, as --clip %s says; weights by OpenAI, MetaCLIP or DFN need --clip %s",
        *(file, name, twin),
    )


def _cached(hub: str) -> Path | None:
    """A tag's file in the Hugging Face cache, without asking the network whether there is a newer one."""
    from huggingface_hub import try_to_load_from_cache

    repository, filename = os.path.split(hub)
    names = [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def _check_reachable(hub: str) -> None:
    """Fail at once where there is no network: huggingface_hub would retry for most of a minute."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    require_downloads()
    if HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if hub and not urllib.request.getproxies():
        host = str(urlsplit(ENDPOINT).hostname)
        if not resolves(host):
            raise ConnectionError(f"no network: {host} can't be resolved")


def _square(size: Any) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UsageError(f"CLIP image size is {size}; allowed: models with square inputs")
    return int(sides.pop())
