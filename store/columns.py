"""Columns of Arrow tables as NumPy arrays, and back.

pyarrow's own ways between the two import pandas first wherever it is installed, which takes a process longer than
opening a store does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The values of a column of integers or floats without nulls."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(values)


def is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> np.ndarray:
    """Which texts of a column without nulls are one of ``values``, bool."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.isin(encoded.dictionary.to_pylist(), values)[numbers(encoded.indices)]


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table by their positions, in their order."""
    positions = np.ascontiguousarray(rows, np.int64)
    return table.take(pa.Array.from_buffers(pa.int64(), len(positions), [None, pa.py_buffer(positions)]))
