"""Writing, reading and resuming a store."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import stores
import torch
import zarr
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from store import FeatureStore, MissingError, StoreError, UsageError, reader
from store.commits import PARTIAL, QUARANTINED, committed_shards, remove_commit
from store.layout import MISSING, STORE, VIDEOS
from store.lease import Part, hold
from store.local import LocalObjects
from store.plan import read_plan, settle_plan
from store.schema import ArraySpec, Modality
from store.sealed import copy_key
from store.verify import restore, verify_store
from store.writer import create_store, write_shard


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    features = store.load()
    expected = stores.values(stores.CLIP, list(range(10)))
    np.testing.assert_array_equal(features["cls"].numpy(), expected["cls"])
    np.testing.assert_array_equal(features["value"].numpy(), expected["value"])
    np.testing.assert_array_equal(
        features["keypoints"].numpy(), stores.values(stores.POSE, list(range(10)))["keypoints"]
    )
    assert features.video_ids == tuple(f"v{slot}" for slot in range(10))
    assert features.labels.tolist() == [0, 1] * 5
    assert features.sizes.tolist() == [[320.0, 240.0]] * 10
    text = store.text()
    np.testing.assert_array_equal(text.word_embeddings.numpy(), stores.values(stores.TEXT, [0])["word_embeddings"][0])
    assert text.class_names == ("a", "b")


def test_heatmap_embeddings_follow_the_frames_and_views(tmp_path: Path) -> None:
    views = ["center", "flip"]
    spec = ArraySpec((2, stores.FRAMES, stores.WIDTH), "float16", ("view", "frame", "embed"))
    pose = Modality("pose", "drawn", {"heatmap": {"views": views}}, {"heatmap_clip": spec})
    stores.build(tmp_path / "s", modalities=(stores.CLIP, pose))
    store, whole = FeatureStore.open(tmp_path / "s"), stores.values(pose, list(range(10)))["heatmap_clip"]
    found = store.load(arrays=("heatmap_clip",), frames=2, view="flip")["heatmap_clip"].numpy()
    np.testing.assert_array_equal(found, whole[:, [1]][:, :, [0, 2]])
    np.testing.assert_array_equal(store.load(arrays=("heatmap_clip",))["heatmap_clip"].numpy(), whole)
    with pytest.raises(UsageError, match="view is 'squash'; allowed: center, flip"):
        store.load(arrays=("heatmap_clip",), view="squash")


def test_splits_frames_and_views(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    test = store.load(split=1, subset="test", frames=2, view="center")
    assert test.slots.tolist() == [0, 3, 6, 9]
    whole = stores.values(stores.CLIP, [0, 3, 6, 9])["cls"]
    np.testing.assert_array_equal(test["cls"].numpy(), whole[:, :, [0, 2]])
    assert test.pose_frames is not None
    assert test.pose_frames.tolist() == [0, 6]
    train = store.load(split=1, subset="train", arrays=("cls",))
    assert train.slots.tolist() == [1, 2, 4, 5, 7, 8]
    assert set(train.tensors) == {"cls"}
    pieces = list(store.iter_shards(split=1, subset="train", arrays=("cls",)))
    assert [piece.slots.tolist() for piece in pieces] == [[1, 2], [4, 5, 7], [8]]


def test_a_torch_loader_reads_the_same_rows_in_any_order(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    dataset = store.dataset(split=1, subset="train", arrays=("cls", "keypoints"), frames=2)
    whole = store.load(split=1, subset="train", arrays=("cls", "keypoints"), frames=2)
    assert len(dataset) == len(whole) == 6
    for index in (5, 0, 3):
        sample = dataset[index]
        assert (sample["label"], sample["video_id"]) == (whole.labels[index], whole.video_ids[index])
        assert torch.equal(sample["cls"], whole["cls"][index])
    loader = DataLoader(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    seen = {name: row for batch in loader for name, row in zip(batch["video_id"], batch["keypoints"], strict=True)}
    assert set(seen) == set(whole.video_ids)
    assert all(torch.equal(seen[name], whole["keypoints"][i]) for i, name in enumerate(whole.video_ids))


def test_a_list_of_indices_gives_a_whole_batch_in_its_order(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    dataset = pickle.loads(pickle.dumps(store.dataset(split=1, arrays=("cls", "keypoints"), frames=2)))
    order = [4, 0, 5, 0, 2]
    batch, samples = dataset[order], [dataset[index] for index in order]
    assert batch["video_id"] == [sample["video_id"] for sample in samples]
    assert batch["label"].tolist() == [sample["label"] for sample in samples]
    for name in ("cls", "keypoints"):
        assert torch.equal(batch[name], torch.stack([sample[name] for sample in samples]))
    loader = DataLoader(dataset, batch_size=None, sampler=BatchSampler(SequentialSampler(dataset), 4, drop_last=False))
    sizes = [batch["cls"].shape[0] for batch in loader]
    assert (len(sizes), max(sizes), sum(sizes)) == (-(-len(dataset) // 4), 4, len(dataset))


def test_shards_that_are_read_together_give_the_same_and_leave_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.build(tmp_path / "s", the_plan=stores.plan(30))
    store = FeatureStore.open(tmp_path / "s")
    alone = store.load(arrays=("cls",))
    monkeypatch.setattr(reader, "_LARGE", 0)
    before = len(os.listdir("/proc/self/fd"))
    assert torch.equal(store.load(arrays=("cls",))["cls"], alone["cls"])
    shard = tmp_path / "s" / stores.CLIP.path / "cls" / "c.5.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"c\.5\.0\.0\.0 is damaged"):
        store.load(arrays=("cls",))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": 2}, "split is 2; allowed: 1"),
        ({"split": 1, "subset": "val"}, "subset is 'val'; allowed: train, test"),
        ({"subset": "test"}, "no split is named"),
        ({"frames": 5}, "frames is 5; allowed: 1 to 4"),
        ({"arrays": ("penult",)}, "arrays is 'penult'; allowed"),
        ({"view": "flip"}, "view is 'flip'; allowed: center"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, arguments: dict, message: str) -> None:
    stores.build(tmp_path / "s", shards=(0,))
    with pytest.raises(UsageError, match=message):
        FeatureStore.open(tmp_path / "s").load(**arguments)


def test_a_missing_modality_names_the_command_that_adds_it(tmp_path: Path) -> None:
    stores.build(tmp_path / "s", modalities=(stores.CLIP,))
    with pytest.raises(MissingError, match="extract --modality pose"):
        FeatureStore.open(tmp_path / "s").load(arrays=("cls", "keypoints"))


def test_only_committed_shards_are_seen(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s", shards=(1,))
    store = FeatureStore.open(tmp_path / "s")
    assert store.load().slots.tolist() == [4, 5, 6, 7]
    remove_commit(objects, stores.POSE.path, 1)
    assert FeatureStore.open(tmp_path / "s").load().slots.tolist() == []
    assert FeatureStore.open(tmp_path / "s").load(arrays=("cls",)).slots.tolist() == [4, 5, 6, 7]


def test_quarantined_and_non_finite_videos_have_no_features(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "s")
    plan = create_store(objects, stores.plan())
    stores.build(tmp_path / "s", shards=(0,), statuses={2: QUARANTINED})
    arrays = stores.values(stores.CLIP, [4, 5, 6, 7])
    arrays["cls"][1, 0, 0, 0] = np.inf
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        rows = write_shard(ours, stores.CLIP, 1, plan.shard_len, arrays, stores.rows_of([4, 5, 6, 7]))
    assert [row.error_kind for row in rows] == ["", "non-finite", "", ""]
    store = FeatureStore.open(tmp_path / "s")
    assert store.load(arrays=("cls",)).slots.tolist() == [0, 1, 3, 4, 6, 7]
    raw = zarr.open_array(str(tmp_path / "s" / stores.CLIP.path / "cls"), mode="r")[:]
    assert np.isnan(raw[[2, 5, 8]]).all()  # quarantined, non-finite, not extracted yet
    assert np.isfinite(raw[[0, 1, 3, 4, 6, 7]]).all()


def test_stock_tools_read_a_store(tmp_path: Path) -> None:
    """zarr, pyarrow and sha256sum alone, with no word of ours, and with no warning from Zarr's own listing."""
    root = tmp_path / "s"
    stores.build(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(str(root), mode="r")
        members = dict(group.members(max_depth=None))
    assert group.attrs["format"] == "vilp-store"
    cls = members[f"{stores.CLIP.path}/cls"]
    assert isinstance(cls, zarr.Array)
    assert cls.metadata.dimension_names == ("video", "view", "frame", "channel")
    np.testing.assert_array_equal(cls[:], stores.values(stores.CLIP, list(range(10)))["cls"])
    assert pq.read_table(root / "_tables/videos.parquet")["video_id"].to_pylist() == [f"v{i}" for i in range(10)]
    commits = pq.read_table(root / "_tables/commits" / stores.CLIP.path / "0.parquet").to_pylist()
    assert [row["status"] for row in commits] == ["ok", PARTIAL, "ok", "ok"]
    sums = root / "_tables/commits" / stores.CLIP.path / "0.sha256"
    assert subprocess.run(["sha256sum", "-c", "--quiet", sums], cwd=root, check=False).returncode == 0


def test_the_digest_speaks_of_values_alone(tmp_path: Path) -> None:
    whole = verify_store(stores.build(tmp_path / "a"))
    assert (whole.planned, whole.committed, whole.partial, whole.quarantined, whole.corrupt) == (10, 10, 1, 0, 0)
    # Shards written in another order, by two runs, with other times and pids: the same digest.
    stores.build(tmp_path / "b", shards=(2,))
    again = verify_store(stores.build(tmp_path / "b", shards=(1, 0)))
    assert again.digest == whole.digest
    assert verify_store(stores.build(tmp_path / "c", statuses={})).digest != whole.digest
    assert verify_store(stores.build(tmp_path / "d", shards=(0, 1))).digest != whole.digest


def test_the_fingerprint_changes_with_the_numbers_it_covers(tmp_path: Path) -> None:
    stores.build(tmp_path / "a")
    stores.build(tmp_path / "b", modalities=(stores.CLIP,))
    a, b = FeatureStore.open(tmp_path / "a"), FeatureStore.open(tmp_path / "b")
    assert a.fingerprint() == b.fingerprint() != a.fingerprint(pose=stores.POSE.id)
    stores.build(tmp_path / "c", modalities=(stores.CLIP,), shards=(0, 1))
    assert FeatureStore.open(tmp_path / "c").fingerprint() != b.fingerprint()


def test_a_place_that_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store at") as missing:
        FeatureStore.open(tmp_path / "nowhere")
    assert missing.value.kind == "store-missing"
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        create_store(LocalObjects(tmp_path / "file"), stores.plan())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        create_store(LocalObjects(tmp_path / "full"), stores.plan())
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.tex"]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    from store.sealed import put_twice, seal, unseal

    objects = stores.build(tmp_path / "s", shards=())
    facts = unseal(objects.get("_tables/store.json") or b"")
    put_twice(objects, "_tables/store.json", seal({**facts, "version": 2}), point="test")
    with pytest.raises(StoreError, match="version 2") as error:
        FeatureStore.open(tmp_path / "s")
    assert error.value.kind == "store-version"


def test_committed_shards_of_a_group_that_is_not_there(tmp_path: Path) -> None:
    assert committed_shards(stores.build(tmp_path / "s", shards=()), "clip/none") == []


def test_root_metadata_is_plain_zarr(tmp_path: Path) -> None:
    stores.build(tmp_path / "s", shards=())
    root = json.loads((tmp_path / "s" / "zarr.json").read_text())
    assert root["node_type"] == "group"
    assert root["attributes"]["num_videos"] == 10


@pytest.mark.parametrize("point", ["plan-table-copy-flushed", "plan-table-copy-flushed:2", "plan-table-renamed"])
def test_a_plan_whose_replacement_is_cut_short_can_be_read_and_settled(tmp_path: Path, point: str) -> None:
    """Killed between the tables of an update: the old plan or the new one is there, and a run ends what was begun."""
    objects = stores.build(tmp_path / "s", shards=(0,))
    code = (
        "import sys, dataclasses, stores\n"
        "from store.local import LocalObjects\nfrom store.plan import write_plan, MISSING_SCHEMA\n"
        "plan = dataclasses.replace(stores.plan(14), missing=MISSING_SCHEMA.empty_table())\n"
        "write_plan(LocalObjects(sys.argv[1]), plan)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VILP_FAILPOINT": point}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_plan(objects).videos.num_rows in (10, 14)
    settle_plan(objects)
    restore(objects, verify_store(objects))
    assert verify_store(objects).digest is not None


def test_settling_a_plan_makes_both_copies_whole(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s", shards=())
    plan = read_plan(objects)
    keys = (STORE, VIDEOS, MISSING)
    whole = {key: objects.get(key) for key in keys}
    for damaged in (keys, tuple(map(copy_key, keys))):
        for key in damaged:
            objects.put(key, b"damaged")
        assert read_plan(objects).videos.equals(plan.videos)
        settle_plan(objects)
        for key in keys:
            assert objects.get(key) == objects.get(copy_key(key)) == whole[key]


def test_rows_that_a_killed_writer_lost_are_not_committed_away(tmp_path: Path) -> None:
    objects = stores.build(tmp_path / "s", modalities=(stores.CLIP,), shards=(0,), statuses={1: QUARANTINED})
    remove_commit(objects, stores.CLIP.path, 0)  # as far as a writer came that was killed while it replaced slot 1
    arrays, rows = stores.values(stores.CLIP, [1]), stores.rows_of([1])
    with hold(objects, Part()) as lease, pytest.raises(StoreError, match="run the same command again"):
        write_shard(lease.guard(objects), stores.CLIP, 0, 4, arrays, rows, expected={0, 1, 2, 3})
    assert committed_shards(objects, stores.CLIP.path) == []
