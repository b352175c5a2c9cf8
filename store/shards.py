"""The bytes of one Zarr shard, written and read whole.

A shard of an array with one row a video is what Zarr's ``sharding_indexed`` codec makes of inner chunks of one row
each, with the codecs ``bytes`` (little endian) and ``crc32c``: the rows in order, each followed by its CRC-32C; then
the index, offset and length of each row as unsigned 64-bit integers, all ones for a row that is all fill; then the
CRC-32C of the index. It is written and read here rather than through Zarr because a store promises that no flipped
byte is ever returned as a number: zarr-python is too slow by a factor of ten, and the fast pipelines skip the checksum
of a row when they read part of a shard (seen in zarrs 0.2.3). Stock Zarr reads the same bytes, and the tests hold the
two against each other.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from store.schema import ArraySpec

_ABSENT = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_CRC_BYTES = 4


class DamagedShardError(ValueError):
    """Bytes of a shard are not as they were written."""


def encode_shard(spec: ArraySpec, rows: np.ndarray) -> bytes | None:
    """Bytes of a shard that holds ``rows`` ``[shard_len, *spec.shape]``; None where every row is fill, since Zarr then
    keeps no object at all."""
    rows = np.ascontiguousarray(rows, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    index = np.full((len(rows), 2), _ABSENT, dtype="<u8")
    parts, offset = [], 0
    for position, row in enumerate(rows):
        if _is_fill(row, spec):
            continue
        data = row.tobytes()
        parts += [data, _crc(data)]
        index[position] = (offset, len(data) + _CRC_BYTES)
        offset += len(data) + _CRC_BYTES
    if not parts:
        return None
    return b"".join([*parts, index.tobytes(), _crc(index.tobytes())])


def read_rows(path: Path, spec: ArraySpec, shard_len: int, positions: Sequence[int], out: np.ndarray) -> None:
    """Read the rows at some positions of a shard into ``out`` ``[len(positions), *spec.shape]``, each checked.

    Only the pages that hold those rows are touched. Raises ``DamagedShardError`` where a byte of the index or of a row
    is not as it was written, ``FileNotFoundError`` where there is no such file.
    """
    with open(path, "rb") as file:
        try:
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except ValueError as error:  # an empty file cannot be mapped
            raise DamagedShardError(f"{path} is empty") from error
    index = _read_index(path, data, shard_len)
    target = out.reshape(len(positions), -1).view(np.uint8)
    for number, position in enumerate(positions):
        offset, length = (int(value) for value in index[position])
        if offset == int(_ABSENT):
            out[number] = spec.fill
            continue
        if length != spec.nbytes + _CRC_BYTES or offset + length > len(data):
            raise DamagedShardError(f"row {position} of {path} does not lie inside its shard")
        end = offset + spec.nbytes
        target[number] = data[offset:end]
        # The copy is checked, not the mapping, so that what is returned is what was checked.
        if _crc(target[number]) != data[end : offset + length].tobytes():
            raise DamagedShardError(f"row {position} of {path} has a wrong checksum")


def encode_chunk(spec: ArraySpec, values: np.ndarray) -> bytes | None:
    """Bytes of an array that is one chunk without shards; None where every value is fill."""
    values = np.ascontiguousarray(values, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    return None if _is_fill(values, spec) else values.tobytes() + _crc(values.tobytes())


def read_chunk(path: Path, spec: ArraySpec) -> np.ndarray:
    """An array that is one chunk. Raises as ``read_rows``."""
    data = path.read_bytes()
    if len(data) != spec.nbytes + _CRC_BYTES or _crc(data[:-_CRC_BYTES]) != data[-_CRC_BYTES:]:
        raise DamagedShardError(f"{path} has a wrong length or checksum")
    return np.frombuffer(data, spec.dtype, spec.nbytes // np.dtype(spec.dtype).itemsize).reshape(spec.shape).copy()


def _read_index(path: Path, data: np.ndarray, shard_len: int) -> np.ndarray:
    start = len(data) - 16 * shard_len - _CRC_BYTES
    if start < 0 or _crc(data[start:-_CRC_BYTES]) != data[-_CRC_BYTES:].tobytes():
        raise DamagedShardError(f"the index of {path} is damaged")
    return np.frombuffer(data, "<u8", 2 * shard_len, start).reshape(shard_len, 2)


def _is_fill(values: np.ndarray, spec: ArraySpec) -> bool:
    first = values.flat[0]
    if not (np.isnan(first) if values.dtype.kind == "f" else first == spec.fill):
        return False  # by far the most common case costs one comparison
    return bool((np.isnan(values) if values.dtype.kind == "f" else values == spec.fill).all())


def _crc(data: bytes | np.ndarray) -> bytes:
    if isinstance(data, np.ndarray):
        data = data.view()
        data.flags.writeable = False  # google_crc32c takes read-only buffers alone
    return google_crc32c.value(data).to_bytes(_CRC_BYTES, "little")
