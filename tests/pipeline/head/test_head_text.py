"""Prompt templates make an ensemble; a text set can be named where there are several."""

import pytest
import torch

from pipeline.head.functional import spot, unit, vcs_logits
from pipeline.head.text import text_side
from store.features import END, NAME, PAD, START, TEMPLATE, TextSet


def text_set(templates, classes=3, positions=6, dim=16):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([START, TEMPLATE, NAME, NAME, END, PAD], dtype=torch.int8).expand(templates, classes, -1)
    return TextSet(
        class_names=("a", "b", "c"),
        templates=tuple(f"{{}} {number}" for number in range(templates)),
        class_embeddings=torch.randn(templates, classes, dim, generator=generator),
        word_embeddings=torch.randn(templates, classes, positions, dim, generator=generator),
        token_kinds=kinds.clone(),
        logit_scale=100.0,
        logit_bias=0.0,
    )


@pytest.mark.parametrize(("mode", "words"), [("name", 2), ("name+eot", 3), ("all", 6)])
def test_one_template(mode, words):
    text = text_set(1)
    side = text_side(text, mode)
    assert len(side.bank.units) == 3 * words
    torch.testing.assert_close(side.classes, unit(text.class_embeddings[0]))
    torch.testing.assert_close(side.bank.membership.sum(0), torch.ones(3))


def test_several_templates_are_an_ensemble():
    text = text_set(3)
    side = text_side(text, "name")
    assert len(side.bank.units) == 3 * 3 * 2
    torch.testing.assert_close(side.classes, unit(unit(text.class_embeddings).mean(0)))
    # A class is spotted by the words of all its prompts: the same as one prompt with all of them.
    frames = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
    found = spot(unit(frames), side.bank, side.classes, tau=0.05)
    words = text.word_embeddings[:, :, 2:4].transpose(0, 1).flatten(1, 2)
    torch.testing.assert_close(found, vcs_logits(frames, words, side.classes, tau=0.05))
