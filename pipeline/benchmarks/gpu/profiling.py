"""Which kernels a call spends the device's time in, and how much of the time the device has any."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.benchmarks.gpu.base import Work

# Kinds of kernels by what their names say, in the order in which they are tried.
KINDS = (
    ("attention", r"flash|fmha|sdpa|scaled_dot_product|attention"),
    ("matrix products", r"gemm|cutlass|nvjet|xmma|sm\d+_.*mma|addmm|::mm\b|::bmm|::linear|convolution|conv2d"),
    ("normalisation", r"layer_?norm|native_layer_norm|rms_?norm"),
    ("softmax", r"softmax"),
    ("copies", r"copy|memcpy|memset|::cat|clone|contiguous"),
)
OTHER = "element by element"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a profile: seconds and launches a call."""

    name: str
    seconds: float
    launches: float


def kind_of(kernel: str) -> str:
    """What a kernel does, going by its name."""
    return next((kind for kind, names in KINDS if re.search(names, kernel, re.IGNORECASE)), OTHER)


def kernels(work: Work, device: torch.device, *, calls: int = 3) -> tuple[list[Kernel], str]:
    """Kernels of a call, the longest first, and torch.profiler's own table. On a CPU: operators."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    work()
    with profile(activities=activities) as profiled:
        for _ in range(calls):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = profiled.key_averages()
    found = [
        Kernel(event.key, getattr(event, by) / 1e6 / calls, event.count / calls)
        for event in averages
        # An operator has its kernels' time too, which would then count twice.
        if getattr(event, by) > 0 and (not on_gpu or _is_on_device(event))
    ]
    return sorted(found, key=lambda kernel: -kernel.seconds), averages.table(sort_by=by, row_limit=25)


def by_kind(found: Iterable[Kernel]) -> dict[str, Kernel]:
    """Seconds and launches of each kind of kernels, the longest first."""
    sums: dict[str, Kernel] = {}
    for kernel in found:
        kind = kind_of(kernel.name)
        before = sums.get(kind, Kernel(kind, 0.0, 0.0))
        sums[kind] = Kernel(kind, before.seconds + kernel.seconds, before.launches + kernel.launches)
    return dict(sorted(sums.items(), key=lambda item: -item[1].seconds))


def busy_share(work: Work, device: torch.device) -> dict[str, float]:
    """How much of the seconds of a call a GPU runs a kernel or a copy, whichever thread asked for it. The profiler
    costs the host time, so the share without it is higher."""
    if device.type != "cuda":
        raise RuntimeError("only a GPU tells when it is busy")
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        began = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    spans = [(e.time_range.start, e.time_range.end) for e in profiled.events() or () if _is_on_device(e)]
    return {"device busy, %": 100 * covered(spans) / 1e6 / seconds, "s, profiled": seconds}


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of what some spans (start, end) cover, where they overlap once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _is_on_device(event: Any) -> bool:
    """Whether it is a kernel or a copy, and not the time between the first and the last of an optimiser's step."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
