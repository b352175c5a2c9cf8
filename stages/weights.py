"""Weights of published models: where they come from, and how they are read.

A file that is named is taken as it is. Otherwise it is the published checkpoint, in ``$VILP_CACHE/weights`` (or
``~/.cache/vilp-pipe/weights``): fetched there once, or put there by hand on a machine without network.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from stages.cache import cache_directory
from stages.downloads import require_downloads
from store.errors import MissingError, UsageError

if TYPE_CHECKING:
    import torch

RANDOM = "none"
TIMEOUT = 20  # seconds without a byte
# Published names hold the first digits of the SHA-256, and often a date before or behind them.
_DATE = r"20\d\d(?:0[1-9]|1[0-2])[0-3]\d"
_PROMISED = re.compile(rf"[-_](?!{_DATE})([0-9a-f]{{8}})(?:[-_]{_DATE})?\.pth$")

# What trainers leave in a checkpoint beside the weights (loss histories, data set facts). It is read into ``_Inert``.
_BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
    "_codecs.encode",
)


def published_weights(url: str, *, model: str, flag: str) -> Path:
    """The file at ``url``, in the cache: fetched once, or put there by hand. Raises ``MissingError`` that says which
    file to put where, and ``UsageError`` for one that is there and is not what its name says."""
    name = url.rpartition("/")[2]
    file = cache_directory() / "weights" / name
    if not file.is_file():
        try:
            _fetch(url, file)
        except (OSError, ValueError) as error:
            raise MissingError(
                f"no weights for {model}, and {url} cannot be fetched ({error}): put {name} into {file.parent}, or "
                f"give {flag} FILE",
                kind="missing-weights",
            ) from None
    elif wrong := _broken_promise(name, file):
        raise UsageError(
            f"{file} has {wrong} as its name says: it is damaged, or another file; delete it and run again, which "
            f"fetches it, or put the right one there, or give {flag} FILE"
        )
    return file


def _broken_promise(name: str, file: Path) -> str:
    """What the contents of ``file`` are and not what the digits in its published ``name`` say; empty where they are, or
    where a name holds none."""
    promised = _PROMISED.search(name)
    if promised is None or (digest := file_digest(file)).startswith(promised[1]):
        return ""
    return f"SHA-256 {digest[:8]}..., not {promised[1]}..."


def _fetch(url: str, file: Path) -> None:
    """Fetch a file whole or not at all. Raises ``ValueError`` where it is not what its name says."""
    require_downloads()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(url, timeout=TIMEOUT) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        if wrong := _broken_promise(file.name, Path(temporary)):
            raise ValueError(f"what came has {wrong}")
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def load_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], file: Path, *, flag: str, name: str, advice: str
) -> None:
    """Load what a checkpoint holds into the model called ``name``. Raises ``UsageError``, which ends in ``advice``,
    where one does not fit the other."""
    own = {key: value.shape for key, value in model.state_dict().items()}
    wrong = sorted(key for key in own.keys() | state.keys() if own.get(key) != getattr(state.get(key), "shape", None))
    if wrong:
        raise UsageError(
            f"{flag} is {str(file)!r}, which does not fit {name}: {len(wrong)} tensors differ, such as {wrong[0]}; "
            f"{advice}"
        )
    model.load_state_dict(state)


def read_checkpoint(file: Path, *, flag: str) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file or a torch checkpoint. Nothing that the file names is imported or called."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # A tuple maps a name in the file to an object of ours, so that even ``getattr`` is harmless.
    inert: list[Callable | tuple[Callable, str]] = [(_Inert, name) for name in _BOOKKEEPING]
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(inert):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants {named[1]}" if named else str(error).partition("\n")[0][:120]
        raise UsageError(
            f"{flag} is {str(file)!r}, which cannot be read as weights alone ({reason}); save its state_dict as "
            "safetensors and name that file"
        ) from None
    return content.get("state_dict", content) if isinstance(content, dict) else {}


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file, computed once a process as long as its size and time stay the same."""
    stat = os.stat(path)
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Inert:
    """Takes the place of any object that is no weight: accepts every argument and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass
