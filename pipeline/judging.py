"""What the heads of a run say of some videos of a store, and which frames they weigh."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.head.checkpoint import load_head
from pipeline.head.data import Batches, Inputs, Selection, load_inputs
from pipeline.head.late import fuse
from pipeline.head.models import Head, SpottingHead, text_parts
from pipeline.head.other_scores import log_probabilities
from pipeline.head.results import RunResult
from pipeline.head.selection import selected_groups
from pipeline.head.train import predict as logits_of
from stages.cache import cache_in
from store.errors import one_of
from store.groups import Group
from store.reader import FeatureStore


@dataclass(frozen=True)
class Judgement:
    """What is said of N videos.

    slots    int64 [N]
    scores   float32 [N, C]: softmax of the logits, the mean over the heads; not calibrated
    weights  float32 [N, T']: how much each frame weighs in the score of the best class, the mean over the heads; None
             where the heads do not weigh frames by words
    """

    slots: np.ndarray
    scores: np.ndarray
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.slots)


def heads_of(run: RunResult, split: int | None = None) -> list[Head]:
    """The heads of one split of a run, a head a seed; of its first split unless told otherwise."""
    chosen = run.splits[0] if split is None else split
    one_of("split", chosen, run.splits)
    return [load_head(run, chosen, score.seed) for score in run.scores if score.split == chosen]


def judge(
    store: FeatureStore,
    selection: Selection,
    run: RunResult,
    heads: Sequence[Head],
    *,
    slots: Collection[int] | None = None,
    device: str = "cpu",
) -> Judgement:
    """Ask ``heads`` of ``run`` about the videos of a store (of ``slots``, where given) that have features."""
    inputs = _inputs(store, selection, run, slots, device)
    if inputs is None:
        return _nothing(run)
    scores = [logits_of(head.to(device), inputs).softmax(dim=1) for head in heads]
    return _judgement(inputs, torch.stack(scores).mean(dim=0), heads)


def judge_together(
    store: FeatureStore,
    selections: Sequence[Selection],
    runs: Sequence[RunResult],
    pairs: Sequence[tuple[Head, Head]],
    weight: float,
    *,
    device: str = "cpu",
) -> Judgement:
    """Ask pairs of heads, each a head of the first run and one of the second, whose scores have a ``weight`` in late
    fusion, about the videos of a store that have what the first reads. Where the second's features are lacking, the
    first speaks alone, as in ``late_fusion``."""
    inputs, other = (_inputs(store, s, run, None, device) for s, run in zip(selections, runs, strict=True))
    if inputs is None:
        return _nothing(runs[0])
    scores = []
    for one, two in pairs:
        mine = log_probabilities(logits_of(one.to(device), inputs).numpy())
        theirs = np.full_like(mine, np.nan)
        if other is not None:
            found = log_probabilities(logits_of(two.to(device), other).numpy())
            place = {slot: row for row, slot in enumerate(other.slots.tolist())}
            for row, slot in enumerate(inputs.slots.tolist()):
                if slot in place:
                    theirs[row] = found[place[slot]]
        scores.append(torch.from_numpy(fuse(mine, theirs, weight)).softmax(dim=1))
    return _judgement(inputs, torch.stack(scores).mean(dim=0).float(), [one for one, _ in pairs])


def _inputs(
    store: FeatureStore, selection: Selection, run: RunResult, slots: Collection[int] | None, device: str
) -> Inputs | None:
    """What the heads of a run read of the videos that have features; None where none has."""
    looked_at: Any = store if slots is None else _Some(store, slots)
    if not looked_at.usable(selected_groups(store, selection)):
        return None
    with own_cache():
        return load_inputs(looked_at, selection, run.config, split=None, subset=None, device=device)  # type: ignore[arg-type]


def _nothing(run: RunResult) -> Judgement:
    return Judgement(np.zeros(0, np.int64), np.zeros((0, len(run.class_names)), np.float32), None)


def _judgement(inputs: Inputs, scores: torch.Tensor, heads: Sequence[Head]) -> Judgement:
    weights = [frame_weights(head, inputs, scores.argmax(dim=1)) for head in heads]
    known = [weight for weight in weights if weight is not None]
    return Judgement(inputs.slots.numpy(), scores.numpy(), torch.stack(known).mean(dim=0).numpy() if known else None)


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Keep tokens that are pooled meanwhile in a temporary folder: they are of a few videos alone, and would take the
    place of those of the whole store."""
    with tempfile.TemporaryDirectory(prefix="vilp-pooled-") as folder, cache_in(folder):
        yield


@torch.no_grad()
def frame_weights(head: Head, inputs: Inputs, classes: torch.Tensor) -> torch.Tensor | None:
    """Weight of each frame of the first view for the class of ``classes`` [N]: float32 [N, T'], on the CPU. None where
    the head weighs no frames by words."""
    part = next((part for part in text_parts(head) if isinstance(part, SpottingHead)), None)
    if part is None:
        return None
    batches, found = Batches(inputs), []
    for rows in torch.arange(len(inputs)).split(64):
        weights = part.frame_weights(batches.take(rows, torch.zeros_like(rows), inputs.segments(len(rows)))).cpu()
        found.append(weights[torch.arange(len(rows)), :, classes[rows]])
    return torch.cat(found)


class _Some:
    """A store of which only some videos are looked at."""

    def __init__(self, store: FeatureStore, slots: Collection[int]) -> None:
        self._store, self._slots = store, frozenset(slots)

    def usable(self, groups: Sequence[Group]) -> list[int]:
        return [slot for slot in self._store.usable(groups) if slot in self._slots]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
