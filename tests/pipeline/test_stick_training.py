"""The training of the embedded CLIP: its parts on made-up numbers, and two steps of it for real."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from pipeline.datasets.synthetic.captions import FACTS, write_caption
from pipeline.stick import train as training
from pipeline.stick.config import StickConfig
from pipeline.stick.frames import Frames, batches, draw_moments, draw_training_frames
from pipeline.stick.train import contrast, locate, persons, save, train
from stages.clip.models import EMBEDDED, STICK, build_model, resolve_model
from stages.clip.towers import VitTokens

SHORT = replace(StickConfig(), subjects=3, frames_a_clip=1, steps=2, batch_size=8)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return draw_training_frames(SHORT, resolve_model(STICK, EMBEDDED).image_size)


def test_the_loss_is_zero_where_everything_true_is_near_and_the_rest_far() -> None:
    images = torch.eye(3)
    texts = torch.eye(3)[[0, 1, 2, 0]]
    true = images @ texts.T > 0.5
    sharp, log_scale = contrast(images, texts, true, torch.tensor(math.log(100.0))), torch.tensor(0.0)
    assert sharp == pytest.approx(0, abs=1e-6)
    assert contrast(images, texts.roll(1, 0), true, torch.tensor(math.log(100.0))) > 10
    # Without any knowledge: what is true of a text is one of three, of an image two of four or one of four.
    blind = contrast(torch.zeros(3, 3), texts, true, log_scale)
    assert blind == pytest.approx((np.mean([math.log(2), math.log(4), math.log(4)]) + math.log(3)) / 2, rel=1e-5)


def test_a_text_that_is_true_of_nothing_pulls_nothing() -> None:
    true = torch.tensor([[True, False], [True, False]])
    texts = torch.randn(2, 4, requires_grad=True)
    loss = contrast(torch.randn(2, 4), texts, true, torch.tensor(0.0))
    assert torch.isfinite(loss)


def test_joints_are_sought_in_their_patch() -> None:
    scores = torch.zeros(1, 36, 17)
    places = torch.zeros(1, 17, 3)
    places[0, 5] = torch.tensor([0.99, 0.4, 1.0])  # column 5, row 2
    places[0, 6] = torch.tensor([1.2, 0.4, 1.0])  # outside of the view
    assert locate(scores, places) == pytest.approx(math.log(36))
    scores[0, 2 * 6 + 5, 5] = 50
    assert locate(scores, places) == pytest.approx(0, abs=1e-6)
    assert locate(scores, torch.zeros(1, 17, 3)) == 0


def test_tokens_under_a_person_are_told_what_that_person_does() -> None:
    joints = torch.zeros(2, 2, 17, 3)
    joints[0, 0, 5] = torch.tensor([0.25, 0.25, 1.0])  # column 1, row 1
    joints[0, 1, 5] = torch.tensor([0.75, 0.25, 1.0])  # column 4, row 1
    joints[1, 0, 5] = torch.tensor([0.5, 0.5, 0.0])  # not seen
    tokens = torch.zeros(2, 6, 6, 2)
    tokens[0, 1, 1, 0] = tokens[0, 1, 4, 1] = 1
    action = tuple(FACTS).index("action")
    facts = np.zeros((2, len(FACTS)), np.int64)
    facts[:, action] = FACTS["action"].index("wave")
    pooled, told = persons(tokens, joints, facts)
    assert [FACTS["action"][value] for value in told[:, action]] == ["wave", "idle"]
    assert pooled.argmax(1).tolist() == [0, 1]


def test_half_of_the_frames_are_of_the_action(frames: Frames) -> None:
    for script in frames.scripts:
        anywhere, acting = draw_moments(script, 8).reshape(2, 4)
        assert (np.diff(anywhere) >= 0).all()
        assert 0 <= anywhere[0] < script.num_frames / 4
        assert script.num_frames * 3 // 4 <= anywhere[-1] < script.num_frames
        assert ((acting >= script.start) & (acting < script.end)).all()


def test_every_row_comes_once_before_any_comes_again() -> None:
    rows = np.concatenate(list(batches(10, 4, 5, np.random.default_rng(0))))
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))


def test_a_tower_in_parts_has_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_fast_bf16", lambda: False)
    model = build_model(resolve_model(STICK, "none"), None, 0).requires_grad_(True)
    visual, joints = model.visual, nn.Linear(128, 17)
    tower = training._Tower(visual, joints)
    images = torch.randn(4, 3, 96, 96)
    leaves = tower(images)
    tokens = leaves[1].detach()
    sum((leaf.square().sum() for leaf in leaves), torch.tensor(0.0)).backward()
    tower.backward(*leaves)
    found = [parameter.grad.clone() for parameter in tower._parameters]
    torch.testing.assert_close(tokens, VitTokens(visual, ("value",))(images)["value"].float(), rtol=1e-2, atol=1e-2)
    pooled, last = visual(images)
    value = tower._extractor.value_tokens()
    for parameter in tower._parameters:
        parameter.grad = None
    sum((x.square().sum() for x in (pooled, value, joints(last))), torch.tensor(0.0)).backward()
    for parameter, gradient in zip(tower._parameters, found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4)


def test_a_mirrored_frame_faces_the_other_way_with_its_joints_swapped(frames: Frames) -> None:
    rows = np.arange(len(frames))
    pixels, facts, joints = training._augmented(frames, rows, np.random.default_rng(0))
    view = tuple(training.FACTS).index("view")
    turned = np.isin(frames.facts[:, view], (training.LEFT, training.RIGHT))
    mirrored = turned & (facts[:, view] != frames.facts[:, view])
    assert 0.25 < mirrored[turned].mean() < 0.75
    for row in np.flatnonzero(mirrored)[:5]:
        # Shifted by a few pixels at most, once mirrored back.
        inner = slice(8, -8)
        shifts = [
            (pixels[row].flip(-1).roll((dy, dx), (1, 2)) - frames.pixels[row].float())[:, inner, inner].abs().max()
            for dy in range(-4, 5)
            for dx in range(-4, 5)
        ]
        assert min(shifts) == 0
        for person in range(2):
            before, after = frames.joints[row, person], joints[row, person]
            if before[5, 2] > 0:  # a shoulder
                assert after[6, 0] == pytest.approx(1 - float(before[5, 0]), abs=0.05)
                assert after[6, 2] == before[5, 2]


def test_captions_are_told_apart_by_the_standard_tokenizer(frames: Frames) -> None:
    captioner = training._Captioner(frames.facts, np.random.default_rng(0))
    facts = frames.facts[:6]
    captions = [write_caption(row, rng) for rng in [np.random.default_rng(2)] for row in facts]
    ids, places, said = captioner.read(captions, np.random.default_rng(1))
    assert said.shape == (3 * len(ids), facts.shape[1])
    tokenizer = open_clip.SimpleTokenizer()
    for caption in captions:  # part by part gives the tokens of the whole
        assert [t for part in caption.parts for t in tokenizer.encode(part)] == tokenizer.encode(caption.text)
    end = captioner.vocabulary[-1]
    assert end == tokenizer.eot_token_id
    for row, place in zip(ids, places[0], strict=True):
        assert captioner.vocabulary[row[place]] == end
        assert int(row.argmax()) == place


def test_training_gives_the_same_weights_again_and_open_clip_loads_them(frames: Frames, tmp_path: Path) -> None:
    model = resolve_model(STICK, EMBEDDED)
    states = [train(model, frames, SHORT, lambda _: None) for _ in range(2)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    path = tmp_path / "w.safetensors"
    save(states[0], path)
    built = build_model(model, path, seed=0)
    assert torch.equal(built.visual.proj, states[0]["visual.proj"].half().float())
