"""What an image tower gives: the image embedding, and patch tokens in the same forward pass.

There is one extractor for each class of tower. A tower that has none gives the embedding alone, by its own forward
pass; open_clip's plain ViT is run block by block, which leaves out what nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.model import CLIPVisionCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

EPS = 1e-5


def grid_side(tokens: int) -> int:
    """G: the divisor of the token grid's side that is nearest to 7; of two as near, the larger (24 gives 8, not 6)."""
    return min((d for d in range(1, tokens + 1) if tokens % d == 0), key=lambda d: (abs(d - 7), -d))


def why_no_tokens(config: dict[str, Any]) -> str | None:
    """Why the image tower of an open_clip model config has no token extractor, as a noun phrase; None where it has."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    if vision.timm_model_name:
        return f"a timm tower ({vision.timm_model_name})"
    if not isinstance(vision.layers, int):
        return "a ResNet"
    if vision.attentional_pool:
        return "a ViT with attentional pooling"
    changed = (vision.qk_norm, vision.scaled_cosine_attn, vision.scale_heads)
    if vision.block_type == "custom" or any((*changed, vision.scale_attn_inner, vision.scale_attn, vision.scale_fc)):
        return "a ViT with blocks of its own"
    return None


def embed(visual: nn.Module, images: Tensor) -> Tensor:
    """Image embeddings [B, D] of images [B, 3, S, S], as ``encode_image(images, normalize=False)`` gives them."""
    output = visual(images)
    return output[0] if isinstance(output, tuple) else output


class ClsOnly:
    """For any tower, by its own forward pass: ``cls`` [B, D], nothing else."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"cls": embed(self.visual, images).half()}


class VitTokens:
    """For open_clip's plain ViT. Arrays of images [B, 3, S, S], all float16:

    ``cls``     [B, D]        the image embedding, up to rounding what the tower's own forward pass gives
    ``value``   [B, G, G, D]  each patch token through the last block's value path: first norm, value, output
                              projection, final norm, projection to the joint space; no residual, no MLP, no mixing of
                              tokens (MaskCLIP, arXiv 2112.01071, section 3.2)
    ``penult``  [B, G, G, W]  each patch token of the last block but one, with mean 0 and variance 1 over its channels
                              (layer norm without parameters)
    ``last``    [B, G, G, D]  each patch token of the last block, through the final norm and the projection, as the
                              class token goes

    Where the class token alone makes the embedding and ``last`` is not asked for, no other token goes through the last
    block: that saves a fourteenth of a tower of twelve blocks.

    Tokens are averaged over squares of the token grid to G x G. For ``value`` and ``last`` that is done before the
    projection, which is linear. The norm and the average of ``penult`` are computed in fp32.
    """

    def __init__(self, visual: VisionTransformer, tokens: Sequence[str]) -> None:
        """Raises ``RuntimeError`` where the tower does not compute what this class takes for granted."""
        self.visual, self.tokens = visual, tuple(tokens)
        self.side = visual.grid_size[0]
        self.grid = grid_side(self.side)
        *self._blocks, self._last = visual.transformer.resblocks
        self._class_alone = visual.pool_type == "tok" and "last" not in tokens
        self._verify()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        tokens = self.before_last(images)
        output = self._class_token(tokens) if self._class_alone else self._last(tokens)
        result = {"cls": self._pooled(output).half()}
        patches = tokens[:, 1:]
        if "value" in self.tokens:
            result["value"] = self.value_tokens(tokens).half()
        if "penult" in self.tokens:
            result["penult"] = self._pool(layer_norm(patches.float(), patches.shape[-1:], eps=EPS)).half()
        if "last" in self.tokens:
            last = self.visual.ln_post(output[:, 1:])
            result["last"] = (self._pool(last) @ self.visual.proj).half()
        return result

    def before_last(self, images: Tensor) -> Tensor:
        """All tokens after the last block but one, the class token first: [B, 1 + L, W]."""
        tokens: Tensor = self.visual._embeds(images)
        for block in self._blocks:
            tokens = block(tokens)
        return tokens

    def _class_token(self, tokens: Tensor) -> Tensor:
        """The class token after the last block, where it attends to all tokens: [B, 1, W]."""
        # Written out: torch's own attention takes another path where queries are not keys, five times as slow in bf16.
        block, attention, width = self._last, self._last.attn, tokens.shape[-1]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        normed = block.ln_1(tokens)
        query = linear(normed[:, :1], weight[:width], bias[:width])
        keys, values = linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        by_head = [x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (query, keys, values)]
        mixed = scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
        token = tokens[:, :1] + block.ls_1(attention.out_proj(mixed))
        return token + block.ls_2(block.mlp(block.ln_2(token)))

    def _pooled(self, output: Tensor) -> Tensor:
        """The embedding [B, D] that the tower makes of what comes out of the last block."""
        return self.visual._pool(output)[0] @ self.visual.proj

    def value_tokens(self, tokens: Tensor) -> Tensor:
        """``value`` of the tokens of ``before_last``, in the precision of the tower."""
        value = self.visual.ln_post(self._value(self._last.ln_1(tokens[:, 1:])))
        return self._pool(value) @ self.visual.proj

    def _value(self, normed: Tensor) -> Tensor:
        """The attention branch where every token attends to itself alone; [B, L, W]."""
        attention, width = self._last.attn, normed.shape[-1]
        bias = attention.in_proj_bias[2 * width :] if attention.in_proj_bias is not None else None
        value = linear(normed, attention.in_proj_weight[2 * width :], bias)
        return self._last.ls_1(attention.out_proj(value))

    def _pool(self, tokens: Tensor) -> Tensor:
        """[B, side * side, C] averaged to [B, G, G, C]."""
        cell = self.side // self.grid
        return tokens.unflatten(1, (self.grid, cell, self.grid, cell)).mean((2, 4))

    @torch.no_grad()
    def _verify(self) -> None:
        """On a fixed random input: the embedding is that of the tower's own forward pass, and the value path is what
        attention gives to a token that is alone."""
        weight = self.visual.conv1.weight
        size, generator = self.visual.image_size, torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, *size, generator=generator).to(weight)
        expected = embed(self.visual, images)
        tokens = self.before_last(images)
        rebuilt = self._pooled(self._class_token(tokens) if self._class_alone else self._last(tokens))
        lone = self._last.ln_1(tokens[:, 1:2])
        attended = self._last.ls_1(self._last.attn(lone, lone, lone, need_weights=False)[0])
        tolerance = 1e-4 if weight.dtype == torch.float32 else 0.05
        for name, got, want in (("embedding", rebuilt, expected), ("value path", self._value(lone), attended)):
            if not torch.allclose(got.float(), want.float(), rtol=tolerance, atol=tolerance * float(want.abs().max())):
                raise RuntimeError(f"{name} of {type(self.visual).__name__} is not what its token extractor computes")
