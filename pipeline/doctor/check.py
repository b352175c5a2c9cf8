"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """``found`` says what is there; ``todo``, where the status is not ``ok``, what to do about it. ``fail``: what was
    asked for will not work; ``warn``: something will not, or will be slow or fetched later."""

    name: str
    status: str
    found: str
    todo: str = ""


def safely(name: str, look: Callable[[], Check]) -> Check:
    """What ``look`` finds. A look that breaks is a finding: a broken library must not end the examination."""
    try:
        return look()
    except Exception as error:
        return Check(name, FAIL, f"{type(error).__name__}: {error}", "install again with: make setup")
