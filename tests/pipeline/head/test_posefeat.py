"""What a skeleton network says of every video, as a group of the store: made from a run, or imported; resumed,
repaired, and never used where its network has seen the videos that are tested."""

import dataclasses
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_up_heads import MadeUpStore

from pipeline.config import ExtractConfig
from pipeline.export import export
from pipeline.extraction import extract
from pipeline.head import TrainConfig, late_fusion, other_scores, train_head
from pipeline.head.checkpoint import load_head, load_predictions, read_held, read_run
from pipeline.head.data import load_skeletons
from pipeline.head.inner import FOLDS
from pipeline.head.other_scores import HELD_OUT, log_probabilities
from pipeline.posefeat import posefeat_sources
from pipeline.progress import Progress
from pipeline.repair import repair
from pipeline.status import store_status
from store import FeatureStore, MissingError, StoreError, UsageError, failpoints
from store.care import collect, delete_group
from store.commits import remove_commit
from store.lease import Part
from store.objects import open_objects
from store.sealed import canonical, sha256
from store.transfer import copy_store, merge_stores
from store.verify import verify_store

FAST = {"frames": 4, "epochs": 2, "device": "cpu", "training": TrainConfig(batch_size=32)}


def asked(store, *sources, **others):
    paths = tuple(map(str, sources))
    return ExtractConfig(
        store=str(store), modalities=("posefeat",), posefeat=paths, engine="inline", device="cpu", **others
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of which class 3 has no poses, runs on it, and the groups of both splits."""
    root = tmp_path_factory.mktemp("posefeat")
    store = MadeUpStore(root / "store", sources=4, noise=4.0, quarantined_class=3).open()
    train_head(store, head="poseconv", split="all", out=root / "poseconv", **FAST)
    train_head(store, head="vcs", split="all", out=root / "vcs", **FAST)
    shutil.copytree(root / "store", root / "bare")
    extract(asked(root / "store", root / "poseconv"))
    return root


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def bare(made, tmp_path):
    shutil.copytree(made / "bare", tmp_path / "store")
    return tmp_path / "store"


def digest(store):
    report = verify_store(open_objects(store))
    assert (report.problems, report.leftovers) == ((), ())
    return report.digest


def groups(store):
    return [group for group in FeatureStore.open(store).groups.values() if group.modality.kind == "posefeat"]


def arrays(store, group):
    """Arrays of a group by name, and the ids of the videos that they are of."""
    opened = FeatureStore.open(store)
    slots = opened.usable([group])
    names = opened.plan.at(np.array(slots), "video_id")["video_id"].to_pylist()
    return {name: opened.rows(group, name, slots) for name in group.modality.arrays}, names


def subset(store, split, of):
    rows = FeatureStore.open(store).videos.to_pylist()
    return {row["video_id"] for row in rows if row[f"split{split}"] == of and row["label"] != 3}


def test_a_group_a_split_says_what_it_was_trained_on(made):
    run = read_run(made / "poseconv")
    assert len(groups(made / "store")) == 2
    for split, group in enumerate(groups(made / "store"), start=1):
        train, test = (subset(made / "store", split, of) for of in ("train", "test"))
        record, told = group.modality.record, group.modality.record["trained_on"]
        assert (told["dataset"], told["split"], told["videos"]) == ("made-up", split, len(train))
        assert told["sha256"] == sha256(canonical(sorted(train)).encode())
        assert record["weights"]["sha256"] == run.files[f"split{split}-seed0.safetensors"]
        found, names = arrays(made / "store", group)
        assert {name: values.shape[1:] for name, values in found.items()} == {
            "features": (128,),
            "scores": (4,),
            "seen": (),
        }
        seen = dict(zip(names, found["seen"].tolist(), strict=True))
        assert seen == {**dict.fromkeys(train, HELD_OUT), **dict.fromkeys(test, 0)}
        assert told["held_out"] == len(train)
        assert 1 < told["folds"] <= FOLDS
        np.testing.assert_allclose(np.exp(found["scores"]).sum(axis=1), 1, atol=1e-5)


def test_scores_of_test_videos_are_those_of_the_run(made):
    for predictions, group in zip(load_predictions(read_run(made / "poseconv")), groups(made / "store"), strict=True):
        found, names = arrays(made / "store", group)
        mine = found["scores"][[names.index(name) for name in predictions.video_ids]]
        np.testing.assert_allclose(mine, log_probabilities(predictions.scores), atol=1e-5)


def test_training_videos_have_scores_of_the_network_that_has_not_seen_them(made):
    run, group = read_run(made / "poseconv"), groups(made / "store")[0]
    heads, facts, _ = read_held(run, 1, 0)
    found, names = arrays(made / "store", group)
    # Features are all of the first network, whose classifier gives the scores of every other video.
    logits = load_head(run, 1, 0).classifier(torch.from_numpy(found["features"])).detach().numpy()
    close = np.isclose(log_probabilities(logits), found["scores"], atol=1e-5).all(axis=1)
    np.testing.assert_array_equal(close, ~np.isin(names, facts.training))
    train = FeatureStore.open(made / "store").load(split=1, subset="train", arrays=("keypoints",))
    sources = dict(zip(train.video_ids, train.sources, strict=True))
    skeletons = load_skeletons(FeatureStore.open(made / "store"), run.selection, train.slots.tolist())
    assert sorted(name for held in facts.held_out for name in held) == sorted(facts.training)
    for head, held in zip(heads, facts.held_out, strict=True):
        assert not {sources[name] for name in held} & {sources[name] for name in set(facts.training) - set(held)}
        rows = [train.video_ids.index(name) for name in held]
        views = [head({"skeleton": skeletons[rows, view]})[0].detach().numpy() for view in range(skeletons.shape[1])]
        mine = found["scores"][[names.index(name) for name in held]]
        np.testing.assert_allclose(mine, log_probabilities(np.mean(views, axis=0)), atol=1e-4)


def test_run_again_nothing_is_left(copied, made):
    before = digest(copied)
    summary = extract(asked(copied, made / "poseconv"))
    assert (summary.executed, digest(copied)) == (0, before)
    status = {group["path"]: group for group in store_status(str(copied))["groups"]}
    for group in groups(copied):
        assert (status[group.path]["committed"], status[group.path]["quarantined"]) == (60, 15)


def test_parts_and_limits_end_with_the_same_values(bare, made, tmp_path):
    whole = digest(made / "store")
    shutil.copytree(bare, tmp_path / "parts")
    assert extract(asked(bare, made / "poseconv", limit=23)).executed == 23  # in two groups
    extract(asked(bare, made / "poseconv"))
    assert digest(bare) == whole
    for number in (1, 0):
        extract(asked(tmp_path / "parts", made / "poseconv", part=Part(number, 2)))
    assert digest(tmp_path / "parts") == whole


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "point", ["group-copy-written:2", "metadata-renamed", "array-renamed:5", "checksums-written:3", "commit-flushed:6"]
)
def test_cut_short_anywhere_it_ends_with_the_same_values(bare, made, monkeypatch, point):
    def die(*_):
        raise Killed

    name, _, count = point.partition(":")
    monkeypatch.setattr(failpoints, "_NAME", name)
    monkeypatch.setattr(failpoints, "_left", int(count or 1))
    monkeypatch.setattr(failpoints.os, "kill", die)
    with pytest.raises(Killed):
        extract(asked(bare, made / "poseconv"))
    extract(asked(bare, made / "poseconv"))
    report = verify_store(open_objects(bare))
    assert (report.problems, report.digest) == ((), digest(made / "store"))
    collect(open_objects(bare))  # of half an object
    assert digest(bare) == report.digest


def test_neighbours_and_threads_change_nothing(made):
    source = posefeat_sources(asked(made / "store", made / "poseconv"), FeatureStore.open(made / "store"))[0]
    slots = [slot for slot, row in source.known().items() if row.status == "ok"]
    together = source.arrays(slots)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        apart = [source.arrays(part) for part in (slots[:1], slots[1:9], slots[9:])]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for name, values in together.items():
        assert np.concatenate([part[name] for part in apart]).tobytes() == values.tobytes()


def test_what_comes_later_is_added(copied, made):
    """A video whose pose was not there yet, and one whose pose was mended."""
    before, group = digest(copied), groups(copied)[0]
    remove_commit(open_objects(copied), group.path, 1)
    assert extract(asked(copied, made / "poseconv")).executed == 16
    assert digest(copied) == before


def test_a_flipped_byte_is_mended_from_the_run(copied, made, tmp_path):
    before, objects, group = digest(copied), open_objects(copied), groups(copied)[0]
    shutil.copytree(made / "poseconv", tmp_path / "run")
    path = copied / group.path / "features" / "c.1.0"

    def damage():
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        report = verify_store(objects)
        assert [(problem.group, problem.shard) for problem in report.problems] == [(group.path, 1)]
        return report

    assert repair(objects, damage(), progress=Progress()).digest == before
    away = (made / "poseconv").rename(made / "away")
    try:
        with pytest.raises(MissingError, match=r"no run and no file of scores at .*poseconv; put it back"):
            repair(objects, damage(), progress=Progress())
        assert open_objects(copied).get(f"{group.path}/features/c.1.0") is not None
        store = FeatureStore.open(made / "bare")
        train_head(store, head="poseconv", split="all", out=made / "poseconv", **{**FAST, "epochs": 1})
        with pytest.raises(StoreError, match="was computed with other weights"):
            repair(objects, verify_store(objects), progress=Progress())
    finally:
        shutil.rmtree(made / "poseconv", ignore_errors=True)
        away.rename(made / "poseconv")
    assert repair(objects, verify_store(objects), progress=Progress()).digest == before


def test_copied_merged_and_deleted_as_any_group(copied, made, bare_copy, tmp_path):
    before = digest(copied)
    copy_store(open_objects(copied), open_objects(tmp_path / "copy"))
    assert digest(tmp_path / "copy") == before
    merge_stores([open_objects(copied)], open_objects(bare_copy))
    assert digest(bare_copy) == before
    for group in groups(copied):
        delete_group(open_objects(copied), group.path)
    assert digest(copied) == digest(made / "bare")
    assert not (copied / "posefeat").exists()


@pytest.fixture
def bare_copy(made, tmp_path):
    return shutil.copytree(made / "bare", tmp_path / "bare")


def test_loaded_and_exported_where_they_are_named(made, tmp_path):
    store = FeatureStore.open(made / "store")
    assert not {"features", "scores", "seen"} & set(store.load(split=1, subset="test").tensors)
    with pytest.raises(UsageError, match="several posefeat groups fit; choose one with --posefeat: poseconv-sp"):
        store.load(arrays=("scores",))
    with pytest.raises(MissingError, match="holds no posefeat features; add them with"):
        FeatureStore.open(made / "bare").load(arrays=("scores",))
    group = groups(made / "store")[0]
    expected, names = arrays(made / "store", group)
    found = store.load(arrays=("features", "seen"), posefeat="poseconv-split1")
    assert found.video_ids == tuple(names)
    for array in ("features", "seen"):
        np.testing.assert_array_equal(found[array].numpy(), expected[array])
    together = store.load(split=1, subset="test", posefeat="poseconv-split1")
    assert {"cls", "keypoints", "features", "scores", "seen"} <= set(together.tensors)
    streamed = [shard["scores"] for shard in store.iter_shards(arrays=("scores",), posefeat="poseconv-split1")]
    np.testing.assert_array_equal(torch.cat(streamed).numpy(), expected["scores"])
    done = export(store, tmp_path / "npy", to="npy", arrays=("scores", "seen"), posefeat="poseconv-split1")
    assert (done.videos, done.texts) == (45, ())
    index = pq.read_table(tmp_path / "npy" / "index.parquet").to_pylist()
    assert [row["video_id"] for row in index] == names
    for array in ("scores", "seen"):
        written = np.stack([np.load(tmp_path / "npy" / row[f"{array}_file"]) for row in index])
        np.testing.assert_array_equal(written, expected[array])


def test_late_fusion_with_the_group_is_that_with_the_run(made):
    stored = late_fusion(made / "vcs", ["posefeat"], device="cpu")
    run = late_fusion(made / "vcs", [made / "poseconv"], device="cpu")
    for one, other in zip(stored.splits, run.splits, strict=True):
        assert one.validation == other.validation
        assert one.validation_videos == other.validation_videos
        assert (one.weight, one.fused["top1"], one.other["top1"]) == (
            other.weight,
            other.fused["top1"],
            other.other["top1"],
        )
    assert stored.other == ", ".join(group.path for group in groups(made / "store"))
    assert not any("may have been trained" in warning for warning in stored.warnings)


def test_a_network_of_another_split_is_refused(made, bare, tmp_path, monkeypatch):
    store = FeatureStore.open(bare)
    train_head(store, head="poseconv", split=1, out=tmp_path / "one", **{**FAST, "epochs": 1})
    train_head(store, head="vcs", split=2, out=tmp_path / "two", **FAST)
    extract(asked(bare, tmp_path / "one"))
    with pytest.raises(
        UsageError, match=r"was trained on split 1, and has seen test videos of split 2; extract posefeat from"
    ):
        late_fusion(tmp_path / "two", ["posefeat"], device="cpu")
    # The lists may have changed since, so every video is looked at as well.
    monkeypatch.setattr(other_scores, "_group_of", lambda store, named, split: groups(bare)[0])
    with pytest.raises(UsageError, match=r"was trained on \d+ test videos of split 2, the first 'v"):
        late_fusion(tmp_path / "two", ["posefeat"], device="cpu")


def test_a_name_that_picks_no_group_or_several(made, bare, tmp_path):
    with pytest.raises(MissingError, match=r"late is 'posefeat/nobody'; this store has: posefeat/poseconv-split1-"):
        late_fusion(made / "vcs", ["posefeat/nobody"], device="cpu")
    train_head(FeatureStore.open(bare), head="vcs", split=1, out=tmp_path / "vcs", **FAST)
    with pytest.raises(MissingError, match=r"this store has none; add one with: .*--modality posefeat --posefeat RUN"):
        late_fusion(tmp_path / "vcs", ["posefeat"], device="cpu")
    for epochs in (1, 3):
        train_head(
            FeatureStore.open(bare), head="pose", split=1, out=tmp_path / f"p{epochs}", **{**FAST, "epochs": epochs}
        )
        extract(asked(bare, tmp_path / f"p{epochs}"))
    with pytest.raises(UsageError, match="does not name one group of split 1; choose one of: posefeat/pose-split1-"):
        late_fusion(tmp_path / "vcs", ["posefeat"], device="cpu")


def dump(path, store, *, strength, leave_out=()):
    """Scores as mmaction2 dumps them, that say the truth by ``strength``."""
    rng, entries = np.random.default_rng(0), []
    for row in FeatureStore.open(store).videos.to_pylist():
        if row["video_id"] not in leave_out:
            values = rng.normal(size=4)
            values[row["label"]] += strength
            entries.append({"frame_dir": row["video_id"], "pred_score": np.exp(values) / np.exp(values).sum()})
    path.write_bytes(pickle.dumps(entries))
    return path


def test_imported_scores(tmp_path):
    bare = MadeUpStore(tmp_path / "store", videos=120, sources=1, noise=8.0, tokens=()).root
    scores = dump(tmp_path / "scores.pkl", bare, strength=4, leave_out=("v0", "v7"))
    with pytest.raises(UsageError, match=r"say with --posefeat-split on the training videos of which split.*: 1 to 2"):
        extract(asked(bare, scores))
    with pytest.raises(UsageError, match="posefeat-split is 3; allowed: 1, 2"):
        extract(asked(bare, scores, posefeat_split=3))
    summary = extract(asked(bare, scores, posefeat_split=1))
    assert summary.executed == 118
    assert any("nothing is known of 2 videos" in warning for warning in summary.warnings)
    (group,) = groups(bare)
    assert set(group.modality.arrays) == {"scores", "seen"}
    found, names = arrays(bare, group)
    train = {row["video_id"] for row in FeatureStore.open(bare).videos.to_pylist() if row["split1"] == "train"}
    assert {name for name, flag in zip(names, found["seen"], strict=True) if flag} == train - {"v0", "v7"}
    train_head(FeatureStore.open(bare), head="vcs", split=1, out=tmp_path / "vcs", **FAST)
    fused = late_fusion(tmp_path / "vcs", ["posefeat/imported"], device="cpu")
    plain = late_fusion(tmp_path / "vcs", [scores], device="cpu")
    assert fused.splits[0].weight > 0
    assert fused.splits[0].fused["top1"] > fused.splits[0].head["top1"]
    assert (fused.splits, fused.warnings) == (plain.splits, plain.warnings)
    # The same scores again, damaged and mended.
    before = digest(bare)
    next((bare / group.path).rglob("scores/c.0*")).write_bytes(b"not an array")
    report = verify_store(open_objects(bare))
    assert repair(open_objects(bare), report, progress=Progress()).digest == before


def test_what_is_no_source_is_refused(bare, made, tmp_path):
    with pytest.raises(UsageError, match="a run of head 'vcs'; allowed: runs of pose and poseconv"):
        extract(asked(bare, made / "vcs"))
    with pytest.raises(UsageError, match="tells its own splits"):
        extract(asked(bare, made / "poseconv", posefeat_split=1))
    with pytest.raises(MissingError, match="no run and no file of scores at"):
        extract(asked(bare, tmp_path / "nothing"))
    with pytest.raises(UsageError, match="give --posefeat a run or score files"):
        asked(bare)
    with pytest.raises(UsageError, match="modality is pose,posefeat; give posefeat alone"):
        dataclasses.replace(asked(bare, made / "poseconv"), modalities=("pose", "posefeat"))
    with pytest.raises(StoreError, match="no feature store at"):
        extract(asked(tmp_path / "nowhere", made / "poseconv"))
    other = MadeUpStore(tmp_path / "other", class_names=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match=r"a run on 4 classes of made-up, and .* holds 4 of made-up; train one on it"):
        extract(asked(other.root, made / "poseconv"))
    fewer = MadeUpStore(tmp_path / "fewer", videos=32)
    with pytest.raises(UsageError, match=r"was trained on \d+ videos that .*fewer does not have, the first 'v3"):
        extract(asked(fewer.root, made / "poseconv"))
    assert groups(bare) == []
