"""What an image tower gives beside the image embedding: patch tokens, in the same forward pass.

There is one extractor for each class of tower; a tower without one gives the embedding alone. The embedding itself is
what the tower's forward pass returns: an extractor listens in, by a hook, and works on what it heard. All that it may
change is the last block of a tower that reads the class token alone (see ``class_token_alone``).
"""

from __future__ import annotations

import threading
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


def class_token_alone(config: dict[str, Any], tokens: Sequence[str]) -> bool:
    """Whether nothing reads what the last block makes of the patch tokens, for an open_clip model config and the tokens
    that are wanted: the tower is a plain ViT that pools by its class token, and ``last`` is not among them."""
    return (
        why_no_tokens(config) is None
        and CLIPVisionCfg(**config["vision_cfg"]).pool_type == "tok"
        and "last" not in tokens
    )


def embed(visual: nn.Module, images: Tensor) -> Tensor:
    """Image embeddings [B, D] of images [B, 3, S, S], as ``encode_image(images, normalize=False)`` gives them."""
    output = visual(images)
    return output[0] if isinstance(output, tuple) else output


class ClsOnly:
    """For any tower: ``cls`` [B, D], nothing else."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"cls": embed(self.visual, images).half()}


class ClassTokenBlock(nn.Module):
    """A block of open_clip's plain ViT for the class token alone, which attends to all tokens: the others give keys and
    values, and go no further. Equal to the first token of the whole block but for rounding."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, attn_mask: None = None) -> Tensor:
        """[B, 1 + L, W] to [B, 1, W]; open_clip's image towers mask nothing."""
        # Written out: torch's own attention takes another path where queries are not keys, five times as slow in bf16.
        block, attention, width = self.block, self.block.attn, tokens.shape[-1]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        normed = block.ln_1(tokens)
        query = linear(normed[:, :1], weight[:width], bias[:width])
        keys, values = linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        by_head = [x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (query, keys, values)]
        mixed = scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
        token = tokens[:, :1] + block.ls_1(attention.out_proj(mixed))
        return token + block.ls_2(block.mlp(block.ln_2(token)))


class VitTokens:
    """For open_clip's plain ViT. Arrays of images [B, 3, S, S], all float16:

    ``cls``     [B, D]        the image embedding
    ``value``   [B, G, G, D]  each patch token through the last block's value path: first norm, value, output
                              projection, final norm, projection to the joint space; no residual, no MLP, no mixing of
                              tokens (MaskCLIP, arXiv 2112.01071, section 3.2)
    ``penult``  [B, G, G, W]  each patch token of the last block but one, with mean 0 and variance 1 over its channels
                              (layer norm without parameters)
    ``last``    [B, G, G, D]  each patch token of the last block, through the final norm and the projection, as the
                              class token goes

    Tokens are averaged over squares of the token grid to G x G. For ``value`` and ``last`` that is done before the
    projection, which is linear. The norm and the average of ``penult`` are computed in fp32.
    """

    def __init__(self, visual: VisionTransformer, tokens: Sequence[str], *, class_alone: bool = False) -> None:
        """``class_alone`` (see ``class_token_alone``) puts a ``ClassTokenBlock`` in place of the tower's last block.
        Raises ``RuntimeError`` where the tower does not compute what this class takes for granted."""
        self.visual, self.tokens = visual, tuple(tokens)
        self.side = visual.grid_size[0]
        self.grid = grid_side(self.side)
        self._heard = threading.local()  # several threads may encode at once, each its own batch
        blocks: Any = visual.transformer.resblocks
        self._last = blocks[-1]
        self._listen_to(self._last)
        shortened = ClassTokenBlock(self._last) if class_alone else None
        self._verify(shortened)
        if shortened is not None:
            self._listen_to(shortened)
            blocks[-1] = shortened

    def _listen_to(self, block: nn.Module) -> None:
        block.register_forward_pre_hook(self._listen)
        block.register_forward_hook(self._listen_after)

    def _listen(self, _block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._heard.tokens = inputs[0]

    def _listen_after(self, _block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._heard.output = output

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        result = {"cls": embed(self.visual, images).half()}
        patches = self._heard.tokens[:, 1:]
        if "value" in self.tokens:
            result["value"] = self.value_tokens().half()
        if "penult" in self.tokens:
            result["penult"] = self._pool(layer_norm(patches.float(), patches.shape[-1:], eps=EPS)).half()
        if "last" in self.tokens:
            tokens = self.visual.ln_post(self._heard.output[:, 1:])
            result["last"] = (self._pool(tokens) @ self.visual.proj).half()
        return result

    def value_tokens(self) -> Tensor:
        """``value`` of the images that this thread has embedded last, in the precision of the tower."""
        tokens = self.visual.ln_post(self._value(self._last.ln_1(self._heard.tokens[:, 1:])))
        return self._pool(tokens) @ self.visual.proj

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
    def _verify(self, shortened: ClassTokenBlock | None) -> None:
        """On a fixed random input: the last block, whole and ``shortened``, pooling and projection make the embedding
        of what the hook heard, and the value path is what attention gives to a token that is alone."""
        weight = self.visual.conv1.weight
        size, generator = self.visual.image_size, torch.Generator().manual_seed(0)
        images = torch.randn(1, 3, *size, generator=generator).to(weight)
        expected = embed(self.visual, images)
        heard = self._heard.tokens
        rebuilt = [self.visual._pool(block(heard))[0] @ self.visual.proj for block in (self._last, shortened) if block]
        lone = self._last.ln_1(heard[:, 1:2])
        attended = self._last.ls_1(self._last.attn(lone, lone, lone, need_weights=False)[0])
        tolerance = 1e-4 if weight.dtype == torch.float32 else 0.05
        pairs = [*(("embedding", found, expected) for found in rebuilt), ("value path", self._value(lone), attended)]
        for name, got, want in pairs:
            if not torch.allclose(got.float(), want.float(), rtol=tolerance, atol=tolerance * float(want.abs().max())):
                raise RuntimeError(f"{name} of {type(self.visual).__name__} is not what its token extractor computes")
