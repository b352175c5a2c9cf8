"""The device that an option names: whether it can be one at all, without torch, and whether torch sees it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from store.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, whatever this machine has."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        near = nearest(name, ("auto", "cpu", "cuda"))
        raise UsageError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...{near}")


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is ``cuda`` where there is a GPU, else ``cpu``.

    Raises ``UsageError`` for a name that is none, and for a GPU that torch does not see.
    """
    import torch  # here, since it takes seconds: settings are checked without it

    check_device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    _, _, index = name.partition(":")
    if count == 0:
        raise UsageError(f"device is {name!r}, but torch sees no GPU here; use --device auto or cpu")
    if index and int(index) >= count:
        raise UsageError(
            f"device is {name!r}, but of GPUs torch sees {count}, the last of them cuda:{count - 1}; name one of "
            "them, or use --device auto or cpu"
        )
    # cuBLAS looks at this once, at the first product of matrices in a process, which may be an encoder's. Without it a
    # head, whose products must be repeatable, would be refused from then on.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda" if name == "auto" else name)
