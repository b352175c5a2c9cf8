"""Seeded random numbers while other threads draw seeded numbers of their own."""

from __future__ import annotations

import threading

import torch

from stages.seeded import seeded


def test_threads_do_not_draw_from_each_others_seed() -> None:
    want = {}
    for seed in range(4):
        with seeded(seed):
            want[seed] = torch.rand(200).tolist()
    found: dict[int, list[float]] = {}
    start = threading.Barrier(4)

    def draw(seed: int) -> None:
        start.wait()
        with seeded(seed):
            found[seed] = [float(torch.rand(1)) for _ in range(200)]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == want


def test_what_was_there_before_goes_on_afterwards() -> None:
    torch.manual_seed(5)
    want = torch.rand(2).tolist()
    torch.manual_seed(5)
    first = float(torch.rand(1))
    with seeded(1):
        torch.rand(3)
    assert [first, float(torch.rand(1))] == want
