"""Whether weights may be downloaded: commands that only look must not fetch what is missing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

_forbidden = False


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Let nothing be downloaded by this process while the block runs: what is missing raises ``MissingError``."""
    global _forbidden
    before, _forbidden = _forbidden, True
    try:
        yield
    finally:
        _forbidden = before


def require_downloads() -> None:
    """Raise ``ConnectionError`` inside ``no_downloads``."""
    if _forbidden:
        raise ConnectionError("only looking")


def resolves(host: str) -> bool:
    """Whether the name of a host can be resolved: False on a machine without a network, at once."""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
