"""What the embedded CLIP is worth, on people that it has not seen: the figures of its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.datasets.synthetic.captions import ACTIONS, FACTS, IDLE, SEATED, WAYS, held_out, true_of, write_caption
from pipeline.datasets.synthetic.config import CLASSES
from pipeline.datasets.synthetic.script import Script
from pipeline.head.functional import frame_mean_logits
from pipeline.head.metrics import clustered_interval
from pipeline.stick.frames import Frames
from stages.clip.models import ResolvedModel
from stages.clip.templates import DEFAULT_TEMPLATES
from stages.clip.text import encode_text

CAPTIONS = 500  # to choose from, for every frame


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1] with its interval (95%, by subjects), what guessing would give, and of how many."""

    value: float
    interval: tuple[float, float]
    chance: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%}), chance {self.chance:.1%}, of {self.count}"


def measure(model: Any, resolved: ResolvedModel, frames: Frames, new: Frames) -> dict[str, Figure]:
    """Figures of an open_clip model in fp32, on ``frames`` of clips, all zero-shot.

    clips                   top-1: the mean of a clip's frames against the prompts that a store has
    ... seen                the same, of those of them all of whose combinations were shown in training
    ... new                 the same, of the clips of ``new``, whose combinations were not
    ... seen, same classes  of those that were shown, with the classes as frequent as in ``new``: what ``new`` would be
                            if combinations did not matter
    actions                 top-1 of single frames while the action lasts; idling and being seated are answers too
    nearest caption ...     of ``CAPTIONS`` captions of random frames, whether the one nearest to a frame is true of it
    caption is true ...     and the reverse
    """
    text_config = resolved.config["text_cfg"]
    images = _encode(model, resolved, frames)
    sources = np.array([script.subject for script in frames.scripts])
    seen = np.array([not held_out(script) for script in frames.scripts])
    right = _right_clips(model, resolved, frames, images)
    found = {"clips": _figure(right, sources, 1 / len(CLASSES))}
    found["clips, combinations seen"] = _figure(right[seen], sources[seen], 1 / len(CLASSES))
    weights = _class_weights([script for script, shown in zip(frames.scripts, seen, strict=True) if shown], new.scripts)
    found["clips, combinations seen, same classes"] = _figure(right[seen] * weights, sources[seen], 1 / len(CLASSES))
    right = _right_clips(model, resolved, new, _encode(model, resolved, new))
    found["clips, combinations new"] = _figure(
        right, np.array([script.subject for script in new.scripts]), 1 / len(CLASSES)
    )

    images, by_frame = normalize(images, dim=-1), sources[frames.clips]
    action = frames.facts[:, tuple(FACTS).index("action")]
    told = [name for name in ACTIONS if name in WAYS]
    doing = np.isin(action, [ACTIONS.index(name) for name in told if name not in (IDLE, SEATED)])
    text = encode_text(model, text_config, [WAYS[name][0] for name in told], ("a person {}.",), torch.device("cpu"))
    best = (images @ normalize(text.class_embeddings[0], dim=-1).T).argmax(1).numpy()
    right = np.array([ACTIONS.index(name) for name in told])[best] == action
    found["actions of frames"] = _figure(right[doing], by_frame[doing], 1 / len(told))

    rng = np.random.default_rng(0)
    rows = rng.choice(len(frames), CAPTIONS)
    captions = [write_caption(frames.facts[row], rng) for row in rows]
    true = true_of(frames.facts, np.stack([caption.said[-1] for caption in captions]))
    ids = SimpleTokenizer()([f"{caption.text}." for caption in captions])
    texts = torch.cat([model.encode_text(part) for part in ids.split(64)]).detach()
    scores = images @ normalize(texts, dim=-1).T
    right = true[np.arange(len(frames)), scores.argmax(1).numpy()]
    found["nearest caption is true"] = _figure(right, by_frame, float(true.mean()))
    right = true[scores.argmax(0).numpy(), np.arange(CAPTIONS)]
    found["caption is true of the nearest frame"] = _figure(right, by_frame[rows], float(true.mean()))
    return found


def _encode(model: Any, resolved: ResolvedModel, frames: Frames) -> Tensor:
    scale, shift = (torch.tensor(resolved.preprocess[name]).view(3, 1, 1) * 255 for name in ("std", "mean"))
    return torch.cat([model.encode_image((part - shift) / scale) for part in frames.pixels.split(64)]).detach()


def _right_clips(model: Any, resolved: ResolvedModel, frames: Frames, images: Tensor) -> np.ndarray:
    text = encode_text(model, resolved.config["text_cfg"], CLASSES, DEFAULT_TEMPLATES, torch.device("cpu"))
    labels = np.array([CLASSES.index(script.class_name) for script in frames.scripts])
    by_clip = images.unflatten(0, (len(frames.scripts), -1))
    return np.asarray(frame_mean_logits(by_clip, text.class_embeddings[0]).argmax(1).numpy() == labels)


def _class_weights(scripts: Sequence[Script], like: Sequence[Script]) -> np.ndarray:
    """A weight for each of ``scripts``, of mean 1, that makes their classes as frequent as among ``like``."""
    wanted, given = (Counter(script.class_name for script in some) for some in (like, scripts))
    weights = np.array([wanted[script.class_name] / given[script.class_name] for script in scripts])
    return np.asarray(weights / weights.mean())


def _figure(right: np.ndarray, sources: np.ndarray, chance: float) -> Figure:
    low, high = clustered_interval(right.astype(float), [str(source) for source in sources])
    return Figure(float(right.mean()), (low, high), float(chance), len(right))
