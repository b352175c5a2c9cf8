"""Classes that name a side, and what becomes of them in a mirror."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_WORDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
_OTHER = {"left": "right", "right": "left"}


class Flips(NamedTuple):
    """Which views are mirror images (bool [V]), and what a mirror makes of each class (int64 [C]): its own number, that
    of the class of the other side, or -1 where the class names a side and the other side is no class."""

    views: Tensor
    classes: Tensor

    def train(self, views: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The drawn views [B] and labels [B] of a batch: a mirror image takes the label of the other side, and one that
        would show no class of the dataset gives way to a view that is not mirrored."""
        mirrored = self.classes[labels]
        plain = (~self.views).nonzero().flatten()
        if len(plain):
            wrong = self.views[views] & (mirrored < 0)
            views = torch.where(wrong, plain[views % len(plain)], views)
        return views, torch.where(self.views[views] & (mirrored >= 0), mirrored, labels)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean over the views of logits [V, N, C]: a mirrored view speaks for the class of the other side, and says
        nothing about a class without one, unless there is no other view."""
        back = torch.where(self.classes < 0, torch.arange(len(self.classes)), self.classes)
        logits = torch.where(self.views[:, None, None], logits[..., back], logits)
        says = ~(self.views[:, None] & (self.classes < 0))
        says = says | ~says.any(dim=0)
        return (logits * says[:, None]).sum(dim=0) / says.sum(dim=0)


def flips(class_names: Sequence[str], views: Sequence[str]) -> Flips | None:
    """How to use mirrored views with these classes; None where every class may be mirrored, or no view is."""
    words = [tuple(word.lower() for word in _WORDS.split(name) if word) for name in class_names]
    number = {name: label for label, name in enumerate(words)}
    mirrored = [number.get(tuple(_OTHER.get(word, word) for word in name), -1) for name in words]
    if "flip" not in views or mirrored == list(range(len(words))):
        return None
    return Flips(torch.tensor([view == "flip" for view in views]), torch.tensor(mirrored))
