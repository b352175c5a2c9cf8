"""Random weights from a seed, whoever else builds a model meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's default generator starts from ``seed`` inside, and is as before afterwards.

    All threads of a process share that generator, and stages set up side by side: without the lock they would draw
    from each other's numbers.
    """
    import torch

    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
