"""Transformers over the time axis of frame embeddings."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """CLIP's activation, ``x sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm transformer block as in CLIP."""

    def __init__(self, dim: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(dim, expansion * dim), gelu=QuickGELU(), c_proj=nn.Linear(expansion * dim, dim))
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """A stack of blocks."""

    def __init__(self, dim: int, heads: int, expansion: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(dim, heads, expansion) for _ in range(layers))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, padding)
        return x


class TemporalTransformer(nn.Module):
    """BIKE's temporal transformer: ``Tr(v + pos) + v`` over raw frame embeddings [B, T, D].

    Six layers as published. Its parameter names are the published ones without their module prefix, so a published
    state loads as it is. It is not the identity at the start.
    """

    def __init__(self, dim: int, *, layers: int = 6, positions: int = 77, expansion: int = 4) -> None:
        super().__init__()
        heads = dim // 64 if dim % 64 == 0 else 1
        self.frame_position_embeddings = nn.Embedding(positions, dim)
        nn.init.normal_(self.frame_position_embeddings.weight, std=0.02)
        self.transformer = Blocks(dim, heads, expansion, layers)

    def updates(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the layers add to their input: ``Tr(v + pos) - (v + pos)``; where ``mask`` is False is unseen."""
        start = self._placed(frames)
        return self.transformer(start, None if mask is None else ~mask) - start

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.transformer(self._placed(frames), None if mask is None else ~mask) + frames

    def _placed(self, frames: Tensor) -> Tensor:
        return frames + self.frame_position_embeddings.weight[: frames.shape[1]]
