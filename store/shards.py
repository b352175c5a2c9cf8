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

from collections.abc import Sequence

import google_crc32c
import numpy as np

from store.objects import Blob
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


def read_rows(
    blob: Blob,
    spec: ArraySpec,
    shard_len: int,
    positions: Sequence[int],
    out: np.ndarray,
    places: Sequence[int] | np.ndarray | None = None,
) -> None:
    """Read the rows at some positions of a shard into ``out`` ``[*, *spec.shape]``, each checked.

    ``places`` says at which rows of ``out`` they go; without it they fill ``out``. Only the bytes of those rows are
    read. Raises ``DamagedShardError`` where a byte of the index or of a row is not as it was written.
    """
    wanted = np.asarray(positions, np.int64)
    rows = np.arange(len(wanted)) if places is None else np.asarray(places, np.int64)
    index = _read_index(blob, shard_len)[wanted]
    present = index[:, 0] != _ABSENT
    if not present.all():
        out[rows[~present]] = spec.fill
        index, wanted, rows = index[present], wanted[present], rows[present]
    if not len(index):
        return
    offsets, length = index[:, 0], spec.nbytes + _CRC_BYTES
    if (index[:, 1] != length).any() or (offsets + length > blob.size).any():
        raise DamagedShardError("a row does not lie inside its shard")
    target = out.reshape(len(out), -1).view(np.uint8)
    found = rows.tolist()
    sums = np.empty((len(found), _CRC_BYTES), np.uint8)
    buffers = [buffer for row, given in zip(found, sums, strict=True) for buffer in (target[row], given)]
    # Rows that follow on each other in the shard are one piece.
    ends = [*(np.flatnonzero(np.diff(offsets) != length) + 1).tolist(), len(found)]
    firsts = [0, *ends[:-1]]
    starts = offsets[firsts].tolist()
    blob.fill([(start, buffers[2 * first : 2 * end]) for start, first, end in zip(starts, firsts, ends, strict=True)])
    # What was read is checked where it lies now, so that what is returned is what was checked.
    target.flags.writeable = False  # google_crc32c takes read-only buffers alone
    given, computed = sums.view("<u4")[:, 0].tolist(), [google_crc32c.value(target[row]) for row in found]
    if given != computed:
        wrong = int(np.not_equal(given, computed).argmax())
        raise DamagedShardError(f"row {wanted[wrong]} has a wrong checksum")


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
