"""Properties of the head functions that hold for any input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.head.functional import (
    frame_mean_logits,
    inbatch_loss,
    pvcs_joint_logits,
    pvcs_published_logits,
    pvcs_tokens,
    spot_weights,
    unit,
    vcs_logits,
    word_bank,
    word_mask,
)
from pipeline.head.pooling import pool_tokens
from pipeline.head.temporal import TemporalTransformer
from store.errors import UsageError
from store.features import END, NAME, PAD, START, TEMPLATE

torch.set_num_threads(1)


class Case:
    """Random inputs of random sizes; class 0 keeps no word."""

    def __init__(self, seed, batch, frames, classes, words, dim):
        generator = torch.Generator().manual_seed(seed)
        self.frames = torch.randn(batch, frames, dim, generator=generator)
        self.pose = torch.randn(batch, frames, dim, generator=generator)
        self.words = torch.randn(classes, words, dim, generator=generator)
        self.classes = torch.randn(classes, dim, generator=generator)
        self.word_mask = torch.rand(classes, words, generator=generator) < 0.5
        self.word_mask[0] = False
        self.frame_mask = torch.rand(batch, frames, generator=generator) < 0.6
        self.frame_mask[:, 0] = True
        self.presence = torch.rand(batch, frames, generator=generator)
        self.parts = torch.randn(batch, frames, 3, dim, generator=generator)
        self.part_presence = torch.rand(batch, frames, 3, generator=generator)
        self.order = torch.randperm(frames, generator=generator)
        self.generator = generator

    def vcs(self, frames=None, **options):
        return vcs_logits(self.frames if frames is None else frames, self.words, self.classes, **options)


size = st.integers(1, 6)
cases = st.builds(Case, st.integers(0, 2**31), size, size, size, size, st.integers(2, 24))
taus = st.sampled_from([0.01, 0.03, 0.1, 1.0])
quick = settings(max_examples=40, deadline=None, derandomize=True)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@quick
@given(cases, taus)
def test_vcs_is_its_definition(case, tau):
    """The formula, word by word and class by class."""
    expected = torch.zeros(len(case.frames), len(case.classes))
    frames, words, classes = (torch.nn.functional.normalize(x, dim=-1) for x in (case.frames, case.words, case.classes))
    for b in range(len(frames)):
        for c in range(len(classes)):
            kept = [words[c, position] for position in case.word_mask[c].nonzero().flatten()] or [classes[c]]
            weights = sum((frames[b] @ word / tau).softmax(0) for word in kept) / len(kept)
            expected[b, c] = sum(weights[t] * (frames[b, t] @ classes[c]) for t in range(frames.shape[1]))
    close(case.vcs(tau=tau, word_mask=case.word_mask), expected)


@quick
@given(cases, taus)
def test_weights_are_shares(case, tau):
    bank = word_bank(case.words, case.classes, case.word_mask)
    for presence in (None, case.presence + 1e-3):
        weights = spot_weights(unit(case.frames), bank, tau=tau, presence=presence, mask=case.frame_mask)
        assert (weights >= 0).all()
        close(weights.sum(dim=1), torch.ones(len(case.frames), len(case.classes)), atol=1e-5)
        assert (weights[~case.frame_mask] == 0).all()


@quick
@given(cases, taus)
def test_order_of_frames_does_not_matter(case, tau):
    close(case.vcs(case.frames[:, case.order], tau=tau), case.vcs(tau=tau))
    shuffled = pvcs_tokens(case.frames[:, case.order], case.pose[:, case.order], case.presence[:, case.order], 0.7)
    close(case.vcs(shuffled, tau=tau), case.vcs(pvcs_tokens(case.frames, case.pose, case.presence, 0.7), tau=tau))


@quick
@given(cases, taus)
def test_masked_frames_and_words_change_nothing(case, tau):
    before = case.vcs(tau=tau, word_mask=case.word_mask, frame_mask=case.frame_mask)
    frames = torch.where(case.frame_mask[..., None], case.frames, 1e3 * case.pose)
    words = torch.where(case.word_mask[..., None], case.words, -7.0)
    after = vcs_logits(frames, words, case.classes, tau=tau, word_mask=case.word_mask, frame_mask=case.frame_mask)
    assert torch.equal(before, after)
    alone = torch.cat([case.vcs(f[m][None], tau=tau) for f, m in zip(case.frames, case.frame_mask, strict=True)])
    close(case.vcs(tau=tau, frame_mask=case.frame_mask), alone)


@quick
@given(cases, taus)
def test_gates_at_zero_are_vcs(case, tau):
    plain = case.vcs(tau=tau)
    close(case.vcs(pvcs_tokens(case.frames, case.pose, case.presence, 0.0), tau=tau), plain)
    nobody = torch.zeros_like(case.presence)
    close(case.vcs(pvcs_tokens(case.frames, torch.zeros_like(case.pose), nobody, 1.0), tau=tau), plain)
    joint = (case.frames, case.parts, case.part_presence, case.words, case.classes)
    close(pvcs_joint_logits(*joint, beta=0.0, tau=tau), plain)
    published = pvcs_published_logits(case.frames, case.pose, case.words, case.classes, tau=tau, kappa=0.0)
    close(published, case.vcs(tau=2 * tau) / 2)


@quick
@given(cases)
def test_tokens_move_frames_towards_persons_by_their_share(case):
    share = 0.7 * case.presence[..., None]
    close(
        pvcs_tokens(case.frames, case.pose, case.presence, 0.7),
        unit((1 - share) * unit(case.frames) + share * unit(case.pose)),
    )
    close(pvcs_tokens(case.frames, case.pose, torch.ones_like(case.presence), 1.0), unit(case.pose))


@quick
@given(cases)
def test_high_temperature_is_the_mean_of_unit_frames(case):
    mean = unit(case.frames).mean(dim=1) @ unit(case.classes).T
    close(case.vcs(tau=1e6), mean, atol=1e-5)
    tokens = pvcs_tokens(case.frames, case.pose, case.presence, 0.5)
    close(case.vcs(tokens, tau=1e6), tokens.mean(dim=1) @ unit(case.classes).T, atol=1e-5)
    gated = unit(case.frames) * torch.sigmoid(unit(case.pose))
    published = pvcs_published_logits(case.frames, case.pose, case.words, case.classes, tau=1e6)
    close(published, gated.mean(dim=1) @ unit(case.classes).T, atol=1e-5)


@quick
@given(cases, taus)
def test_one_frame_depends_on_neither_words_nor_temperature(case, tau):
    frame = case.frames[:, :1]
    expected = unit(frame[:, 0]) @ unit(case.classes).T
    close(vcs_logits(frame, case.words, case.classes, tau=tau), expected)
    close(vcs_logits(frame, -case.words, case.classes, tau=1.0), expected)
    close(frame_mean_logits(frame, case.classes), expected)


@quick
@given(cases)
def test_presence_weights_the_parts(case):
    """With all frames hidden but one and beta huge, the parts decide; their order does not matter."""
    arguments = (case.words, case.classes)
    logits = pvcs_joint_logits(case.frames, case.parts, case.part_presence, *arguments, beta=2.0)
    flipped = pvcs_joint_logits(case.frames, case.parts.flip(2), case.part_presence.flip(2), *arguments, beta=2.0)
    close(logits, flipped)
    parts_only = vcs_logits(case.parts.flatten(1, 2), *arguments, tau=1e4)
    even = torch.ones_like(case.part_presence)
    close(pvcs_joint_logits(case.frames, case.parts, even, *arguments, beta=1e6, tau=1e4), parts_only, atol=1e-4)


@quick
@given(cases)
def test_gradients_are_finite_with_nobody(case):
    frames, alpha, beta = case.frames.clone().requires_grad_(), torch.zeros((), requires_grad=True), torch.zeros(())
    beta.requires_grad_()
    nobody = torch.zeros_like(case.presence)
    tokens = pvcs_tokens(frames, torch.zeros_like(case.pose), nobody, alpha)
    parts = torch.zeros_like(case.parts)
    joint = pvcs_joint_logits(frames, parts, torch.zeros_like(case.part_presence), case.words, case.classes, beta=beta)
    (vcs_logits(tokens, case.words, case.classes).sum() + joint.sum()).backward()
    for tensor in (frames, alpha, beta):
        assert tensor.grad.isfinite().all()
    assert alpha.grad == 0


def test_an_absent_part_that_matches_best_takes_no_weight():
    """Its score is far above the frames', which must not vanish beside it; its gradient stays finite."""
    word = torch.tensor([[[1.0, 0.0]]])
    frames, parts = torch.tensor([[[-1.0, 0.0], [-0.9, 0.1]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    beta = torch.zeros((), requires_grad=True)
    logits = pvcs_joint_logits(frames, parts, torch.ones(1, 2, 1), word, word[:, 0], beta=beta)
    close(logits.detach(), vcs_logits(frames, word, word[:, 0]))
    logits.sum().backward()
    assert beta.grad.isfinite()
    assert beta.grad > 0


@quick
@given(cases)
def test_pooled_tokens_mirror_with_their_heatmap(case):
    grid = torch.randn(2, 3, 5, 5, 4, generator=case.generator)
    heatmap = torch.rand(2, 3, 5, 5, generator=case.generator)
    heatmap[0, 0] = 0
    pooled, presence = pool_tokens(grid, heatmap)
    mirrored, same = pool_tokens(grid.flip(3), heatmap.flip(3))
    close(mirrored, pooled)
    assert torch.equal(same, presence)
    assert (pooled[0, 0] == 0).all()
    assert presence[0, 0] == 0
    assert presence[1, 0] == heatmap[1, 0].max()
    expected = (heatmap[1, 2, ..., None] * grid[1, 2]).sum((0, 1)) / heatmap[1, 2].sum()
    close(pooled[1, 2], expected, atol=1e-5)


def test_word_modes():
    kinds = torch.tensor([[START, TEMPLATE, NAME, NAME, END, PAD], [START, TEMPLATE, TEMPLATE, END, PAD, PAD]])
    assert word_mask(kinds, "name").int().tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6]
    assert word_mask(kinds).int().tolist() == [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]]
    assert word_mask(kinds, "all").all()
    with pytest.raises(UsageError, match="word mode is 'eot'; allowed: name\\+eot, name, all"):
        word_mask(kinds, "eot")


def test_the_loss_is_symmetric_and_smallest_where_pairs_match():
    labels = torch.tensor([2, 0, 2, 1])
    same = (labels[:, None] == labels[None]).float()
    assert inbatch_loss(10 * same, labels) < 1e-6
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    close(inbatch_loss(logits, labels), inbatch_loss(logits.T, labels))
    assert inbatch_loss(logits, labels) > 0.1


def test_half_precision_frames_give_float32_logits():
    case = Case(0, 2, 4, 3, 5, 16)
    logits = case.vcs(case.frames.half())
    assert logits.dtype == torch.float32
    close(logits, case.vcs(case.frames.half().float()))


def test_bad_arguments_are_named():
    case = Case(0, 2, 4, 3, 5, 16)
    with pytest.raises(UsageError, match=r"tau is 0.* above 0"):
        case.vcs(tau=0.0)
    with pytest.raises(UsageError, match=r"frames \[2, 4, 8\], words \[3, 5, 16\]"):
        case.vcs(case.frames[..., :8])
    with pytest.raises(UsageError, match=r"pose has shape \[2, 3, 16\]"):
        pvcs_published_logits(case.frames, case.pose[:, :3], case.words, case.classes)


def test_the_temporal_transformer_sees_order_and_no_masked_frame():
    torch.manual_seed(0)
    module = TemporalTransformer(64, layers=1, positions=4)
    frames = torch.randn(2, 4, 64)
    assert (module(frames).flip(1) - module(frames.flip(1))).abs().max() > 1e-3
    mask = torch.tensor([[True, True, True, False]] * 2)
    changed = torch.cat([frames[:, :3], 5 + frames[:, 3:]], dim=1)
    close(module.updates(changed, mask)[:, :3], module.updates(frames, mask)[:, :3])
