"""Features out of a store, for those who read it with other tools: WebDataset shards, or one .npy file a video.

    <out>/export.json              what was exported: arrays, classes, selection, and a hash of the features
          index.parquet            one row a video; written last: with it the export is whole
          000000.tar, ...          webdataset: samples ``<key>.<array>.npy``, ``<key>.cls`` (label), ``<key>.json``
          <array>/<key>.npy        npy
          text/<id>/<array>.npy    with arrays of CLIP: class and word embeddings, token kinds, a folder a text set

Keys are made of the slot and of letters, digits and hyphens of the video's id, whatever that holds. An export has the
same bytes however often it is made. Files are put in place whole, so that after a kill the same command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.export.samples import Samples
from pipeline.export.tars import Tars
from pipeline.progress import Progress
from store.errors import MissingError, UsageError, one_of
from store.objects import Objects, open_objects
from store.parallel import each
from store.plan import parquet_bytes
from store.printable import command
from store.reader import FeatureStore
from store.sealed import canonical

__all__ = ["FORMATS", "SHARD_BYTES", "Exported", "export"]

FORMATS = ("webdataset", "npy")
SHARD_BYTES = 256 << 20
ABOUT, INDEX = "export.json", "index.parquet"
# Videos whose features are read at once for .npy files.
_BATCH = 64


@dataclass(frozen=True)
class Exported:
    """What an export holds. ``left_out`` are videos of the selection that have no features; ``files`` are its tars or
    .npy files of videos, of which ``present`` were there before; ``texts`` are its text sets."""

    out: str
    format: str
    videos: int
    left_out: int
    files: int
    present: int
    texts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(
    store: FeatureStore,
    out: str | os.PathLike[str],
    *,
    to: str = "webdataset",
    split: int | None = None,
    subset: str | None = None,
    arrays: Sequence[str] | None = None,
    frames: int | None = None,
    view: str | None = None,
    clip: str | None = None,
    pose: str | None = None,
    video: str | None = None,
    posefeat: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    shuffle: bool = True,
    progress: Progress | None = None,
) -> Exported:
    """Write the features that ``FeatureStore.load`` gives for the same arguments into a folder or a bucket, and with
    those of CLIP the embeddings of the class names.

    to           ``webdataset`` or ``npy``
    out          a directory, or ``s3://bucket/prefix``: empty, or what is there of the same export
    shard_bytes  about the size of a tar, which is made in memory and holds one video at least
    shuffle      spread the videos over the tars in a random order that is always the same: readers shuffle in a buffer
                 only, and a store keeps the videos of a class together

    Raises ``UsageError`` for arguments that cannot be and for a place that holds something else, ``MissingError`` where
    no video of the selection has features, ``StoreError`` for a damaged store and a disk that fails.
    """
    one_of("format", to, FORMATS)
    if shard_bytes < 1:
        raise UsageError(f"shard-size is {shard_bytes} bytes; allowed: 1 or more, such as 256MB")
    progress = progress or Progress()
    samples = Samples.of(store, split, subset, arrays, frames, view, clip, pose, video, posefeat)
    if not len(samples):
        raise MissingError(
            f"no video of the selection has features in {store.url}; see: {command('status', '--store', store.url)}",
            kind="missing-modality",
        )
    place = open_objects(out)
    tars = Tars.of(samples, shard_bytes, shuffle) if to == "webdataset" else None
    about = {**samples.about(), "to": to, **({} if tars is None else {"videos_a_tar": tars.each, "shuffle": shuffle})}
    there = _begin(place, about)
    progress.begin("exporting", len(samples))
    written = _write_tars(place, tars, there, progress) if tars else _write_arrays(place, samples, there, progress)
    each(lambda file: place.put(*file), [file for file in samples.text_files().items() if file[0] not in there])
    columns = {"file": tars.names()} if tars else {f"{name}_file": samples.files(name) for name in samples.arrays}
    table = samples.table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    place.put(INDEX, parquet_bytes(table))
    for key in list(place.temporaries()):
        place.delete(key)
    progress.end()
    files = len(tars) if tars else len(samples) * len(samples.arrays)
    return Exported(place.url, to, len(samples), samples.left_out, files, files - written, tuple(samples.texts))


def _begin(place: Objects, about: dict[str, Any]) -> set[str]:
    """Claim an empty place, or one that holds the same export; returns the keys that are there."""
    text = canonical(about).encode()
    there = set(place.list())
    found = place.get(ABOUT)
    if found is None and there:
        raise UsageError(
            f"{place.url} is not empty ({min(there)!r}) and holds no export; name another place with --out"
        )
    if found is not None and found != text:
        raise UsageError(
            f"{place.url} holds an export of other features or with other settings; name another place with --out"
        )
    if found is None:
        place.put(ABOUT, text)
    return there


def _write_tars(place: Objects, tars: Tars, there: set[str], progress: Progress) -> int:
    written = 0
    for number in range(len(tars)):
        if tars.name(number) not in there:
            place.put(tars.name(number), tars.make(number))
            written += 1
        progress.advance(len(tars.positions(number)))
    return written


def _write_arrays(place: Objects, samples: Samples, there: set[str], progress: Progress) -> int:
    written = 0
    for first in range(0, len(samples), _BATCH):
        positions = range(first, min(first + _BATCH, len(samples)))
        left = [p for p in positions if not {samples.file(p, name) for name in samples.arrays} <= there]
        files = [
            (samples.file(position, name), data)
            for position, sample in zip(left, samples.read(left), strict=True)
            for name, data in sample.arrays.items()
        ]
        each(lambda file: place.put(*file), files)
        written += len(files)
        progress.advance(len(positions))
    return written
