"""Stored features as a map-style PyTorch dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from store.features import Features


class FeatureDataset(Dataset[dict[str, Any]]):
    """Videos of a store, read when asked for: a sample has the arrays' tensors by name, ``label`` and ``video_id``.

    Batches that a ``DataLoader`` draws are read in one go, shard by shard.
    """

    def __init__(self, slots: Sequence[int], read: Callable[[list[int]], Features]) -> None:
        """``read`` gives the features of ascending slots."""
        self.slots = list(slots)
        self._read = read

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        wanted = [self.slots[index] for index in indices]
        features = self._read(sorted(set(wanted)))
        rows = {int(slot): row for row, slot in enumerate(features.slots)}
        return [
            {
                **{name: tensor[rows[slot]] for name, tensor in features.tensors.items()},
                "label": int(features.labels[rows[slot]]),
                "video_id": features.video_ids[rows[slot]],
            }
            for slot in wanted
        ]
