"""Zarr metadata of modalities.

One Zarr shard along the first axis is one shard of the store, written once and whole; inside it every video is a chunk
of its own with a CRC-32C, so that a stock reader notices a flipped byte in whatever it reads. Features of half
precision hardly compress, so the bytes are stored as they are.
"""

from __future__ import annotations

import asyncio
from typing import Any

import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from store.schema import ArraySpec, Modality


def group_metadata(modality: Modality, *, rows: int, shard_rows: int) -> dict[str, str]:
    """Texts of all ``zarr.json`` of a modality by key, those of its parent groups included, for ``rows`` slots."""
    memory = MemoryStore()
    attributes = {"kind": modality.kind, "record": dict(modality.record)}
    zarr.create_group(memory, path=modality.path, attributes=attributes)
    for name, spec in modality.arrays.items():
        _create(memory, f"{modality.path}/{name}", spec, rows, shard_rows if modality.per_video else None)
    texts = {key: text for key, text in _contents(memory).items() if key != "zarr.json"}
    if modality.parent:  # the CLIP group that a text set lies in has a definition of its own
        texts = {key: text for key, text in texts.items() if key.startswith(f"{modality.parent}/{modality.kind}/")}
    return texts


def root_metadata(attributes: dict[str, Any], members: dict[str, Any]) -> dict[str, Any]:
    """The root ``zarr.json`` with the metadata of all members consolidated in it (by path, without ``/zarr.json``).

    Consolidated, so that a stock reader lists the store without walking into ``_tables``, which is not Zarr's.
    """
    consolidated = {"kind": "inline", "must_understand": False, "metadata": members}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": consolidated}


def _create(memory: MemoryStore, path: str, spec: ArraySpec, rows: int, shard_rows: int | None) -> zarr.Array[Any]:
    row = spec.shape
    shape, chunks = (row, row) if shard_rows is None else ((rows, *row), (1, *row))
    return zarr.create_array(
        memory,
        name=path or None,
        shape=shape,
        chunks=chunks,
        shards=None if shard_rows is None else (shard_rows, *row),
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=Crc32cCodec(),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=spec.dims if shard_rows is None else ("video", *spec.dims),
    )


def _contents(memory: MemoryStore) -> dict[str, str]:
    async def read() -> dict[str, str]:
        found = {}
        async for key in memory.list():
            buffer = await memory.get(key, default_buffer_prototype())
            assert buffer is not None
            found[key] = buffer.to_bytes().decode()
        return dict(sorted(found.items()))

    return asyncio.run(read())
