"""Class names, prompts, kinds of tokens and word embeddings."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer, tokenize

from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.models import ResolvedModel, build_model, resolve_model
from stages.clip.templates import DEFAULT_TEMPLATES
from stages.clip.text import encode_text, prompt_tokens, readable, text_arrays, text_modality
from store.errors import UsageError
from store.features import END, NAME, PAD, START, TEMPLATE

NAMES = ("ApplyEyeMakeup", "brush_hair", "YoYo", "TaiChi")
TEMPLATES = ("a video of a person {}.", "{}")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny() -> ResolvedModel:
    return resolve_model("tiny", "none")


def changed(model: ResolvedModel, **config: Any) -> ResolvedModel:
    return dataclasses.replace(model, config={**model.config, **config})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("brush_hair", "brush hair"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("HandstandPushups", "handstand pushups"),
        ("CleanAndJerk", "clean and jerk"),
        ("shake_hands", "shake hands"),
        ("playing ice hockey", "playing ice hockey"),
        ("PlayingNBAGame", "playing nba game"),
        ("  sit__down ", "sit down"),
        ("wave (left)", "wave left"),
        ("jump & run!", "jump & run"),
        ("don't walk, run", "don't walk run"),
    ],
)
def test_readable(name: str, words: str) -> None:
    assert readable(name) == words


def test_kinds_follow_the_tokens() -> None:
    ids, kinds = prompt_tokens(SimpleTokenizer(), "a video of a person {}.", "apply eye makeup", pools_end=True)
    assert torch.equal(ids, tokenize("a video of a person apply eye makeup.")[0])
    assert kinds.tolist() == [START, *[TEMPLATE] * 5, *[NAME] * 3, TEMPLATE, END, *[PAD] * 66]
    assert kinds.dtype == torch.int8


def test_a_name_of_several_tokens_a_word() -> None:
    tokenizer = SimpleTokenizer()
    ids, kinds = prompt_tokens(tokenizer, "{} in a gym", "handstand pushups", pools_end=True)
    assert ids[kinds == NAME].tolist() == tokenizer.encode("handstand pushups")
    assert int((kinds == NAME).sum()) > 2


@pytest.mark.parametrize(
    ("template", "name", "message"),
    [
        ("a video", "run", "give one {}"),
        ("{} and {}", "run", "give one {}"),
        ("{name} runs", "run", "give one {}"),
        ("{}ning", "run", "runs into the name 'run'; set {} apart by spaces"),
        ("a video of {}", " ", "has no word in it"),
        ("a video of {}", "very " * 80, "tokens; allowed: up to 77"),
    ],
)
def test_prompts_that_do_not_serve(template: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompt_tokens(SimpleTokenizer(), template, name, pools_end=True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"custom_text": True},
        {"custom_text": True, "text_cfg": {"width": 64, "heads": 2, "layers": 2, "proj_bias": True}},
    ],
)
def test_words_and_classes_are_the_text_tower_own(tiny: ResolvedModel, change: dict[str, Any]) -> None:
    resolved = changed(tiny, **change)
    model = build_model(resolved, None, 0)
    text = encode_text(model, resolved.config["text_cfg"], NAMES, TEMPLATES, CPU)
    assert text.class_embeddings.shape == (2, 4, 64)
    assert text.word_embeddings.shape == (2, 4, 77, 64)
    for number, template in enumerate(TEMPLATES):
        ids = tokenize([template.replace("{}", readable(name)) for name in NAMES])
        with torch.no_grad():
            wanted = model.encode_text(ids)
        torch.testing.assert_close(text.class_embeddings[number], wanted, rtol=1e-5, atol=1e-6)
        ends = text.word_embeddings[number][text.token_kinds[number] == END]
        torch.testing.assert_close(ends, wanted, rtol=1e-5, atol=1e-6)
    assert text.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert text.logit_bias == 0.0


def test_words_see_what_stands_before_them_only(tiny: ResolvedModel) -> None:
    model = build_model(tiny, None, 0)
    short = encode_text(model, tiny.config["text_cfg"], ["run"], ["{}"], CPU)
    long = encode_text(model, tiny.config["text_cfg"], ["run"], ["{} in a park"], CPU)
    torch.testing.assert_close(short.word_embeddings[0, 0, :2], long.word_embeddings[0, 0, :2])
    assert (short.word_embeddings[0, 0, 2] - long.word_embeddings[0, 0, 2]).abs().max() > 1e-3


def test_a_tower_that_pools_elsewhere_has_no_end_token(tiny: ResolvedModel) -> None:
    text_cfg = {"width": 64, "heads": 2, "layers": 2, "context_length": 76, "embed_cls": True, "output_tokens": True}
    vision_cfg = {**tiny.config["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    multimodal = {"width": 64, "heads": 2, "layers": 1, "context_length": 76, "attn_pooler_heads": 2}
    coca = changed(tiny, custom_text=True, text_cfg=text_cfg, vision_cfg=vision_cfg, multimodal_cfg=multimodal)
    model = build_model(coca, None, 0)
    text = encode_text(model, text_cfg, NAMES, TEMPLATES, CPU)
    assert text.word_embeddings.shape == (2, 4, 76, 64)
    assert not (text.token_kinds == END).any()
    tokenizer = SimpleTokenizer(context_length=76)
    with torch.no_grad():
        wanted = model.encode_text(tokenizer([readable(name) for name in NAMES]), normalize=False)
    torch.testing.assert_close(text.class_embeddings[1], wanted, rtol=1e-5, atol=1e-6)


def test_logit_bias_is_kept(tiny: ResolvedModel) -> None:
    model = build_model(changed(tiny, init_logit_bias=-10.0, nonscalar_logit_scale=True), None, 0)
    assert encode_text(model, tiny.config["text_cfg"], ["run"], ["{}"], CPU).logit_bias == -10.0


def test_a_tokenizer_of_another_kind_is_refused(tiny: ResolvedModel) -> None:
    with pytest.raises(UsageError, match=r"uses the tokenizer timm/ViT-B-16-SigLIP.*take a model with CLIP's own"):
        encode_text(None, resolve_model("ViT-B-16-SigLIP", "none").config["text_cfg"], ["run"], ["{}"], CPU)
    for names, templates in (([], ["{}"]), (["run"], [])):
        with pytest.raises(UsageError, match="give at least one"):
            encode_text(None, tiny.config["text_cfg"], names, templates, CPU)


def test_a_text_set_lies_in_the_group_of_its_model() -> None:
    encoder = ClipEncoder(ClipConfig(model="tiny", pretrained="none", precision="fp32", threads=1))
    text = encoder.encode_text(NAMES)
    modality = text_modality(encoder.modality(), text)
    assert modality.path.startswith(f"{encoder.modality().path}/text/4-classes-1-template-")
    assert not modality.per_video
    assert modality.record["templates"] == list(DEFAULT_TEMPLATES)
    assert modality.record["prompts"][0][0] == "a video of a person apply eye makeup."
    for name, array in text_arrays(text).items():
        assert array.shape == modality.arrays[name].shape
        assert array.dtype == np.dtype(modality.arrays[name].dtype)
    again = text_modality(encoder.modality(), encoder.encode_text(NAMES))
    assert again.id == modality.id
    assert text_modality(encoder.modality(), encoder.encode_text(NAMES[::-1])).id != modality.id
