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

import math
from collections.abc import Sequence
from itertools import compress

import google_crc32c
import numpy as np

from store.objects import Blob
from store.schema import ArraySpec

_ABSENT = 0xFFFF_FFFF_FFFF_FFFF
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


class RowBuffers:
    """The rows of an array as buffers of bytes: ``filled`` to read them into, and ``checked``, the same bytes
    read-only, since google_crc32c takes no others. Made once for all the shards that fill the array."""

    def __init__(self, array: np.ndarray) -> None:
        flat = array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)
        self.filled = list(flat)
        flat.flags.writeable = False
        self.checked = list(flat)


def read_rows(
    blob: Blob,
    spec: ArraySpec,
    shard_len: int,
    positions: Sequence[int] | np.ndarray,
    rows: RowBuffers,
    places: Sequence[int],
) -> None:
    """Read the rows at some positions of a shard, each checked, to some places among ``rows``.

    Only the bytes of those rows are read. Raises ``DamagedShardError`` where a byte of the index or of a row is not as
    it was written.
    """
    index = _read_index(blob, shard_len)[positions]
    present = index[:, 0] != _ABSENT
    if not present.all():
        for place in compress(places, ~present):
            rows.filled[place].view(spec.dtype)[:] = spec.fill
        index, positions, places = index[present], list(compress(positions, present)), list(compress(places, present))
    length = spec.nbytes + _CRC_BYTES
    sums = np.empty((len(places), _CRC_BYTES), np.uint8)
    # Lists rather than arrays from here on: most shards are small, and a call of NumPy takes as long as checking a row.
    pieces: list[tuple[int, list[np.ndarray]]] = []
    end = -1
    for place, given, (offset, nbytes) in zip(places, sums, index.tolist(), strict=True):
        if nbytes != length or offset + length > blob.size:
            raise DamagedShardError("a row does not lie inside its shard")
        if offset != end:  # else the row follows on the one before, and the two are one piece
            pieces.append((offset, []))
        pieces[-1][1].extend((rows.filled[place], given))
        end = offset + length
    blob.fill(pieces)
    # What was read is checked where it lies now, so that what is returned is what was checked.
    computed = [google_crc32c.value(rows.checked[place]) for place in places]
    if sums.view("<u4")[:, 0].tolist() != computed:
        wrong = int(np.not_equal(sums.view("<u4")[:, 0], computed).argmax())
        raise DamagedShardError(f"row {positions[wrong]} has a wrong checksum")


def encode_chunk(spec: ArraySpec, values: np.ndarray) -> bytes | None:
    """Bytes of an array that is one chunk without shards; None where every value is fill."""
    values = np.ascontiguousarray(values, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    return None if _is_fill(values, spec) else values.tobytes() + _crc(values.tobytes())


def read_chunk(blob: Blob, spec: ArraySpec) -> np.ndarray:
    """An array that is one chunk. Raises as ``read_rows``."""
    if blob.size != spec.nbytes + _CRC_BYTES:
        raise DamagedShardError("the array has a wrong length")
    data = blob.tail(blob.size)
    values = data[: spec.nbytes].copy()
    if _crc(values) != data[spec.nbytes :].tobytes():
        raise DamagedShardError("the array has a wrong checksum")
    return values.view(spec.dtype).reshape(spec.shape)


def _read_index(blob: Blob, shard_len: int) -> np.ndarray:
    data = blob.tail(16 * shard_len + _CRC_BYTES)
    if len(data) < 16 * shard_len + _CRC_BYTES or _crc(data[:-_CRC_BYTES]) != data[-_CRC_BYTES:].tobytes():
        raise DamagedShardError("the index is damaged")
    return data[:-_CRC_BYTES].copy().view("<u8").reshape(shard_len, 2)


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
