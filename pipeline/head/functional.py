"""The heads as pure functions on tensors: concept spotting over frames, and the published losses.

Shapes: B videos, T frames, D joint width, C classes, L word positions, J body parts. Embeddings come as the encoder
gives them; every function normalises what it compares. Logits are cosines: a head multiplies them by its scale.
Softmax over time runs in float32 whatever the inputs are.

Sources: VCS and DP from BIKE (Wu et al., arXiv 2301.00182), P-VCS from ViLP (arXiv 2308.03908). P-VCS on tokens and on
body parts is this project's own; docs/method.md has the equations. Functions that take words raise ``UsageError`` where
shapes do not agree or ``tau`` is not above 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, one_hot

from pipeline.head.config import WORD_MODES
from store.errors import UsageError, one_of
from store.features import END, NAME

# Largest exponent kept for a token that does not take part yet: exp(60) is far from overflow in float32.
_MAX_EXPONENT = 60.0
_SMALLEST_NORM = 1e-12


class WordBank(NamedTuple):
    """The word positions in use, of all classes in one list, so that all similarities are one matrix product.

    units       float32 [U, D], L2-normalised
    membership  float32 [U, C], 1 / (words of the class) where the word is the class's, else 0; columns sum to 1
    """

    units: Tensor
    membership: Tensor


def unit(x: Tensor) -> Tensor:
    """``x`` with its last axis L2-normalised, in float32; a zero vector stays zero."""
    x = x.float()
    return x * _inverse_norm(x)


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / norm of the last axis, kept as an axis of length 1.

    A product with it reads half the memory in its backward pass that ``torch.nn.functional.normalize`` does.
    """
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=_SMALLEST_NORM).reciprocal()


def word_mask(token_kinds: Tensor, mode: str = "name+eot") -> Tensor:
    """Which word positions a head reads: bool, same shape as ``token_kinds`` (int [..., L]).

    ``name+eot`` keeps the class name's own tokens and the end token, ``name`` the name's alone, ``all`` every position
    of the context, padding included (as BIKE does).
    """
    one_of("word mode", mode, WORD_MODES)
    if mode == "all":
        return torch.ones_like(token_kinds, dtype=torch.bool)
    return (token_kinds == NAME) | (token_kinds == END) if mode == "name+eot" else token_kinds == NAME


def word_bank(words: Tensor, classes: Tensor, mask: Tensor | None = None) -> WordBank:
    """The positions of ``words`` [C, L, D] that ``mask`` (bool [C, L]) keeps, with the class each belongs to.

    Masked positions are dropped before any product. A class that keeps no word is spotted by its own embedding
    (``classes`` [C, D]).
    """
    mask = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device) if mask is None else mask.bool()
    owner = mask.nonzero()[:, 0]
    wordless = (~mask.any(dim=1)).nonzero()[:, 0]
    units = unit(torch.cat([words[mask], classes[wordless]]))
    membership = one_hot(torch.cat([owner, wordless]), len(classes)).float()
    return WordBank(units, membership / membership.sum(dim=0))


def spot_weights(
    tokens: Tensor, bank: WordBank, *, tau: float, presence: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """How much each token speaks for each class: float32 [B, N, C], non-negative, summing to 1 over N.

    ``tokens`` [B, N, D] are compared with unit words as they are (normalise them first); for every word a softmax over
    the tokens at temperature ``tau``, then the mean over the words of a class. ``presence`` (float [B, N], >= 0)
    multiplies the exponentials, so 0 takes a token out while its gradient stays finite. Where ``mask`` (bool [B, N])
    is False the token takes no part; every video needs one that does.
    """
    return _weights(linear(tokens.float(), bank.units), bank, tau, presence, mask)


def _weights(cosines: Tensor, bank: WordBank, tau: float, presence: Tensor | None, mask: Tensor | None) -> Tensor:
    scores = cosines.float() / tau  # a product under autocast is not float32
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-1), float("-inf"))
    if presence is None:
        weights = scores.softmax(dim=1)
    else:
        # The maximum is over the tokens that take part, or a strong absent token would leave 0 / 0 to the others.
        absent = (presence <= 0).unsqueeze(-1)
        peak = scores.detach().masked_fill(absent, float("-inf")).amax(dim=1, keepdim=True)
        exponentials = presence.float().unsqueeze(-1) * (scores - peak).clamp(max=_MAX_EXPONENT).exp()
        weights = exponentials / exponentials.sum(dim=1, keepdim=True)
    return weights @ bank.membership


def spot(
    tokens: Tensor,
    bank: WordBank,
    class_units: Tensor,
    *,
    tau: float,
    presence: Tensor | None = None,
    mask: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Concept spotting: ``logit[b, c] = sum_n a[b, n, c] <values[b, n], class_units[c]>``, float32 [B, C].

    ``a`` is ``spot_weights`` of the tokens; ``values`` [B, N, D] are the tokens themselves unless given. The weighted
    sum of values (BIKE's e, [B, C, D]) is never built.
    """
    if values is not None:
        weights = _weights(linear(tokens.float(), bank.units), bank, tau, presence, mask)
        return (weights * linear(values.float(), class_units).float()).sum(dim=1)
    # Words and classes in one product: the tokens, which are the large side, are read once.
    cosines = linear(tokens.float(), torch.cat([bank.units, class_units]))
    to_words, to_classes = cosines.split([len(bank.units), len(class_units)], dim=-1)
    return (_weights(to_words, bank, tau, presence, mask) * to_classes.float()).sum(dim=1)


def vcs_logits(
    frames: Tensor,
    words: Tensor,
    classes: Tensor,
    *,
    tau: float = 0.01,
    word_mask: Tensor | None = None,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """Video concept spotting (BIKE, equations 3 to 5): frames weighted by how well they match the words of a class.

    ``frames`` [B, T, D], ``words`` [C, L, D], ``classes`` [C, D]; masks are bool, True where used ([C, L] and [B, T]).
    Returns cosines, float32 [B, C].
    """
    _check(frames, words, classes, tau)
    return spot(unit(frames), word_bank(words, classes, word_mask), unit(classes), tau=tau, mask=frame_mask)


def pvcs_published_logits(
    frames: Tensor, pose: Tensor, words: Tensor, classes: Tensor, *, tau: float = 0.01, kappa: float = 1.0
) -> Tensor:
    """P-VCS as ViLP publishes it: VCS on frames gated by ``pose`` [B, T, D], the CLIP embedding of the heatmap image.

    ``frames`` [B, T, D], ``words`` [C, L, D], ``classes`` [C, D], not normalised; ``tau`` > 0 and ``kappa`` >= 0.
    All word positions take part, as published. ``kappa`` = 0 makes the gate 1/2 everywhere, which is VCS at twice the
    temperature, halved. Returns float32 [B, C].
    """
    _check(frames, words, classes, tau)
    if pose.shape != frames.shape:
        raise UsageError(f"pose has shape {list(pose.shape)}; it must be that of frames, {list(frames.shape)}")
    return spot(gate(unit(frames), pose, kappa), word_bank(words, classes), unit(classes), tau=tau)


def gate(frame_units: Tensor, pose: Tensor, kappa: float = 1.0) -> Tensor:
    """ViLP's gate (arXiv 2308.03908): unit frames [B, T, D] times ``sigmoid(kappa * unit(pose))``, pose [B, T, D]; not
    normalised again."""
    return frame_units * torch.sigmoid(kappa * unit(pose))


def pvcs_tokens(frames: Tensor, pooled: Tensor, presence: Tensor, alpha: Tensor | float) -> Tensor:
    """Frames moved towards what their persons' tokens say: ``unit((1 - alpha q) unit(v) + alpha q unit(z))``.

    ``frames`` and ``pooled`` [B, T, D], ``presence`` q [B, T] in [0, 1], ``alpha`` in [0, 1]. Where nobody is (q = 0,
    z = 0) the frame stays as it is. Returns float32 [B, T, D].
    """
    frames, pooled = frames.float(), pooled.float()
    share = (alpha * presence.float()).unsqueeze(-1)
    # The factors are scalars a frame, so that each large tensor is read once.
    return unit(((1 - share) * _inverse_norm(frames)) * frames + (share * _inverse_norm(pooled)) * pooled)


def pvcs_joint_logits(
    frames: Tensor,
    parts: Tensor,
    presence: Tensor,
    words: Tensor,
    classes: Tensor,
    *,
    beta: Tensor | float,
    tau: float = 0.01,
    word_mask: Tensor | None = None,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """P-VCS on body parts: the softmax runs over frames and over (frame, part) tokens, weights [1 ; beta q].

    ``frames`` [B, T, D], ``words`` [C, L, D], ``classes`` [C, D] and masks are those of ``vcs_logits``; ``parts``
    [B, T, J, D] are pooled tokens of each part, ``presence`` q [B, T, J] in [0, 1]; ``beta`` >= 0, and 0 is VCS.
    Returns float32 [B, C].
    """
    _check(frames, words, classes, tau)
    tokens, weights, mask = joint_tokens(unit(frames), unit(parts), presence, beta, frame_mask)
    return spot(tokens, word_bank(words, classes, word_mask), unit(classes), tau=tau, presence=weights, mask=mask)


def joint_tokens(
    frame_units: Tensor, part_units: Tensor, presence: Tensor, beta: Tensor | float, frame_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Frames [B, T, D] and parts [B, T, J, D] in one list of tokens, with weights [1 ; beta q] and mask: the arguments
    that ``spot`` takes for P-VCS on joints. A hidden frame hides its parts."""
    batch, num_frames, num_parts = presence.shape
    tokens = torch.cat([frame_units, part_units.flatten(1, 2)], dim=1)
    part_weights = (beta * presence.float()).flatten(1)
    weights = torch.cat([part_weights.new_ones(batch, num_frames), part_weights], dim=1)
    if frame_mask is None:
        return tokens, weights, None
    return tokens, weights, torch.cat([frame_mask, frame_mask.repeat_interleave(num_parts, dim=1)], dim=1)


def frame_mean_logits(frames: Tensor, classes: Tensor) -> Tensor:
    """Mean of the frames [B, T, D] as they are, then the cosine with each class [C, D] (BIKE's dot product, "DP"):
    float32 [B, C]."""
    return linear(unit(frames.float().mean(dim=1)), unit(classes))


def inbatch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The published loss: KL to ``softmax(10 * same label)``, mean of the video-to-text and text-to-video directions.

    ``logits`` [B, B] are scaled; column j is the class of video j, whose number is ``labels[j]`` (int [B]). Returns a
    float32 scalar: the mean over the batch.
    """
    targets = (10.0 * (labels[:, None] == labels[None, :]).float()).softmax(dim=1)
    one_way = [(targets * (targets.log() - x.float().log_softmax(dim=1))).sum() for x in (logits, logits.T)]
    return (one_way[0] + one_way[1]) / (2 * len(labels))


def _check(frames: Tensor, words: Tensor, classes: Tensor, tau: float) -> None:
    shapes = f"frames {list(frames.shape)}, words {list(words.shape)}, classes {list(classes.shape)}"
    if (frames.ndim, words.ndim, classes.ndim) != (3, 3, 2):
        raise UsageError(f"shapes are {shapes}; allowed: [B, T, D], [C, L, D] and [C, D]")
    if not frames.shape[-1] == words.shape[-1] == classes.shape[-1] or len(words) != len(classes):
        raise UsageError(f"shapes do not agree on the width or the number of classes: {shapes}")
    if not tau > 0:
        raise UsageError(f"tau is {tau}; allowed: a number above 0")
