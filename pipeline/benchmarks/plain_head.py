"""The plain training script that one would write otherwise: what the benchmark of heads compares with."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, layer_norm, normalize
from torch.utils.data import DataLoader, Dataset

BATCH, BOTTLENECK, TAU = 128, 64, 0.01


class Files(Dataset[tuple[Tensor, int]]):
    """``<label>-*.npy`` of a folder: frames [T, D] and label of each."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        return torch.from_numpy(np.load(path)).float(), int(path.name.split("-")[0])


class PlainVcs(nn.Module):
    """VCS, one equation of the paper (BIKE, arXiv 2301.00182) after the other, with what our head learns: a bottleneck
    adapter on the frames, class offsets, the scale.

    ``words`` [C, L, D], ``mask`` bool [C, L], ``classes`` [C, D].
    """

    words: Tensor
    mask: Tensor
    classes: Tensor

    def __init__(self, words: Tensor, mask: Tensor, classes: Tensor, scale: float) -> None:
        super().__init__()
        dim = classes.shape[1]
        self.down, self.up = nn.Linear(dim, BOTTLENECK), nn.Linear(BOTTLENECK, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.offsets = nn.Parameter(torch.zeros_like(classes))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.register_buffer("words", normalize(words, dim=-1))
        self.register_buffer("mask", mask.float())
        self.register_buffer("classes", classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits [B, C] of frames [B, T, D]."""
        v = normalize(frames, dim=-1)
        v = normalize(v + self.up(gelu(self.down(layer_norm(v, v.shape[-1:])))), dim=-1)
        similarity = torch.einsum("btd,cld->bclt", v, self.words)
        saliency = (similarity / TAU).softmax(dim=-1)
        saliency = torch.einsum("bclt,cl->bct", saliency, self.mask) / self.mask.sum(dim=1).view(1, -1, 1)
        video = torch.einsum("bct,btd->bcd", saliency, v)
        cosines = torch.einsum("bcd,cd->bc", video, normalize(self.classes + self.offsets, dim=-1))
        return self.log_scale.exp() * cosines


def train(head: nn.Module, folder: Path, *, epochs: int, device: str) -> None:
    """Train on a folder of files through a DataLoader, AdamW with a cosine."""
    torch.manual_seed(0)
    batches = DataLoader(Files(folder), batch_size=BATCH, shuffle=True)
    head = head.to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for _ in range(epochs):
        for frames, labels in batches:
            loss = cross_entropy(head(frames.to(device)), labels.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
