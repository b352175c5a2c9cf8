"""Console blocks of pages, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def console_blocks(markdown: str) -> list[str]:
    """The text of every fenced block of the language ``console``."""
    return _BLOCK.findall(markdown)


def commands(block: str) -> Iterator[str]:
    """The commands of a block: what stands behind ``$``, with lines that a backslash continues."""
    for line in block.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            yield " ".join(line[2:].split())
