"""Which number format a model computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(name: str, device: torch.device) -> str:
    """What ``auto`` stands for on a device; other names as they are.

    It goes by what a CPU is, and not by a timing, which would depend on what else runs and could begin another group
    of features in a store when a run is resumed.
    """
    if name != "auto":
        return name
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_fast_bf16()
    return "bf16" if fast else "fp32"


def has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones, as ``cpuinfo`` describes it.

    In AMX tiles it does so about five times faster. AVX-512 alone is not enough: on AMD (Zen 4 and later) bf16 runs at
    twice the rate of fp32, and four times as fast as MKL's fp32, which takes its AVX2 kernels there (460 against 110
    GFLOP/s a core on a Zen 5); on Intel it runs at half the rate of fp32 (80 against 160).
    """
    try:
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    except OSError:
        return False
    facts = {name.strip(): value.split() for name, _, value in lines}
    flags = facts.get("flags", [])
    return "amx_bf16" in flags or (facts.get("vendor_id") == ["AuthenticAMD"] and "avx512_bf16" in flags)


def has_amx() -> bool:
    """Whether torch may use AMX tiles for bf16 on this CPU."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def torch_environment(device: torch.device) -> dict[str, Any]:
    """What can change the last bits of what torch computes on a device."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": has_amx(),
    }
