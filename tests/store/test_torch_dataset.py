"""Stored features through ``torch.utils.data``: workers of either kind, streams of shards, and how much they hold."""

from __future__ import annotations

import ctypes
import itertools
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3server
import stores
import torch
from torch.utils.data import DataLoader

from store import FeatureStore, StoreError, UsageError
from store.features import Features
from store.objects import open_objects
from store.schema import ArraySpec, Modality
from store.torch_dataset import FeatureStream, Sample


def _names(loader: DataLoader) -> list[str]:
    return [name for batch in loader for name in batch["video_id"]]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    stores.build(tmp_path / "s", the_plan=stores.plan(30))
    return FeatureStore.open(tmp_path / "s")


@pytest.mark.parametrize("how", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_the_store_holds(store: FeatureStore, how: str) -> None:
    dataset = store.dataset(split=1, subset="train", arrays=("cls", "keypoints"), frames=2)
    whole = store.load(split=1, subset="train", arrays=("cls", "keypoints"), frames=2)
    rows = {name: row for row, name in enumerate(whole.video_ids)}
    for given in (dataset, dataset.stream(buffer=5)):
        loader = DataLoader(given, batch_size=4, num_workers=2, multiprocessing_context=how)
        seen = []
        for batch in loader:
            picked = [rows[name] for name in batch["video_id"]]
            assert torch.equal(batch["cls"], whole["cls"][picked])
            assert torch.equal(batch["keypoints"], whole["keypoints"][picked])
            assert torch.equal(batch["label"], whole.labels[picked])
            seen += picked
        assert sorted(seen) == list(range(len(whole)))


@pytest.mark.parametrize("workers", [0, 1, 3, 11])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_stream_gives_every_video_once_an_epoch(store: FeatureStore, workers: int) -> None:
    loader = DataLoader(store.dataset(arrays=("cls",)).stream(buffer=6), batch_size=None, num_workers=workers)
    assert sorted(sample["video_id"] for sample in loader) == sorted(f"v{slot}" for slot in range(30))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_of_a_stream_follows_from_seed_and_epoch(store: FeatureStore, workers: int) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        stream = store.dataset(arrays=("cls",)).stream(buffer=8, seed=seed)
        stream.set_epoch(epoch)
        return _names(DataLoader(stream, batch_size=4, num_workers=workers))

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_workers_that_outlive_an_epoch_hear_of_the_next(store: FeatureStore) -> None:
    stream = store.dataset(arrays=("cls",)).stream(buffer=8)
    loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append(_names(loader))
    assert epochs[0] == epochs[2] != epochs[1]


def test_without_a_buffer_a_stream_keeps_the_stored_order(store: FeatureStore) -> None:
    names = [sample["video_id"] for sample in store.dataset(split=1, subset="train", arrays=("cls",)).stream(buffer=1)]
    assert names == list(store.load(split=1, subset="train", arrays=("cls",)).video_ids)


def test_the_buffer_mixes_shards(store: FeatureStore) -> None:
    shards = [int(sample["video_id"][1:]) // 4 for sample in store.dataset(arrays=("cls",)).stream(buffer=16)]
    changes = sum(a != b for a, b in itertools.pairwise(shards))
    assert changes > 15  # 7 where shards come one after the other


def test_a_stream_holds_one_shard_and_its_buffer() -> None:
    """Features that are read are followed until the memory under them is free again."""
    alive, most, buffer = 0, 0, 6

    def freed() -> None:
        nonlocal alive
        alive -= 1

    def read(slots: list[int]) -> Features:
        nonlocal alive
        values = np.zeros((len(slots), 5), np.float32)
        alive += 1
        weakref.finalize(values, freed)
        labels = torch.zeros(len(slots), dtype=torch.int64)
        names, sizes = tuple(map(str, slots)), torch.zeros(len(slots), 2)
        return Features({"cls": torch.from_numpy(values)}, None, labels, torch.tensor(slots), sizes, names, names)

    stream = FeatureStream(range(100), read, 4, buffer=buffer, seed=0)
    for _ in stream:
        most = max(most, alive)
    assert most == 1


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def test_memory_of_a_stream_does_not_grow_with_the_split(tmp_path: Path) -> None:
    wide = Modality(
        "clip",
        "wide",
        {"num_frames": 1, "views": ["center"]},
        {"cls": ArraySpec((1, 1, 1 << 17), "float32", ("view", "frame", "channel"))},
    )
    stores.build(tmp_path / "s", modalities=(wide,), the_plan=stores.plan(96, shard_len=4))  # 48 MB
    dataset = FeatureStore.open(tmp_path / "s").dataset(arrays=("cls",))

    def grown(samples: Iterator[Sample]) -> int:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed would serve without being seen
        before = _anonymous_bytes()
        return max(_anonymous_bytes() - before for _ in samples)

    _ = dataset[0]  # what the first read costs once
    assert grown(iter(dataset.stream(buffer=4))) < 12 << 20
    assert grown(iter(dataset.stream(buffer=96))) > 24 << 20  # so that the figure above can fail


def test_a_dataset_and_a_stream_can_be_pickled(store: FeatureStore) -> None:
    dataset = store.dataset(arrays=("cls",))
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[3]["cls"], dataset[3]["cls"])
    stream = dataset.stream(buffer=8)
    stream.set_epoch(2)
    again = pickle.loads(pickle.dumps(stream))
    assert [sample["video_id"] for sample in again] == [sample["video_id"] for sample in stream]


def test_workers_and_a_bucket(s3: s3server.S3Server) -> None:
    """Forked workers would wait for ever."""
    objects = open_objects(f"s3://{s3server.BUCKET}/loader")
    stores.fill(objects, stores.plan(8), (stores.CLIP,))
    dataset = FeatureStore.open(objects.url).dataset(arrays=("cls",))
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(StoreError, match="spawn"):
        _names(loader)
    stream = dataset.stream(buffer=1)
    spawned = DataLoader(stream, batch_size=4, num_workers=1, multiprocessing_context="spawn", timeout=120)
    assert _names(spawned) == [f"v{slot}" for slot in range(8)]


@pytest.mark.parametrize(("options", "message"), [({"buffer": 0}, "buffer is 0"), ({"seed": -1}, "seed is -1")])
def test_a_wrong_option_is_named(store: FeatureStore, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        store.dataset(arrays=("cls",)).stream(**options)
