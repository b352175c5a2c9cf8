"""Stored features as PyTorch datasets: one that reads a video when it is asked for, and one that streams shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from store.errors import UsageError
from store.features import Features

Sample = dict[str, Any]
Read = Callable[[list[int]], Features]


class FeatureDataset(Dataset[Sample]):
    """Videos of a store, read when asked for: a sample has the arrays' tensors by name, ``label`` and ``video_id``.

    A list of indices gives a whole batch: tensors with one row a video, in the order of the list, ``label`` int64 [B]
    and ``video_id``, a list. That saves the copy by which a ``DataLoader`` joins samples, so the fastest way to draw
    batches is ``DataLoader(dataset, batch_size=None, sampler=BatchSampler(RandomSampler(dataset), 256, False))``; with
    ``DataLoader(dataset, batch_size=256, shuffle=True)`` batches are read in one go as well, and joined after.
    Workers may be forked or spawned; forked ones cannot read from a bucket (``multiprocessing_context="spawn"``).
    """

    def __init__(self, slots: Sequence[int], read: Read, shard_len: int) -> None:
        """``read`` gives the features of some slots, in their order; it travels to workers that are spawned."""
        self.slots = list(slots)
        self.read = read
        self._shard_len = shard_len

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int | list[int]) -> Sample:
        if not isinstance(index, list):
            return self.__getitems__([index])[0]
        features = self._features(index)
        return {**features.tensors, "label": features.labels, "video_id": list(features.video_ids)}

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        features = self._features(indices)
        return [_sample(features, row) for row in range(len(features))]

    def _features(self, indices: list[int]) -> Features:
        return self.read([self.slots[index] for index in indices])

    def stream(self, *, buffer: int = 1024, seed: int = 0) -> FeatureStream:
        """The same videos, each once an epoch, shard by shard: see ``FeatureStream``."""
        return FeatureStream(self.slots, self.read, self._shard_len, buffer=buffer, seed=seed)


class FeatureStream(IterableDataset[Sample]):
    """Videos of a store, each once an epoch, read a shard at a time: what a bucket or a spinning disk reads fastest.

    The order follows from ``seed`` and the epoch (``set_epoch``, before each) and the number of workers: shards in a
    random order, and out of a buffer of ``buffer`` videos one at random at a time; ``buffer=1`` keeps the stored
    order. The workers of a ``DataLoader`` share the shards out among themselves; the processes of a distributed run
    do not. A worker holds the features of one shard and of the buffer, never those of the split.

    The videos of a class lie together in most stores, so let the buffer span many shards. From a local disk
    ``DataLoader(store.dataset(...), shuffle=True)`` mixes all videos with each other, and holds one batch.
    """

    def __init__(self, slots: Sequence[int], read: Read, shard_len: int, *, buffer: int, seed: int) -> None:
        if buffer < 1:
            raise UsageError(f"buffer is {buffer}; allowed: 1 or more videos, 1 for the stored order")
        if seed < 0:
            raise UsageError(f"seed is {seed}; allowed: 0 or more")
        self.buffer, self.seed = buffer, seed
        self._read = read
        self._shards: dict[int, list[int]] = {}
        for slot in slots:
            self._shards.setdefault(slot // shard_len, []).append(slot)
        # Shared, so that workers which outlive an epoch hear of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; 0 until told otherwise."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        shards = list(self._shards.values())
        if self.buffer > 1:
            shards = [shards[i] for i in self._generator(0).permutation(len(shards))]
        own = self._samples(shards[number::workers])
        return own if self.buffer == 1 else _shuffled(own, self.buffer, self._generator(1 + number))

    def _samples(self, shards: Sequence[list[int]]) -> Iterator[Sample]:
        for slots in shards:
            features = self._read(slots)
            for row in range(len(slots)):
                sample = _sample(features, row)
                # A row that waits in the buffer must not keep its whole shard alive.
                yield {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in sample.items()}
            del features, sample  # before the next shard is read

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self._epoch), stream])


def _shuffled(samples: Iterator[Sample], buffer: int, generator: np.random.Generator) -> Iterator[Sample]:
    held: list[Sample] = []
    for sample in samples:
        if len(held) < buffer:
            held.append(sample)
            continue
        place = int(generator.integers(buffer))
        drawn, held[place] = held[place], sample
        yield drawn
    while held:
        place = int(generator.integers(len(held)))
        held[place], held[-1] = held[-1], held[place]
        yield held.pop()


def _sample(features: Features, row: int) -> Sample:
    tensors = {name: tensor[row] for name, tensor in features.tensors.items()}
    return {**tensors, "label": int(features.labels[row]), "video_id": features.video_ids[row]}
