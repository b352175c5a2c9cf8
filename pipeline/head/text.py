"""The text side of a head, from a stored text set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.head.functional import WordBank, unit, word_bank, word_mask
from store.features import TextSet


class TextSide(NamedTuple):
    """What a head takes from a text set: its words, the unit class embeddings float32 [C, D], the scale of cosines."""

    bank: WordBank
    classes: Tensor
    scale: float


def no_text(num_classes: int) -> TextSide:
    """Classes without words, for heads that compare with none."""
    empty = torch.zeros(num_classes, 0)
    return TextSide(WordBank(torch.zeros(0, 0), torch.zeros(0, num_classes)), empty, 1.0)


def text_side(text: TextSet, word_mode: str = "name+eot") -> TextSide:
    """The text side that reads the given words.

    Several prompt templates make an ensemble: a class is the mean of its unit embeddings, and its words are those of
    all its prompts.
    """
    classes = unit(unit(text.class_embeddings).mean(dim=0))
    words = text.word_embeddings.transpose(0, 1).flatten(1, 2)
    mask = word_mask(text.token_kinds, word_mode).transpose(0, 1).flatten(1, 2)
    return TextSide(word_bank(words, classes, mask), classes, text.logit_scale)
