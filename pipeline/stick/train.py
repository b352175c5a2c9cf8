"""The training: pairs of frames and captions, where the truth says of every pair in a batch whether it fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, log_softmax, normalize

from pipeline.datasets.synthetic.captions import FACTS, IDLE, Caption, true_of, write_caption, write_prompts
from pipeline.head.pooling import pool_tokens
from pipeline.head.skeleton import mirror_keypoints
from pipeline.stick.config import StickConfig
from pipeline.stick.frames import Frames, batches
from stages.batching import single_threads
from stages.clip.models import ResolvedModel
from stages.clip.towers import VitTokens
from stages.heatmap import render
from stages.pose.coco import NUM_JOINTS
from stages.seeded import seeded

LEFT, RIGHT = (FACTS["view"].index(side) for side in ("left", "right"))
ACTION, VIEW = (tuple(FACTS).index(name) for name in ("action", "view"))
PARTS = 2  # of a batch, see ``_Tower``
BEGINNINGS = 2  # of each caption
PROMPTS, TOKENS, JOINTS = 1.0, 0.5, 0.5  # weights of the losses beside that of the captions
SIGMA = 0.7  # of a joint's Gaussian in cells of the token grid, as heads pool tokens
SHIFT = 4  # pixels that a frame is moved at most in training


@sdpa_kernel(SDPBackend.MATH)  # of few tokens it is faster on a CPU than the flash kernel is, backwards above all
def train(
    resolved: ResolvedModel, frames: Frames, config: StickConfig, note: Callable[[str], None]
) -> dict[str, Tensor]:
    """A state dict of the whole model, float32.

    The loss is contrastive, with all that is true as targets: a caption such as ``a person waving`` fits many frames of
    a batch, and ``someone`` nearly all. Beginnings of captions are captions too, so that every word of a prompt means
    what has been said up to it, which is what the heads that spot words rely on.

    Deterministic on one machine with one number of threads.
    """
    captioner = _Captioner(frames.facts, np.random.default_rng([config.seed, 1]))
    text_config = resolved.config["text_cfg"]
    small = {**resolved.config, "text_cfg": {**text_config, "vocab_size": len(captioner.vocabulary)}}
    with seeded(config.seed):
        model = CLIP(**small)
        joints = nn.Linear(resolved.config["vision_cfg"]["width"], NUM_JOINTS)
    scale = model.logit_scale
    mean, std = (torch.tensor(resolved.preprocess[name]).view(3, 1, 1) * 255 for name in ("mean", "std"))
    tower = _Tower(model.visual, joints)
    whole = nn.ModuleList([model, joints])
    optimizer = torch.optim.AdamW(_groups(whole, config.weight_decay), betas=(0.9, 0.98), fused=True)
    order = batches(len(frames), config.batch_size, config.steps, np.random.default_rng([config.seed, 2]))
    rng = np.random.default_rng([config.seed, 3])
    average = np.zeros(4)
    for step, rows in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        pixels, facts, places = _augmented(frames, rows, rng)
        captions, prompts = [write_caption(row, rng) for row in facts], write_prompts(rng)
        ids, ends, said = captioner.read([*captions, *prompts], rng)
        images, tokens, scores = tower((pixels - mean) / std)
        texts = normalize(_text(model, ids, ends), dim=-1)
        asked = slice(len(captions), len(captions) + len(prompts))
        pooled, who = persons(tokens, places, facts)
        losses = [
            weight * contrast(normalize(seen, dim=-1), texts[read], torch.from_numpy(true_of(of, said[read])), scale)
            for weight, seen, of, read in (
                (1.0, images, facts, slice(None)),
                (PROMPTS, images, facts, asked),
                (TOKENS, pooled, who, asked),
            )
        ]
        losses.append(JOINTS * locate(scores, places[:, 0]))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        tower.backward(images, tokens, scores)
        nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(0, math.log(100))
        average += (np.array([loss.item() for loss in losses]) - average) / min(step + 1, 50)
        if (step + 1) % 100 == 0:
            parts = ", ".join(f"{loss:.3f}" for loss in average)
            note(f"step {step + 1} of {config.steps}: losses of captions, prompts, tokens and joints {parts}")
    return _with_all_tokens(model.state_dict(), captioner.vocabulary, text_config["vocab_size"])


def save(state: dict[str, Tensor], path: Path) -> None:
    """In half precision, which costs no accuracy and halves the file."""
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, path)


def contrast(images: Tensor, texts: Tensor, true: Tensor, log_scale: Tensor) -> Tensor:
    """Cross-entropy of unit images [B, D] and texts [S, D], in both directions; the target is spread evenly over what
    is ``true`` [B, S]. Texts that are true of no image count in one direction alone."""
    logits = log_scale.exp() * images @ texts.T
    losses = []
    for scores, fits in ((logits, true), (logits.T, true.T)):
        target = fits.float() / fits.sum(-1, keepdim=True).clamp_min(1)
        # Less the entropy of the target, which no weights can change.
        entropy = -(target * target.clamp_min(1e-9).log()).sum(-1)
        losses.append((-(target * log_softmax(scores, -1)).sum(-1) - entropy).mean())
    return (losses[0] + losses[1]) / 2


def persons(tokens: Tensor, joints: Tensor, facts: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The mean of ``tokens`` [B, G, G, D] under each person in view, [N, D], and what is true of each, [N, facts]: of a
    second person what is true of the frame, but that they stand idle."""
    pooled, peak = pool_tokens(tokens[:, None], render(joints[:, :, None], tokens.shape[1], sigma=SIGMA))
    others = facts.copy()
    others[:, ACTION] = FACTS["action"].index(IDLE)
    seen = peak > 0
    return pooled[seen], np.stack([facts, others], 1)[seen.numpy()]


def locate(scores: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of the patch that each joint is in: ``scores`` [B, G G, 17], ``places`` [B, 17, 3] as fractions of
    the view and whether the joint is seen; others do not count."""
    side = round(scores.shape[1] ** 0.5)
    x, y, seen = places.unbind(-1)
    known = (seen > 0) & (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    cell = (y * side).long() * side + (x * side).long()
    return cross_entropy(scores.transpose(1, 2)[known], cell[known]) if known.any() else scores.sum() * 0


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class _Tower:
    """The image tower on ``PARTS`` parts of a batch side by side, each on one thread: threads that share a part would
    wait for each other after every layer, as in ``stages.clip.encoder``. The sums do not depend on the machine's cores.

    ``joints`` reads off every patch token of the last layer how much it looks like each joint; it is for training
    alone.
    """

    def __init__(self, visual: Any, joints: nn.Linear) -> None:
        self._visual, self._joints = visual, joints
        self._extractor = VitTokens(visual, ("value",))
        visual.output_tokens = True
        self._parameters = [*visual.parameters(), *joints.parameters()]
        self._threads = single_threads(PARTS, "stick")
        self._outputs: list[tuple[Tensor, ...]] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embeddings [B, D], value tokens [B, G, G, D] and scores of joints [B, G G, 17], float32 leaves without
        history."""
        self._outputs = list(self._threads.map(self._forward, images.chunk(PARTS)))
        columns = zip(*self._outputs, strict=True)
        return tuple(torch.cat([x.detach() for x in column]).requires_grad_() for column in columns)

    def backward(self, *leaves: Tensor) -> None:
        """Give the parameters their gradients from those of what the last call returned."""
        gradients = zip(*(leaf.grad.chunk(PARTS) for leaf in leaves if leaf.grad is not None), strict=True)
        found = list(self._threads.map(self._backward, self._outputs, gradients))
        for parameter, *parts in zip(self._parameters, *found, strict=True):
            parameter.grad = torch.stack(parts).sum(0)

    def _forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # Threads would share the cache of cast weights, and the order of sums depend on which came first.
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(), cache_enabled=False):
            pooled, tokens = self._visual(images)
            return pooled.float(), self._extractor.value_tokens().float(), self._joints(tokens).float()

    def _backward(self, outputs: tuple[Tensor, Tensor], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, self._parameters, gradients)


class _Captioner:
    """Captions as token ids, numbered anew among the tokens that ever occur: the rest would only cost time."""

    def __init__(self, facts: np.ndarray, rng: np.random.Generator) -> None:
        self._tokenizer = SimpleTokenizer()
        self._encoded: dict[str, list[int]] = {}
        for row in facts[rng.integers(len(facts), size=4000)]:
            self._parts(write_caption(row, rng))
        found = {token for tokens in self._encoded.values() for token in tokens}
        special = {0, *self._tokenizer.encode("."), self._tokenizer.sot_token_id, self._tokenizer.eot_token_id}
        self.vocabulary = np.array(sorted(found | special))

    def _parts(self, caption: Caption) -> list[list[int]]:
        return [self._encode(part) for part in caption.parts]

    def _encode(self, text: str) -> list[int]:
        if text not in self._encoded:
            self._encoded[text] = self._tokenizer.encode(text)
        return self._encoded[text]

    def read(self, captions: Sequence[Caption], rng: np.random.Generator) -> tuple[Tensor, Tensor, np.ndarray]:
        """Of S captions ids [S, L]; places [1 + BEGINNINGS, S] in each, its end and the ends of some of its parts; what
        has been said by then, int64 [(1 + BEGINNINGS) S, facts]."""
        rows, places, said = [], [], []
        stop = self._encode(".")
        for caption in captions:
            parts = self._parts(caption)
            ends = np.cumsum([len(part) for part in parts])
            chosen = rng.integers(len(parts), size=BEGINNINGS)
            words = [token for part in parts for token in part] + (stop if rng.random() < 0.5 else [])
            rows.append([self._tokenizer.sot_token_id, *words, self._tokenizer.eot_token_id])
            places.append([len(words) + 1, *ends[chosen]])
            said.append(caption.said[[-1, *chosen]])
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for place, tokens in enumerate(rows):
            ids[place, : len(tokens)] = np.searchsorted(self.vocabulary, tokens)
        statements = np.stack(said, axis=1).reshape(-1, len(FACTS))
        return torch.from_numpy(ids), torch.tensor(np.array(places).T), statements


def _text(model: CLIP, ids: Tensor, places: Tensor) -> Tensor:
    """Embeddings of captions [B, L], read off at ``places`` [P, B]: [P B, D]. What is padding is left out, since no
    token sees what comes after it."""
    length = ids.shape[1]
    hidden = model.token_embedding(ids) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    read = hidden[torch.arange(len(ids)), places]
    return read.flatten(0, 1) @ model.text_projection


def _augmented(frames: Frames, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, np.ndarray, Tensor]:
    """Frames [B, 3, S, S] moved a little, half of them mirrored, with the facts and joints of what is seen then."""
    facts, joints, size = frames.facts[rows].copy(), frames.joints[rows].clone(), frames.pixels.shape[-1]
    moves, mirrored = rng.integers(0, 2 * SHIFT + 1, (len(rows), 2)), rng.random(len(rows)) < 0.5
    wide = np.pad(frames.pixels[rows].numpy(), ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    shown = np.empty((len(rows), 3, size, size), np.float32)
    for out, image, (x, y), mirror in zip(shown, wide, moves, mirrored, strict=True):
        moved = image[:, y : y + size, x : x + size]
        out[:] = moved[..., ::-1] if mirror else moved
    view = facts[:, VIEW]
    facts[:, VIEW] = np.where(mirrored & (view == LEFT), RIGHT, np.where(mirrored & (view == RIGHT), LEFT, view))
    joints[..., :2] += torch.from_numpy(SHIFT - moves).float()[:, None, None] / size
    joints[mirrored] = mirror_keypoints(joints[mirrored])
    return torch.from_numpy(shown), facts, joints


def _schedule(step: int, config: StickConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; gains, biases, embeddings of places and the scale don't."""
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _with_all_tokens(state: dict[str, Tensor], vocabulary: np.ndarray, size: int) -> dict[str, Tensor]:
    """The state of a model with the whole vocabulary: words that were never read are zero, and compress to nothing."""
    known = state["token_embedding.weight"]
    everything = torch.zeros(size, known.shape[1])
    everything[torch.from_numpy(vocabulary)] = known
    return {**state, "token_embedding.weight": everything}
