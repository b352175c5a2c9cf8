"""WebDataset shards: tar files in which what shares a name up to its first dot is one sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.export.samples import Sample, Samples

# Tar pads every member to blocks, and puts a header block before it.
_BLOCK = 512
# Videos whose features are read at once.
_AT_ONCE = 64


@dataclass(frozen=True)
class Tars:
    """Videos dealt out to tars of ``each`` videos; ``order`` are positions in the samples."""

    samples: Samples
    each: int
    order: np.ndarray

    @staticmethod
    def of(samples: Samples, shard_bytes: int, shuffle: bool) -> Tars:
        """Tars of about ``shard_bytes``, and of one video at least."""
        (first,) = samples.read([0])
        order = np.random.default_rng(0).permutation(len(samples)) if shuffle else np.arange(len(samples))
        return Tars(samples, max(1, shard_bytes // _length(first)), order)

    def __len__(self) -> int:
        return -(-len(self.order) // self.each)

    def name(self, number: int) -> str:
        return f"{number:06d}.tar"

    def names(self) -> list[str]:
        """The tar of every video, in the order of the samples."""
        numbers = np.empty(len(self.order), np.int64)
        numbers[self.order] = np.arange(len(self.order)) // self.each
        return [self.name(number) for number in numbers.tolist()]

    def positions(self, number: int) -> list[int]:
        return self.order[number * self.each : (number + 1) * self.each].tolist()

    def make(self, number: int) -> bytes:
        """A whole tar; always the same bytes."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            positions = self.positions(number)
            for first in range(0, len(positions), _AT_ONCE):
                for sample in self.samples.read(positions[first : first + _AT_ONCE]):
                    for name, data in _members(sample):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        return file.getvalue()


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    for name, data in sample.arrays.items():
        yield f"{sample.key}.{name}.npy", data
    yield f"{sample.key}.cls", str(sample.facts["label"]).encode()
    yield f"{sample.key}.json", json.dumps(dict(sample.facts), ensure_ascii=False).encode()


def _length(sample: Sample) -> int:
    return sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in _members(sample))
