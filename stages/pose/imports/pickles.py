"""Pickles read as data: numpy arrays, numbers, text and containers of them, and nothing else.

A pickle is a program; whoever loads one with ``pickle.load`` runs it. Here every name that a file may mention is in a
list, and stands for a function that can only build an array. Any other name ends the reading before anything is called.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
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
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
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


_ALLOWED: dict[str, Any] = {
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.ndarray": "ndarray",  # named as the kind of array, never called
    "numpy.dtype": np.dtype,
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise _ForbiddenError(f"{module}.{name}")
        return found
