"""Sizes and times as people write and read them."""

from __future__ import annotations

from store.errors import UsageError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(option: str, text: str) -> int:
    """Bytes in ``text``, such as ``500MB`` or ``2GiB`` (powers of 1024 either way)."""
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        return int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise UsageError(f"{option} is {text!r}; allowed: a number of bytes, such as 500MB or 2GB") from None


def show_bytes(count: float) -> str:
    """A size for people, such as ``5.4 GB`` (powers of 1024)."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def show_seconds(seconds: float) -> str:
    """A duration for people, such as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
