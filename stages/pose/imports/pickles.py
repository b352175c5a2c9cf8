"""Pickles read as data: arrays (of numpy, and tensors of torch, as numpy's), numbers, text and containers of them, and
nothing else.

A pickle is a program; whoever loads one with ``pickle.load`` runs it. Here every name that a file may mention is in a
list, and stands for a function that can only build an array. Any other name ends the reading before anything is called.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import UsageError


def load_pickle(path: Path) -> Any:
    """What a pickle holds. Raises ``UsageError`` for one that is damaged or wants more than arrays."""
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file).load()
    except _ForbiddenError as error:
        raise UsageError(
            f"{path} wants {error} and is not read: it may hold arrays, numbers, text, lists and dicts alone; write it "
            "again without that object"
        ) from None
    # A file that is no pickle can fail in any of these ways.
    except (
        *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError),
    ) as error:
        raise UsageError(f"{path} cannot be read as a pickle ({error}); name another file") from None


class _ForbiddenError(pickle.UnpicklingError):
    """A pickle mentions a name that is not in the list."""


def _array(kind: str, shape: tuple[int, ...], code: object) -> np.ndarray:
    """The empty array that numpy's pickles begin with; its state, which follows, has the real shape and type."""
    return np.empty(0, np.int8)


def _from_buffer(data: Any, kind: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The array that numpy's pickles of protocol 5 hold."""
    return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(kind: np.dtype, data: bytes) -> Any:
    if kind.hasobject:
        raise _ForbiddenError("a scalar of objects")
    return np.frombuffer(data, kind, 1)[0]


def _bytes(text: str, encoding: str) -> bytes:
    """Python 2's bytes, which pickles of the old protocols hold as text."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How the same protocols hold bytes that are empty."""
    return b""


def _storage(data: bytes) -> np.ndarray:
    """What a tensor views: torch saves it inside the pickle, in a format of its own, which is read as weights are."""
    import torch

    storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise _ForbiddenError(f"a tensor of {type(storage).__name__}")
    whole = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)  # type: ignore[call-overload]
    values: np.ndarray = (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy()
    return values


def _tensor(
    storage: np.ndarray, offset: int, size: Sequence[int], stride: Sequence[int], *_facts_of_training: object
) -> np.ndarray:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError(f"a tensor of size {list(size)} in {len(storage)} numbers")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], list(size), strides).copy()


_ALLOWED: dict[str, Any] = {
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.ndarray": "ndarray",  # named as the kind of array, never called
    "numpy.dtype": np.dtype,
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise _ForbiddenError(f"{module}.{name}")
        return found
