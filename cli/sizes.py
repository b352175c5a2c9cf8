"""Sizes as people write them."""

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
