"""The bytes of a shard are those that Zarr itself would write, and every one of them is checked on reading."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from store import StoreError
from store.local import LocalObjects
from store.objects import Blob
from store.schema import ArraySpec
from store.shards import DamagedShardError, RowBuffers, encode_chunk, encode_shard, read_chunk, read_rows


def zarr_bytes(spec: ArraySpec, rows: np.ndarray, sharded: bool) -> bytes | None:
    memory = MemoryStore()
    array = zarr.create_array(
        memory,
        shape=rows.shape,
        shards=rows.shape if sharded else None,
        chunks=(1, *spec.shape) if sharded else rows.shape,
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=Crc32cCodec(),
    )
    array[...] = rows

    async def read() -> bytes | None:
        async for key in memory.list():
            if key != "zarr.json":
                buffer = await memory.get(key, default_buffer_prototype())
                return buffer.to_bytes() if buffer else None
        return None

    return asyncio.run(read())


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "int32"]),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    kept=st.lists(st.booleans(), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_bytes_equal_those_of_zarr(dtype: str, shape: tuple[int, ...], kept: list[bool], seed: int) -> None:
    spec = ArraySpec(shape, dtype, ("x",) * len(shape))
    rows = np.random.default_rng(seed).integers(0, 100, (len(kept), *shape)).astype(dtype)
    rows[~np.array(kept)] = spec.fill
    assert encode_shard(spec, rows) == zarr_bytes(spec, rows, sharded=True)
    whole = ArraySpec(rows.shape, dtype, ("x",) * rows.ndim)
    assert encode_chunk(whole, rows) == zarr_bytes(whole, rows, sharded=False)


def opened(path: Path) -> AbstractContextManager[Blob]:
    return LocalObjects(path.parent).open(path.name)


SPEC = ArraySpec((3, 5), "float16", ("a", "b"))
ROWS = np.arange(60, dtype="float16").reshape(4, 3, 5)


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[2] = np.nan
    (tmp_path / "s").write_bytes(encode_shard(SPEC, rows) or b"")
    out = np.empty((3, 3, 5), "float16")
    with opened(tmp_path / "s") as blob:
        read_rows(blob, SPEC, 4, [3, 2, 0], RowBuffers(out), range(3))
    np.testing.assert_array_equal(out, rows[[3, 2, 0]])


@pytest.mark.parametrize("most", [1, 7, 33])
def test_a_system_that_gives_less_than_was_asked_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    def grudging(descriptor: int, buffers: Sequence[np.ndarray], offset: int) -> int:
        return preadv(descriptor, [next(buffer for buffer in buffers if len(buffer))[:most]], offset)

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", grudging)
    (tmp_path / "s").write_bytes(encode_shard(SPEC, ROWS) or b"")
    out = np.empty_like(ROWS)
    with opened(tmp_path / "s") as blob:
        read_rows(blob, SPEC, 4, range(4), RowBuffers(out), range(4))
    np.testing.assert_array_equal(out, ROWS)


def test_a_file_that_is_cut_while_it_is_read_ends_in_an_error(tmp_path: Path) -> None:
    def cut_and_read() -> None:
        with opened(tmp_path / "s") as blob:
            os.truncate(tmp_path / "s", 10)
            blob.fill([(0, [np.empty(20, np.uint8)])])

    (tmp_path / "s").write_bytes(encode_shard(SPEC, ROWS) or b"")
    with pytest.raises(StoreError, match="has become shorter"):
        cut_and_read()


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = encode_shard(SPEC, ROWS)
    assert data is not None
    out = np.empty_like(ROWS)
    for position in range(len(data)):
        (tmp_path / "s").write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        with pytest.raises(DamagedShardError), opened(tmp_path / "s") as blob:
            read_rows(blob, SPEC, 4, range(4), RowBuffers(out), range(4))
        (tmp_path / "t").write_bytes(data[:position])
        with pytest.raises(DamagedShardError), opened(tmp_path / "t") as blob:
            read_rows(blob, SPEC, 4, range(4), RowBuffers(out), range(4))


def test_a_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    spec = ArraySpec(ROWS.shape, "float16", ("n", "a", "b"))
    data = encode_chunk(spec, ROWS)
    assert data is not None
    (tmp_path / "s").write_bytes(data)
    with opened(tmp_path / "s") as blob:
        np.testing.assert_array_equal(read_chunk(blob, spec), ROWS)
    (tmp_path / "s").write_bytes(data[:7] + b"?" + data[8:])
    with pytest.raises(DamagedShardError), opened(tmp_path / "s") as blob:
        read_chunk(blob, spec)
