"""What has to be the same on every machine that computes for one store: versions and instruction sets."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store.errors import StoreError

# Whose code the numbers go through.
PACKAGES = (
    *("vilp-pipe", "numpy", "av", "decord", "opencv-python-headless"),
    *("torch", "torchvision", "open_clip_torch", "onnxruntime"),
    *("mmpose", "mmdet", "mmcv-lite"),
)
# Vector instructions, by which libraries choose their kernels.
_VECTORS = ("sse", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16")


def machine_environment() -> dict[str, str]:
    """Versions of packages, and the vector instructions of the CPU. Imports nothing heavy."""
    return {**{name: _version(name) for name in PACKAGES}, "instructions": _instructions()}


def refuse_other(here: Mapping[str, Any], driver: Mapping[str, Any], node: str) -> None:
    """Raise ``StoreError`` where ``here``, the environment of a worker on ``node``, is not the one of the driver."""
    differing = [name for name in sorted({*here, *driver}) if here.get(name) != driver.get(name)]
    if differing:
        differences = ", ".join(_difference(name, here.get(name), driver.get(name)) for name in differing)
        raise StoreError(
            f"node {node} would compute other numbers than the driver: {differences}; install the same there or leave "
            "the node out, and run the same command again",
            kind="store-mismatch",
        )


def _difference(name: str, here: Any, driver: Any) -> str:
    if name == "instructions":
        ours, theirs = set(str(here).split()), set(str(driver).split())
        return f"instructions it has alone: {_words(ours - theirs)}, the driver alone: {_words(theirs - ours)}"
    return f"{name} is {here} there, {driver} here"


def _words(names: set[str]) -> str:
    return " ".join(sorted(names)) or "none"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _instructions() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return " ".join(sorted(flag for flag in flags.split() if flag.startswith(_VECTORS)))
    return "unknown"
