"""The store: features of a dataset as large as HMDB51, from files that the page cache holds to the device."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.benchmarks.formats import MadeUp, write_made_up
from pipeline.benchmarks.gpu.base import Bench, Need, call
from stages.transfer import Transfer
from store.reader import FeatureStore

FRAMES, GRID, WIDTH = 16, 7, 512
ARRAYS: dict[str, dict[str, tuple[int, ...]]] = {
    "cls": {"cls": (FRAMES, WIDTH)},
    "cls and 7x7 tokens": {"cls": (FRAMES, WIDTH), "value": (FRAMES, GRID, GRID, WIDTH)},
}

# Bytes from which a way of loading is timed once: what was just written is in the page cache, so it needs no warm-up.
ONCE_FROM = 1e9


def run(bench: Bench) -> None:
    """A store of frame embeddings, then one with tokens too, each loaded in four ways."""
    for what, arrays in ARRAYS.items():
        made_up = MadeUp(bench.config.store_videos, arrays)
        group = f"store to device, {what}, {made_up.nbytes / 1e9:.2f} GB"
        with TemporaryDirectory(prefix="vilp-gpu-") as folder:
            store = Path(folder) / "store"
            bench.time(
                group,
                "written, made up",
                call(write_made_up, store, made_up),
                count=made_up.count,
                unit="videos",
                on_host=True,
                once=True,
            )
            sent = Need(upload=made_up.nbytes)
            for name, way, need in (
                ("to the host alone", partial(_load, "cpu"), Need()),
                ("FeatureStore.load(device=...), pageable", partial(_load, str(bench.device)), sent),
                ("whole, then pinned", _then_pinned, sent),
                ("shard by shard, pinned, copied while the next one is read", _by_shard, sent),
            ):
                bench.time(
                    group,
                    name,
                    call(way, bench.device, store, list(arrays)),
                    count=made_up.count,
                    unit="videos",
                    need=need,
                    on_host=True,
                    once=made_up.nbytes > ONCE_FROM,
                )


def _load(where: str, device: torch.device, store: Path, arrays: list[str]) -> object:
    return FeatureStore.open(store).load(arrays=arrays, device=where).tensors


def _then_pinned(device: torch.device, store: Path, arrays: list[str]) -> object:
    tensors = FeatureStore.open(store).load(arrays=arrays).tensors
    if device.type != "cuda":
        return tensors
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}


def _by_shard(device: torch.device, store: Path, arrays: list[str]) -> object:
    opened, transfer, row = FeatureStore.open(store), Transfer(device), 0
    whole: dict[str, torch.Tensor] = {}
    for features in opened.iter_shards(arrays=arrays):
        for name, tensor in features.tensors.items():
            if name not in whole:
                shape = (opened.videos.num_rows, *tensor.shape[1:])
                whole[name] = torch.empty(shape, dtype=tensor.dtype, device=device)
            whole[name][row : row + len(tensor)] = transfer.send(tensor.numpy())
        row += len(features)
    return whole
