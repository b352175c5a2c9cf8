"""What a skeleton network says of every video, as a group of the store: made from a run or imported, resumed, repaired,
and never used where its network has seen the videos that are tested."""

import shutil

import pytest

from pipeline.config import ExtractConfig
from pipeline.extraction import extract
from pipeline.head import TrainConfig, train_head
from store import FeatureStore
from store.objects import open_objects
from store.verify import verify_store

FAST = {"frames": 4, "epochs": 2, "device": "cpu", "training": TrainConfig(batch_size=32)}


def asked(store, source, **others):
    return ExtractConfig(
        store=str(store), modalities=("posefeat",), posefeat=(str(source),), engine="inline", device="cpu", **others
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from made_up_heads import MadeUpStore

    root = tmp_path_factory.mktemp("posefeat")
    store = MadeUpStore(root / "store", sources=4, noise=4.0, quarantined_class=3).open()
    train_head(store, head="poseconv", split="all", out=root / "poseconv", **FAST)
    extract(asked(root / "store", root / "poseconv"))
    return root


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path / "store"


def digest(store):
    report = verify_store(open_objects(store))
    assert report.problems == ()
    return report.digest


def groups(store):
    return [group for group in FeatureStore.open(store).groups.values() if group.modality.kind == "posefeat"]


def test_a_group_a_split(made):
    found = groups(made / "store")
    assert [group.modality.record["trained_on"]["split"] for group in found] == [1, 2]
    store = FeatureStore.open(made / "store")
    for group in found:
        assert len(store.status(group)) == 60
