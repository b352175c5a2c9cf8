"""What models share, whatever they read: fixed batches, and threads that work ahead."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def parallel_batches(device: torch.device, num_threads: int) -> int:
    """Batches side by side; a GPU is given one after the other, each as soon as its frames are on their way."""
    return num_threads if device.type == "cpu" else 1


def single_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Threads for batches side by side, in each of which torch's operators use that thread alone: several on one batch
    would wait for each other after every layer, and the numbers would depend on how many they are."""
    return ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=(1,))


def fixed_batches(blocks: Iterable[Tensor], size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, int]]:
    """Blocks [n, ...] of any n, joined and cut into batches of exactly ``size`` rows of ``dtype``; the last one is
    padded with zeros. Yields each batch with its number of real rows.
    """
    batch, filled = torch.empty(0), 0
    for block in blocks:
        if not len(batch):
            batch = torch.zeros(size, *block.shape[1:], dtype=dtype, device=block.device)
        done = 0
        while done < len(block):
            take = min(size - filled, len(block) - done)
            batch[filled : filled + take].copy_(block[done : done + take])
            filled, done = filled + take, done + take
            if filled == size:
                yield batch, filled
                batch, filled = torch.zeros_like(batch), 0
    if filled:
        yield batch, filled


def map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int
) -> Iterator[Any]:
    """Results of ``function`` in the order of ``items``, of which at most ``ahead`` are taken before they are
    needed."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operators on one thread: on several they wait for whatever else keeps cores busy, and add up in
    another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
