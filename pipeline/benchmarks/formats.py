"""Ways of keeping a dataset's features on a disk: ours, and those that one would write otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.made_up import SHARD_LEN, make_plan
from store import FeatureStore
from store.commits import CommitRow
from store.derived import refresh
from store.lease import Part, hold
from store.local import LocalObjects
from store.schema import ArraySpec, Modality
from store.writer import add_modality, create_store, write_shard

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class MadeUp:
    """Made-up features of N videos, float16 [N, *shape] by name, a shard at a time."""

    count: int
    arrays: Mapping[str, tuple[int, ...]]

    @property
    def nbytes(self) -> int:
        return 2 * self.count * sum(int(np.prod(shape)) for shape in self.arrays.values())

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Rows of one shard after the other. The first number of a row tells it from the 2,047 rows around it; the
        others repeat, which no format here makes use of."""
        rng = np.random.default_rng(0)
        drawn = {n: rng.standard_normal((SHARD_LEN, *s), np.float32).astype("f2") for n, s in self.arrays.items()}
        for first in range(0, self.count, SHARD_LEN):
            rows = np.arange(first, min(first + SHARD_LEN, self.count))
            block = {name: values[: len(rows)] for name, values in drawn.items()}
            for values in block.values():
                values.reshape(len(rows), -1)[:, 0] = mark(rows)
            yield block


def mark(rows: np.ndarray) -> np.ndarray:
    """The first number of each of these rows."""
    return (rows % 2048).astype(np.float16)


class Format:
    """Features in a folder of their own. ``load`` gives all of them as tensors and ``batch`` some rows, both opening
    what they read from anew."""

    name = ""
    # Whether single rows can be had without reading everything.
    random = True

    def __init__(self, folder: Path, made_up: MadeUp) -> None:
        self.folder, self.made_up = folder, made_up
        folder.mkdir(parents=True)

    def write(self) -> None:
        raise NotImplementedError

    def load(self) -> Tensors:
        raise NotImplementedError

    def opened(self) -> Any:
        """What a training run opens once, before it draws batches."""

    def batch(self, opened: Any, rows: np.ndarray) -> Tensors:
        raise NotImplementedError


class Ours(Format):
    """A store, as ``extract`` leaves it."""

    name = "ours, a store"

    def write(self) -> None:
        write_made_up(self.folder / "store", self.made_up)

    def load(self) -> Tensors:
        return dict(FeatureStore.open(self.folder / "store").load(arrays=list(self.made_up.arrays)).tensors)

    def opened(self) -> Any:
        return FeatureStore.open(self.folder / "store").dataset(arrays=list(self.made_up.arrays))

    def batch(self, opened: Any, rows: np.ndarray) -> Tensors:
        found = opened[rows.tolist()]  # what a DataLoader with a sampler of batches asks for
        return {name: found[name] for name in self.made_up.arrays}


class NpyFiles(Format):
    """A file a video and array, read one by one."""

    name = ".npy files, one a video"

    def write(self) -> None:
        row = 0
        for block in self.made_up.blocks():
            for number in range(len(next(iter(block.values())))):
                for name, values in block.items():
                    np.save(self._path(row, name), values[number])
                row += 1

    def _path(self, row: int, name: str) -> Path:
        return self.folder / f"{row:05d}-{name}.npy"

    def load(self) -> Tensors:
        return self.batch(None, np.arange(self.made_up.count))

    def batch(self, opened: Any, rows: np.ndarray) -> Tensors:
        return {
            name: torch.stack([torch.from_numpy(np.load(self._path(row, name))) for row in rows])
            for name in self.made_up.arrays
        }


class Npz(Format):
    """One archive of whole arrays, which can only be read as a whole."""

    name = "one .npz"
    random = False

    def write(self) -> None:
        whole = {name: np.empty((self.made_up.count, *shape), "f2") for name, shape in self.made_up.arrays.items()}
        for number, block in enumerate(self.made_up.blocks()):
            for name, values in block.items():
                whole[name][number * SHARD_LEN :][: len(values)] = values
        np.savez(self.folder / "features.npz", **whole)  # type: ignore[arg-type]

    def load(self) -> Tensors:
        with np.load(self.folder / "features.npz") as file:
            return {name: torch.from_numpy(file[name]) for name in self.made_up.arrays}


class Hdf5(Format):
    """One HDF5 file whose chunks are videos."""

    name = "HDF5, a chunk a video"

    def write(self) -> None:
        import h5py

        with h5py.File(self.folder / "features.h5", "w") as file:
            for name, shape in self.made_up.arrays.items():
                file.create_dataset(name, (self.made_up.count, *shape), "f2", chunks=(1, *shape))
            row = 0
            for block in self.made_up.blocks():
                for name, values in block.items():
                    file[name][row : row + len(values)] = values
                row += len(values)

    def load(self) -> Tensors:
        with self.opened() as file:
            return {name: torch.from_numpy(file[name][:]) for name in self.made_up.arrays}

    def opened(self) -> Any:
        import h5py

        return h5py.File(self.folder / "features.h5", "r")

    def batch(self, opened: Any, rows: np.ndarray) -> Tensors:
        order = np.argsort(rows)  # it takes ascending rows alone
        found = {}
        for name in self.made_up.arrays:
            values = np.empty((len(rows), *self.made_up.arrays[name]), np.float16)
            values[order] = opened[name][rows[order]]
            found[name] = torch.from_numpy(values)
        return found


class RawMap(Format):
    """One file of raw bytes an array, mapped into memory: the floor that any format can reach."""

    name = "raw memory map"

    def write(self) -> None:
        files = {name: (self.folder / f"{name}.bin").open("wb") for name in self.made_up.arrays}
        for block in self.made_up.blocks():
            for name, values in block.items():
                files[name].write(values.data)
        for file in files.values():
            file.close()

    def load(self) -> Tensors:
        return {name: torch.from_numpy(np.array(values)) for name, values in self.opened().items()}

    def opened(self) -> Any:
        return {
            name: np.memmap(self.folder / f"{name}.bin", np.float16, "r", shape=(self.made_up.count, *shape))
            for name, shape in self.made_up.arrays.items()
        }

    def batch(self, opened: Any, rows: np.ndarray) -> Tensors:
        return {name: torch.from_numpy(values[rows]) for name, values in opened.items()}


def formats(folder: Path, made_up: MadeUp) -> tuple[Format, ...]:
    """Every way that is installed, the plain one first."""
    kinds: list[type[Format]] = [NpyFiles, Ours, Npz, RawMap]
    if find_spec("h5py") is not None:
        kinds.insert(3, Hdf5)
    return tuple(kind(folder / kind.__name__, made_up) for kind in kinds)


def write_made_up(root: Path, made_up: MadeUp) -> None:
    """A store with these arrays as its one CLIP group."""
    specs = {
        name: ArraySpec((1, *shape), "float16", (*("view", "frame", "row", "column")[: len(shape)], "embed"))
        for name, shape in made_up.arrays.items()
    }
    clip = Modality("clip", "made up", {"views": ["center"], "weights": {"seed": 0}}, specs)
    objects = LocalObjects(root)
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        plan = create_store(ours, make_plan(np.zeros(made_up.count, np.int64), made_up.count, 0))
        add_modality(ours, plan, clip, {}, {})
        for shard, block in enumerate(made_up.blocks()):
            rows = [CommitRow(slot, "ok", width=320, height=240, frames=16) for slot in plan.slots_of(shard)]
            arrays = {name: values[:, None] for name, values in block.items()}
            write_shard(ours, clip, shard, SHARD_LEN, arrays, rows)
        refresh(ours)  # as an extraction ends
