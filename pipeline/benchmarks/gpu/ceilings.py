"""What the device can do at best, measured: matrix products, copies in its memory, copies from the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch

from pipeline.benchmarks.gpu.base import Bench, Need, Row, Work
from stages.precision import DTYPES

GROUP = "ceilings"
PRODUCT, COPY = "matrix product", "copy in the device's memory"
PINNED, PAGEABLE = "host to device, pinned", "host to device, pageable"
BACK = "device to host, pinned"


@dataclass(frozen=True)
class Ceilings:
    """Floating-point operations a second by precision, and bytes a second through the device's memory (read and
    written) and from the host to it (pinned). What was not measured is missing, or None."""

    operations: Mapping[str, float]
    memory: float | None
    upload: float | None

    @staticmethod
    def of(rows: Iterable[Row]) -> Ceilings:
        """The best of what was measured."""
        done = [row for row in rows if row.group == GROUP and row.seconds]
        operations = {
            precision: max(rates)
            for precision in ("bf16", "fp32")
            if (rates := [row.rate for row in done if row.name.startswith(f"{precision} {PRODUCT}")])
        }
        memory, upload = (next((row.rate for row in done if row.name == name), None) for name in (COPY, PINNED))
        return Ceilings(operations, memory, upload)

    def floors(self, need: Need) -> dict[str, float | None]:
        """Seconds that a call takes at the least: for its ``operations``, its ``memory`` and its ``upload``; None where
        it needs nothing, or the ceiling is unknown."""
        rates = (self.operations.get(need.precision), self.memory, self.upload)
        wanted = (need.operations, need.memory, need.upload)
        names = ("operations", "memory", "upload")
        return {n: w / rate if w and rate else None for n, w, rate in zip(names, wanted, rates, strict=True)}

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def run(bench: Bench) -> None:
    """Products of square matrices, and copies."""
    for precision in ("bf16", "fp32"):
        for side in bench.config.matrices:
            bench.time(
                GROUP,
                f"{precision} {PRODUCT}, {side} x {side}",
                partial(_product, bench.device, side, precision),
                count=2 * side**3,
                unit="operations",
            )
    size = bench.config.megabytes << 20
    bench.time(GROUP, COPY, partial(_copy, bench.device, size), count=2 * size, unit="bytes")
    for name, pinned, back in ((PINNED, True, False), (PAGEABLE, False, False), (BACK, True, True)):
        bench.time(
            GROUP,
            name,
            partial(_between, bench.device, size, pinned, back),
            count=size,
            unit="bytes",
        )


def _product(device: torch.device, side: int, precision: str) -> Work:
    # Random numbers: zeros draw less power, and a device that draws less runs faster.
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _copy(device: torch.device, size: int) -> Work:
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _between(device: torch.device, size: int, pinned: bool, back: bool) -> Work:
    host = torch.randint(0, 255, (size,), dtype=torch.uint8)
    if pinned and device.type == "cuda":
        host = host.pin_memory()
    there = torch.empty_like(host, device=device)
    source, target = (there, host) if back else (host, there)
    return lambda: target.copy_(source, non_blocking=pinned)
