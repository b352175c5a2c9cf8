"""Attention pooling over all patch tokens of a video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from store.errors import UsageError

# Added to the heatmap before its logarithm: a cell without anybody is at most log(1e-3) = -6.9 below a joint.
HEATMAP_FLOOR = 1e-3
_SMALLEST_STD = 1e-4


class AttentionPool(nn.Module):
    """One query, several heads, over T x G x G standardised tokens with positions factorised into time and space.

    A head's scores are ``k_h . (x + time + space) + lambda_h log(floor + heatmap)``, lambda = 0 at the start. As there
    is one query, its product with the key projection is one vector ``k_h`` a head: all scores are a single matrix
    product, and neither standardised tokens nor tokens with positions are ever built.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, frames: int, grid: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"pool_heads is {heads}; allowed: divisors of the token width {width}")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.key = nn.Parameter(torch.randn(width, heads) * width**-0.5)
        self.value = nn.Parameter(torch.randn(heads, width, width // heads) * width**-0.5)
        self.time = nn.Parameter(torch.randn(frames, width) * 0.02)
        self.space = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        self.heatmap_weight = nn.Parameter(torch.zeros(heads))

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and standard deviation [W] of the training tokens, channel by channel."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=_SMALLEST_STD))

    def forward(self, tokens: Tensor, heatmap: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``tokens`` [B, T, G, G, W] (float32, or bfloat16 under autocast), ``heatmap`` and ``mask`` (bool, True where
        used) [B, T, G, G] -> [B, W]."""
        batch, frames, grid, _, width = tokens.shape
        x = tokens.reshape(-1, width)
        # The mean shifts all scores of a head alike, which the softmax does not see.
        scores = (x @ (self.key / self.std.unsqueeze(-1))).float().view(batch, frames, grid * grid, -1)
        scores = scores + (self.time @ self.key).unsqueeze(1) + self.space @ self.key
        if heatmap is not None:
            logs = (heatmap.float() + HEATMAP_FLOOR).log().view(batch, frames, -1, 1)
            scores = scores + self.heatmap_weight * logs
        if mask is not None:
            scores = scores.masked_fill(~mask.reshape(batch, frames, -1, 1), float("-inf"))
        weights = scores.flatten(1, 2).softmax(dim=1)
        pooled = weights.transpose(1, 2) @ x.view(batch, -1, width)
        pooled = (pooled - self.mean) / self.std
        grids = weights.view(batch, frames, grid * grid, -1)
        pooled = pooled + grids.sum(dim=2).transpose(1, 2) @ self.time + grids.sum(dim=1).transpose(1, 2) @ self.space
        return torch.einsum("bhw,hwd->bhd", pooled, self.value).flatten(1)
