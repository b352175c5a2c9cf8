"""Every class of image tower that open_clip has: the stage gives what the model's own ``encode_image`` gives.

Small models of each class, with random weights; under ``slow`` the real ones.
"""

from typing import Any

import numpy as np
import open_clip.factory
import pytest
import torch
from torch.nn.functional import avg_pool2d, layer_norm

from stages.batching import one_thread
from stages.clip.config import TOKENS, ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.models import build_model, resolve_model
from stages.clip.preprocess import Preprocess
from stages.clip.towers import ClassTokenBlock, VitTokens, class_token_alone, grid_side
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import UsageError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32}
COCA = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
TIMM = {"image_size": 224, "timm_model_pretrained": False}
COCA_TEXT = {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}

WITH_TOKENS: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": VIT},
    "vit-quick-gelu": {"vision_cfg": VIT, "quick_gelu": True},
    "vit-layer-scale": {"vision_cfg": {**VIT, "ls_init_value": 0.5}},
    "vit-mean-pool": {"vision_cfg": {**VIT, "pool_type": "avg", "no_ln_pre": True, "pos_embed_type": "sin_cos_2d"}},
    "vit-norm-after-pool": {"vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True}},
    "vit-custom-text": {"vision_cfg": VIT, "custom_text": True},
}
CLS_ONLY: dict[str, dict[str, Any]] = {
    "resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}},
    "coca": {
        "vision_cfg": {**VIT, **COCA},
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "custom-blocks": {"vision_cfg": {**VIT, "qk_norm": True}},
    "convnext": {"vision_cfg": {**TIMM, "timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear"}},
    "siglip": {  # no class token, attention pooling, no projection
        "embed_dim": 192,
        "vision_cfg": {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"},
        "custom_text": True,
        "init_logit_bias": -10,
    },
    "eva": {"vision_cfg": {**TIMM, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token"}},
}
REAL = ["ViT-B-32", "ViT-B-16", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "EVA02-B-16", "PE-Core-T-16-384"]


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in {**WITH_TOKENS, **CLS_ONLY}.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {"embed_dim": 48, "text_cfg": TEXT, **config})


def make_clip(num_frames: int) -> Clip:
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 72, 96, 3), dtype=np.uint8)
    index = np.arange(num_frames, dtype=np.int32)
    return Clip(VideoRef(0, "v", "v.avi"), DecodedVideo(frames, index, index / 25, num_frames, None, 25.0, 96, 72))


def check_cls_is_encode_image(name: str, tokens: tuple[str, ...]) -> None:
    config = ClipConfig(
        model=name,
        pretrained="none",
        num_frames=2,
        tokens=tokens,
        precision="fp32",
        device="cpu",
        batch_size=3,
        threads=2,
    )
    encoder = ClipEncoder(config)
    encoder.setup()
    clip = make_clip(2)
    arrays, specs = encoder([clip]), encoder.modality().arrays
    assert {key: array.shape[1:] for key, array in arrays.items()} == {key: spec.shape for key, spec in specs.items()}

    resolved = resolve_model(name, "none")
    transform = Preprocess(resolved.image_size, **resolved.preprocess)
    (images,) = transform(torch.from_numpy(clip.video.frames), ["center"])
    padded = torch.cat([images, torch.zeros_like(images[:1])])
    model = build_model(resolved, None, 0)
    with torch.no_grad(), one_thread():
        wanted = model.encode_image(padded, normalize=False)[:2].half().numpy()
    if "last_block" in encoder.modality().record:  # computed for the class token alone: equal up to rounding
        np.testing.assert_allclose(arrays["cls"][0, 0], wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    else:
        np.testing.assert_array_equal(arrays["cls"][0, 0], wanted)
    assert np.ptp(wanted, axis=0).max() > 0, "all frames look the same to this model"


@pytest.mark.parametrize("name", WITH_TOKENS)
@pytest.mark.parametrize("tokens", [TOKENS, ("value", "penult"), ()])
def test_plain_vits(name: str, tokens: tuple[str, ...]) -> None:
    check_cls_is_encode_image(name, tokens)


@pytest.mark.parametrize("name", [n if n != "eva" else pytest.param(n, marks=pytest.mark.slow) for n in CLS_ONLY])
def test_towers_without_an_extractor_give_cls_alone(name: str) -> None:
    check_cls_is_encode_image(name, ())
    with pytest.raises(UsageError, match=f"the image tower of {name} is a .* use --tokens ''"):
        ClipEncoder(ClipConfig(model=name, pretrained="none"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_towers(name: str) -> None:
    check_cls_is_encode_image(name, TOKENS if name.startswith("ViT-B-") and "SigLIP" not in name else ())


@pytest.mark.parametrize("name", {**WITH_TOKENS, **CLS_ONLY})
def test_the_last_block_is_computed_whole_where_somebody_reads_it(name: str) -> None:
    config = resolve_model(name, "none").config
    pools_class = name in WITH_TOKENS and name not in ("vit-mean-pool", "vit-norm-after-pool")
    for tokens, read in (((), False), (("value", "penult"), False), (("value", "last"), True)):
        assert class_token_alone(config, tokens) is (pools_class and not read)


@pytest.mark.parametrize("name", ["vit", "vit-quick-gelu", "vit-layer-scale"])
def test_the_class_token_alone_is_that_of_the_whole_block(name: str) -> None:
    block: Any = build_model(resolve_model(name, "none"), None, 0).visual.transformer.resblocks[-1]
    tokens = torch.randn(2, 65, 64, generator=torch.Generator().manual_seed(1))
    for module in (block.ln_1, block.attn, block.ln_2, block.mlp.c_fc):  # biases are 0 before training
        for parameter in (p for n, p in module.named_parameters(recurse=True) if "bias" in n):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    got, whole = ClassTokenBlock(block)(tokens), block(tokens)
    assert got.shape == (2, 1, 64)
    torch.testing.assert_close(got, whole[:, :1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_tokens_are_what_they_are_said_to_be(name: str) -> None:
    """Another way to the same numbers: open_clip's own intermediates, and attention masked to the token itself."""
    visual: Any = build_model(resolve_model(name, "none"), None, 0).visual
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    extractor = VitTokens(visual, TOKENS)
    with torch.no_grad():
        got = extractor(images)
        inner = visual.forward_intermediates(images, indices=[1], output_fmt="NLC", output_extra_tokens=True)
        hidden = torch.cat([inner["image_intermediates_prefix"][0], inner["image_intermediates"][0]], 1)
        last = visual.transformer.resblocks[-1]
        alone = torch.full((65, 65), float("-inf")).fill_diagonal_(0)
        value = visual.ln_post(last.ls_1(last.attention(last.ln_1(hidden), attn_mask=alone))) @ visual.proj
        after = visual.ln_post(visual.transformer(visual._embeds(images))) @ visual.proj
    expected = {"value": value[:, 1:], "penult": layer_norm(hidden[:, 1:], [64], eps=1e-5), "last": after[:, 1:]}
    assert set(expected) == set(TOKENS)
    for name_, tokens in expected.items():
        picture = tokens.unflatten(1, (8, 8)).permute(0, 3, 1, 2)
        wanted = avg_pool2d(picture, 8 // extractor.grid).permute(0, 2, 3, 1)
        torch.testing.assert_close(got[name_].float(), wanted, rtol=2e-3, atol=2e-3)


def test_a_patch_lands_in_its_cell() -> None:
    visual: Any = build_model(resolve_model("vit", "none"), None, 0).visual
    extractor = VitTokens(visual, TOKENS)
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, 16:24, 40:48] = 3.0  # patch row 2, column 5
    difference = {name: (tokens[1] - tokens[0]).float() for name, tokens in extractor(images).items()}
    for name in TOKENS:
        change = difference[name].norm(dim=-1)
        assert divmod(int(change.argmax()), 8) == (2, 5)


@pytest.mark.parametrize("part", ["embedding", "value path"])
def test_a_tower_that_computes_something_else_is_refused(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visual: Any = build_model(resolve_model("vit", "none"), None, 0).visual
    changed = visual if part == "embedding" else visual.transformer.resblocks[-1].attn
    forward = changed.forward

    def other(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        return -output if part == "embedding" else (-output[0], None)

    monkeypatch.setattr(changed, "forward", other)
    with pytest.raises(RuntimeError, match=f"{part} of .* is not what its token extractor computes"):
        VitTokens(visual, TOKENS)


def test_a_tower_that_reads_more_than_its_class_token_is_not_shortened() -> None:
    """Whatever its config says: the embedding has to be the tower's own."""
    visual: Any = build_model(resolve_model("vit-mean-pool", "none"), None, 0).visual
    with pytest.raises(RuntimeError, match="embedding of VisionTransformer is not what"):
        VitTokens(visual, (), class_alone=True)


@pytest.mark.parametrize(
    ("side", "grid"), [(7, 7), (14, 7), (16, 8), (24, 8), (32, 8), (15, 5), (20, 5), (18, 6), (27, 9), (5, 5), (13, 13)]
)
def test_grid_side(side: int, grid: int) -> None:
    assert grid_side(side) == grid
