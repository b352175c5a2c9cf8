"""Class names through CLIP's text tower: one embedding a class, and one for every token of its prompt.

P-VCS compares frames with the single words of a class, so the store keeps every token position, projected to the joint
space, and what kind of token stands there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from stages.clip.templates import check_template
from store.errors import UsageError
from store.features import END, NAME, PAD, START, TEMPLATE, TextSet
from store.schema import ArraySpec, Modality

BATCH = 32

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


# Signs that would melt into the full stop of a template, as in ``wave (left).``
_BORDER = re.compile(r"[_()\[\]{}]|(?<!\w)[^\w\s&]+|[^\w\s&]+(?!\w)")


def readable(name: str) -> str:
    """A class name as words: ``ApplyEyeMakeup`` and ``apply_eye_makeup`` become ``apply eye makeup``, ``wave (left)``
    becomes ``wave left``."""
    return " ".join(_WORD_START.sub(" ", _BORDER.sub(" ", name)).lower().split())


def prompt_tokens(tokenizer: SimpleTokenizer, template: str, name: str, *, pools_end: bool) -> tuple[Tensor, Tensor]:
    """Token ids (int64 [L]) of ``template`` with ``name`` in place of ``{}``, and their kinds (int8 [L]).

    The parts before, inside and after the name are tokenised on their own and must give the tokens of the whole, or a
    merge across the border would leave it open to which part a token belongs. ``pools_end`` says whether the tower
    reads the class embedding off the end token: only then is that token of kind END, otherwise of kind TEMPLATE.

    Raises ``UsageError`` for a template without exactly one ``{}``, an empty name, a merge across the border, and a
    prompt that does not fit into the context.
    """
    check_template(template)
    before, _, after = template.partition("{}")
    parts = [tokenizer.encode(part) for part in (before, name, after)]
    if not parts[1]:
        raise UsageError(f"class name is {name!r}, which has no word in it; name the class")
    words = [token for part in parts for token in part]
    if words != tokenizer.encode(before + name + after):
        raise UsageError(f"template is {template!r}, which runs into the name {name!r}; set {{}} apart by spaces")
    kinds = [START, *(kind for kind, part in zip((TEMPLATE, NAME, TEMPLATE), parts, strict=True) for _ in part)]
    kinds.append(END if pools_end else TEMPLATE)
    ids = _framed(tokenizer, words, template.replace("{}", name))
    return ids, torch.tensor(kinds + [PAD] * (len(ids) - len(kinds)), dtype=torch.int8)


def _framed(tokenizer: SimpleTokenizer, words: Sequence[int], prompt: str) -> Tensor:
    """Token ids int64 [L] of a prompt between its start and its end token, padded with zeros."""
    ids, length = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id], tokenizer.context_length
    assert length is not None
    if len(ids) > length:
        raise UsageError(f"prompt {prompt!r} has {len(ids)} tokens; allowed: up to {length}; shorten it")
    return torch.tensor(ids + [0] * (length - len(ids)))


@torch.no_grad()
def encode_prompts(model: Any, text_config: Mapping[str, Any], prompts: Sequence[str], device: torch.device) -> Tensor:
    """Texts as they stand through the text tower of an open_clip model: embeddings float32 [N, D], not normalised.

    Raises ``UsageError`` for a tower with another tokenizer than CLIP's own, for a text without a word, and for one
    that does not fit into the context.
    """
    tokenizer = _tokenizer(text_config)
    rows = []
    for prompt in prompts:
        words = tokenizer.encode(prompt)
        if not words:
            raise UsageError(f"text is {prompt!r}, which has no word in it; say what to look for")
        rows.append(_framed(tokenizer, words, prompt))
    return model.to(device).encode_text(torch.stack(rows).to(device), normalize=False).float().cpu()


def _tokenizer(text_config: Mapping[str, Any]) -> SimpleTokenizer:
    """CLIP's own, for a tower's ``text_cfg``."""
    if name := text_config.get("hf_tokenizer_name"):
        raise UsageError(
            f"the text tower uses the tokenizer {name}, with which name and template can't be told apart;"
            " take a model with CLIP's own tokenizer, such as ViT-B-16"
        )
    return SimpleTokenizer(context_length=text_config.get("context_length", 77))


def all_tokens(
    text_config: Mapping[str, Any], class_names: Sequence[str], templates: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """``prompt_tokens`` of every class name in every template, template by template: both [templates * classes, L].

    Raises ``UsageError`` as ``encode_text`` does.
    """
    tokenizer = _tokenizer(text_config)
    if not class_names or not templates:
        raise UsageError(f"there are {len(class_names)} class names and {len(templates)} templates; give at least one")
    nameless = next((name for name in class_names if not readable(name)), None)
    if nameless is not None:
        raise UsageError(f"class name is {nameless!r}, which has no word in it; name the class")
    pairs = [
        prompt_tokens(tokenizer, template, readable(name), pools_end=_pools_end(text_config))
        for template in templates
        for name in class_names
    ]
    ids, kinds = (torch.stack(column) for column in zip(*pairs, strict=True))
    return ids, kinds


def _pools_end(text_config: Mapping[str, Any]) -> bool:
    return not text_config.get("embed_cls", False)


@torch.no_grad()
def encode_text(
    model: Any,
    text_config: Mapping[str, Any],
    class_names: Sequence[str],
    templates: Sequence[str],
    device: torch.device,
    *,
    run: Callable[..., Iterable[tuple[Tensor, Tensor]]] = map,
) -> TextSet:
    """Class names through the text tower of an open_clip model, which must be in fp32.

    ``text_config`` is the model config's ``text_cfg``; ``run`` maps a function over batches of prompts. Raises
    ``UsageError`` for a tower whose tokens can't be told apart, for prompts that ``prompt_tokens`` refuses, and where
    there is no class or no template.
    """
    ids, kinds = all_tokens(text_config, class_names, templates)
    pools_end = _pools_end(text_config)
    model = model.to(device)
    passes = run(partial(_project, model), ids.to(device).split(BATCH))
    classes, words = (torch.cat(column).float().cpu() for column in zip(*passes, strict=True))
    if pools_end:
        ends = words[kinds == END]
        if not torch.allclose(ends, classes, rtol=1e-4, atol=1e-4 * float(classes.abs().max())):
            raise RuntimeError(f"end tokens of {type(model).__name__} do not give its class embeddings")
    shape = (len(templates), len(class_names))
    bias = getattr(model, "logit_bias", None)
    return TextSet(
        class_names=tuple(class_names),
        templates=tuple(templates),
        class_embeddings=classes.unflatten(0, shape),
        word_embeddings=words.unflatten(0, shape),
        token_kinds=kinds.unflatten(0, shape),
        logit_scale=float(model.logit_scale.exp()),
        logit_bias=0.0 if bias is None else float(bias),
    )


def text_modality(parent: Modality, text: TextSet) -> Modality:
    """The group of a text set inside the group of the CLIP model that made it."""
    templates, classes, length, width = text.word_embeddings.shape
    record = {
        "class_names": list(text.class_names),
        "templates": list(text.templates),
        "prompts": [
            [template.replace("{}", readable(name)) for name in text.class_names] for template in text.templates
        ],
        "precision": "fp32",
        "logit_scale": text.logit_scale,
        "logit_bias": text.logit_bias,
    }
    axes = ("template", "class")
    arrays = {
        "class_embeddings": ArraySpec((templates, classes, width), "float32", (*axes, "embed")),
        "word_embeddings": ArraySpec((templates, classes, length, width), "float32", (*axes, "position", "embed")),
        "token_kinds": ArraySpec((templates, classes, length), "int8", (*axes, "position")),
    }
    name = f"{classes}-classes-{templates}-template{'s' if templates > 1 else ''}"
    return Modality("text", name, record, arrays, parent.path)


def text_arrays(text: TextSet) -> dict[str, np.ndarray]:
    """The arrays of ``text_modality``."""
    names = ("class_embeddings", "word_embeddings", "token_kinds")
    return {name: getattr(text, name).numpy() for name in names}


@torch.no_grad()
def _project(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Class embeddings [n, D], as ``encode_text(ids, normalize=False)`` gives them, and word embeddings [n, L, D]."""
    tower = getattr(model, "text", None)
    if tower is None:  # open_clip's CLIP holds the parts of its text tower itself
        tower = model
        output = model.forward_intermediates(text=ids, text_indices=1, normalize=False, normalize_intermediates=True)
    else:
        output = tower.forward_intermediates(ids, indices=1, normalize_intermediates=True, output_fmt="NLC")
    hidden, projection = output["text_intermediates"][-1], tower.text_projection
    words = projection(hidden) if isinstance(projection, nn.Linear) else hidden @ projection
    return output["text_features"], words
