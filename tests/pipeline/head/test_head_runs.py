"""Training runs from a store on the disk, their directories, and what is refused."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import made_up_heads
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.head import RunResult, TrainConfig, evaluate_run, selection, train_head
from pipeline.head import data as head_data
from pipeline.head import evaluate as head_evaluate
from pipeline.head.checkpoint import read_run
from pipeline.head.config import HeadConfig
from pipeline.head.evaluate import prediction_of
from pipeline.inspection import changed
from store.errors import MissingError, StoreError, UnwrittenError, UsageError

FAST = {"frames": 4, "epochs": 2, "device": "cpu", "training": TrainConfig(batch_size=16)}


@pytest.mark.parametrize(
    "head",
    ["mean", "vcs", "pvcs", "pvcs-joint", "attn", "pose", "poseconv", "fuse", "vcs+pose", HeadConfig(modalities="P+T")],
)
def test_a_run_is_reproduced_to_the_bit(make_store, tmp_path, head):
    made = make_store()
    result = train_head(made.open(), head=head, split="all", seeds=2, out=tmp_path / "run", **FAST)
    assert [(s.split, s.seed) for s in result.scores] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(s.videos + s.train_videos == made.videos for s in result.scores)
    assert result.chance == 0.25
    assert result.complete
    again = evaluate_run(tmp_path / "run")
    assert again.reproduced
    assert again.scores == result.scores
    assert again.summaries == result.summaries
    assert again.coverage == result.coverage


def test_the_directory_holds_everything(make_store, tmp_path):
    made = make_store()
    result = train_head(str(made.root), head="pvcs", out=tmp_path / "run", **FAST)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["top1"] == result.top1
    assert record["features"]["fingerprint"] == result.selection.fingerprint
    assert record["features"]["clip"] == made.clip.id
    assert record["features"]["pose"] == made.pose.id
    assert record["class_names"] == list(made.class_names)
    assert record["training"]["epochs"] == 2
    assert record["environment"]["threads"] == torch.get_num_threads()
    assert any("random weights" in warning for warning in record["warnings"])
    assert RunResult.from_dict(record).to_dict() == record
    assert read_run(tmp_path / "run") == result
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert len(table) == result.scores[0].videos
    correct = np.array(table["predicted"].to_pylist()) == np.array(table["class_name"].to_pylist())
    assert correct.mean() == pytest.approx(result.top1)
    assert [row[0] for row in table["top5"].to_pylist()] == [int(np.argmax(row)) for row in table["logits"].to_pylist()]


def test_the_same_seed_gives_the_same_files(make_store, tmp_path):
    made = make_store()
    first, second = (train_head(made.open(), head="fuse", out=tmp_path / name, **FAST) for name in "ab")
    assert first.files == second.files


def test_no_epochs_are_zero_shot(make_store, tmp_path):
    made = make_store()
    options = {**FAST, "epochs": 0}
    runs = [train_head(made.open(), head=head, out=tmp_path / head, **options) for head in ("vcs", "pvcs", "fuse")]
    assert len({run.top1 for run in runs}) == 1
    assert runs[0].top1 > 0.9
    assert runs[0].scores[0].loss is None
    assert evaluate_run(runs[0]).reproduced


def test_fewer_frames_are_a_subset(make_store, tmp_path):
    made = make_store()
    result = train_head(made.open(), head="fuse", out=tmp_path / "run", **{**FAST, "frames": 2})
    assert result.sizes.frames == 2
    assert evaluate_run(result).reproduced
    with pytest.raises(UsageError, match="frames is 8; allowed: 1 to 4"):
        train_head(made.open(), head="vcs", out=tmp_path / "other", **{**FAST, "frames": 8})


def test_other_features_are_refused(make_store, tmp_path):
    result = train_head(make_store().open(), head="vcs", out=tmp_path / "run", **FAST)
    # The same model over other videos: the same group, other numbers.
    twin = make_store("twin")
    head_of_twin = evaluate_run(result, twin.open())
    assert head_of_twin.reproduced
    other = make_store("other", seed=1)
    with pytest.raises(StoreError, match=f"trained on features of {result.selection.clip} and .* has {other.clip.id}"):
        evaluate_run(result, other.open())
    allowed = evaluate_run(result, other.open(), allow_mismatch=True)
    assert not allowed.reproduced
    assert allowed.selection.clip == other.clip.id


def test_a_checkpoint_of_another_backbone_is_refused(make_store, tmp_path, monkeypatch):
    result = train_head(make_store().open(), head="vcs", out=tmp_path / "run", **FAST)
    monkeypatch.setattr(made_up_heads, "DIM", 12)
    narrow = make_store("narrow").open()
    with pytest.raises(StoreError, match=r"are not those that .* train again, or give --allow-mismatch to"):
        evaluate_run(result, narrow)
    with pytest.raises(UsageError, match=r"head reads frames 16 wide and .* has them 12 wide; evaluate on features of"):
        evaluate_run(result, narrow, allow_mismatch=True)


def test_changed_numbers_are_refused(make_store, tmp_path, monkeypatch):
    made = make_store()
    result = train_head(made.open(), head="vcs", out=tmp_path / "run", **FAST)
    other = made.open()
    monkeypatch.setattr(type(other), "fingerprint", lambda *_, **__: "0" * 64)
    with pytest.raises(
        StoreError, match=rf"not those .* trained on \(fingerprint {result.selection.fingerprint[:12]}\)"
    ):
        evaluate_run(result, other)
    assert evaluate_run(result, other, allow_mismatch=True).reproduced


@pytest.mark.parametrize("head", ["vcs", "mean"])
@pytest.mark.parametrize("recorded", [True, False], ids=["with its text set", "without"])
def test_a_text_set_more_changes_nothing_for_a_run(make_store, tmp_path, head, recorded):
    made = make_store()
    result = train_head(made.open(), head=head, out=tmp_path / "run", **FAST)
    (first,) = (g.modality.id for g in made.open().groups.values() if g.modality.kind == "text")
    assert result.selection.text == first
    if not recorded:  # as runs were written once
        forget_text(tmp_path / "run")
    made.add_text("a {}")
    again = evaluate_run(tmp_path / "run")
    assert again.reproduced
    assert again.selection == result.selection
    assert changed(read_run(tmp_path / "run"), made.open()) == []


def test_a_run_reads_its_own_text_set(make_store, tmp_path):
    made = make_store()
    second = made.add_text("a {}")
    result = train_head(made.open(), head="vcs", out=tmp_path / "run", text=second, **FAST)
    assert result.selection.text == second
    # Runs once had every text set of the time in their fingerprint.
    texts = selection.text_sets(made.open(), result.selection)
    forget_text(tmp_path / "run", text=second, fingerprint=made.open().fingerprint(clip=made.clip.id, texts=texts))
    made.add_text("the {}")
    again = evaluate_run(tmp_path / "run")
    assert (again.reproduced, again.selection.text) == (True, second)
    # One whose set is in no store: other numbers are refused, and taken where that is allowed.
    forget_text(tmp_path / "run", text="gone", fingerprint="0" * 64)
    with pytest.raises(StoreError, match="give --allow-mismatch"):
        evaluate_run(tmp_path / "run")
    assert changed(read_run(tmp_path / "run"), made.open())
    assert evaluate_run(tmp_path / "run", make_store("one").open(), allow_mismatch=True).selection.text != "gone"


def forget_text(run, **features):
    path = run / "run.json"
    record = json.loads(path.read_text())
    record["features"] |= {"text": None, **features}
    path.write_text(json.dumps(record))


def test_other_classes_are_refused(make_store, tmp_path):
    result = train_head(make_store().open(), head="vcs", out=tmp_path / "run", **FAST)
    other = make_store("other").open()
    object.__setattr__(other.plan, "class_names", ("a", "b", "c", "d"))
    with pytest.raises(StoreError, match=r"trained on 4 classes of made-up and .* has others"):
        evaluate_run(result, other, allow_mismatch=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"temporal_layers": 6, "word_mode": "all"}, {"pose_in": "weights"}],
    ids=["vilp", "six layers", "weights"],
)
@pytest.mark.parametrize("loss", ["all-class", "in-batch"])
def test_the_published_head_trains_on_heatmap_embeddings(make_store, tmp_path, options, loss):
    made = make_store(heatmap_clip=True)
    training = TrainConfig(batch_size=16, loss=loss)
    config = HeadConfig(head="vilp", **options)
    result = train_head(made.open(), head=config, out=tmp_path / "run", **{**FAST, "frames": 2, "training": training})
    assert result.config == config
    assert result.scores[0].loss > 0
    assert evaluate_run(result).reproduced


def test_of_several_estimators_the_only_one_with_heatmaps_need_not_be_named(make_store, tmp_path):
    made = make_store(second_pose=True, heatmap_clip="second")
    result = train_head(made.open(), head="vilp", out=tmp_path / "run", **FAST)
    assert result.selection.pose == made.second_pose.id
    with pytest.raises(UsageError, match="several pose groups fit; choose one with --pose: "):
        train_head(made.open(), head="pvcs", out=tmp_path / "other", **FAST)


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("pvcs", {"pose": False}, "vilp-pipe extract --store .* --modality pose"),
        ("fuse", {"tokens": ("value",)}, "'penult'.* --tokens value,penult"),
        ("attn", {"tokens": ()}, "'penult'.* --tokens value,penult"),
        ("vilp", {}, "'heatmap_clip'.* --modality pose --heatmap joints"),
    ],
)
def test_a_missing_modality_is_named_before_anything_is_written(make_store, tmp_path, head, options, message):
    with pytest.raises(MissingError, match=message) as caught:
        train_head(make_store(**options).open(), head=head, out=tmp_path / "run", **FAST)
    assert caught.value.kind == "missing-modality"
    assert not (tmp_path / "run").exists()


def test_skeletons_need_no_clip(make_store, tmp_path):
    made = make_store(clip=False)
    for head in ("pose", HeadConfig(modalities="P")):
        result = train_head(made.open(), head=head, split="all", out=tmp_path / "run", **{**FAST, "frames": 8})
        assert result.selection.clip is None
        assert result.selection.views == ("center", "flip")
        assert evaluate_run(result).reproduced
        assert not any("random weights" in line for line in result.warnings)
    other = make_store("other", clip=False, seed=1)
    with pytest.raises(StoreError, match=r"are not those that the run was trained on"):
        evaluate_run(result, other.open())
    for head in ("vcs+pose", HeadConfig(modalities="P+T"), "vcs"):
        with pytest.raises(MissingError, match=r"holds no clip features; add them with: .* --modality clip"):
            train_head(made.open(), head=head, out=tmp_path / "more", **FAST)


def test_a_class_without_training_videos_is_a_warning(make_store, tmp_path):
    result = train_head(make_store(train_classes=3).open(), head="vcs", out=tmp_path / "run", **FAST)
    assert "no training video in split 1 for 1 of 4 classes: dive" in result.warnings
    assert evaluate_run(result).warnings == result.warnings


def test_an_official_split_with_missing_videos_is_marked(make_store, tmp_path):
    result = train_head(make_store(dataset="hmdb51").open(), head="vcs", out=tmp_path / "run", **FAST)
    assert not result.complete
    assert result.coverage["1"]["test"]["missing"] == 1530 - result.scores[0].videos
    assert any(warning.startswith("incomplete dataset") for warning in result.warnings)


def test_the_number_of_test_videos_is_asserted(make_store, tmp_path, monkeypatch):
    """Against what the store has now, and against the official number."""
    made = make_store(dataset="hmdb51")
    with monkeypatch.context() as patch:
        patch.setattr(head_evaluate, "prediction_of", lambda *given: without_last(prediction_of(*given)))
        with pytest.raises(StoreError, match=r"split 1 was tested on 15 videos and .* has 16 usable ones now"):
            train_head(made.open(), head="vcs", out=tmp_path / "short", **FAST)
    assert not (tmp_path / "short" / "run.json").exists()
    monkeypatch.setitem(selection.OFFICIAL_SPLITS, "hmdb51", ((44, 15), (44, 15)))
    with pytest.raises(StoreError, match=r"test of hmdb51 split 1 has 16 videos in .*; the official split has 15"):
        train_head(made.open(), head="vcs", out=tmp_path / "more", **FAST)


def without_last(found):
    return replace(
        found,
        **{name: getattr(found, name)[:-1] for name in ("scores", "labels", "slots", "video_ids", "sources")},
    )


def test_what_gives_test_videos_away_is_a_warning(make_store, tmp_path):
    def warnings(name, **options):
        made = make_store(name, **options)
        run = train_head(made.open(), head="vcs", split="all", out=tmp_path / f"run {name}", **FAST)
        return [line for line in run.warnings if line.startswith("leak")]

    assert warnings("clean") == []
    # Sources of eight videos: the third one is tested in split 1, and its first video is the first of the store again.
    found = warnings("copied", files={16: "hash0"})
    assert found == [
        "leak: 1 of 16 test videos of split 1 share the file with a training video, v16 first; accuracy is too high by "
        "what a head remembers of those"
    ]
    found = warnings("torn", sources=12)
    assert len(found) == 2
    assert "test videos of split 2 share source and class with a training video" in found[1]


def test_videos_that_splits_share_are_missed_once(make_store, tmp_path):
    made = make_store(quarantined_class=1)
    result = train_head(made.open(), head="vcs", split="all", out=tmp_path / "run", **FAST)
    assert sum(subset["quarantined"] for split in result.coverage.values() for subset in split.values()) == 30
    (warning,) = (line for line in result.warnings if line.startswith("incomplete dataset"))
    assert "of 60 videos in the splits used 0 are not extracted and 15 quarantined, 0 listed ones are not on" in warning


@pytest.mark.parametrize("device", ["cuda:1", "cpu:0"])
def test_a_device_is_held_against_what_torch_sees_before_anything_is_read(make_store, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=f"device is '{device}'.* cuda:0"):
        train_head(make_store().open(), head="vcs", **{**FAST, "device": device})


def test_usage_errors(make_store, tmp_path):
    store = make_store().open()
    with pytest.raises(UsageError, match="split is 3; allowed: 1, 2, all"):
        train_head(store, split=3, head="vcs", **FAST)
    with pytest.raises(UsageError, match="seeds is 0"):
        train_head(store, seeds=0, head="vcs", **FAST)
    with pytest.raises(UsageError, match="device is 'tpu9'"):
        train_head(store, head="vcs", **{**FAST, "device": "tpu9"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        train_head(store, head="vcs", out=tmp_path / "full", **FAST)
    with pytest.raises(MissingError, match=r"no run in .*vilp-pipe train-head --out"):
        evaluate_run(tmp_path / "nowhere")
    object.__setattr__(store.plan, "class_names", ("only",))
    with pytest.raises(UsageError, match="has one class"):
        train_head(store, head="vcs", **FAST)


def test_a_changed_checkpoint_is_noticed(make_store, tmp_path):
    result = train_head(make_store().open(), head="vcs", out=tmp_path / "run", **FAST)
    path = tmp_path / "run" / "split1-seed0.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is not as it was written"):
        evaluate_run(result)


def test_videos_with_nan_are_named(make_store, tmp_path, monkeypatch):
    store = make_store().open()
    load = type(store).load

    def poisoned(self, **options):
        features = load(self, **options)
        features["cls"][1, 0, 2, 3] = float("nan")
        return features

    monkeypatch.setattr(type(store), "load", poisoned)
    with pytest.raises(StoreError, match="frames holds values that are not finite for v"):
        train_head(store, head="vcs", out=tmp_path / "run", **FAST)


def test_a_run_may_replace_a_run_and_default_names_are_free(make_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = make_store().open()
    first = train_head(store, head="vcs", **FAST)
    second = train_head(store, head="vcs", **FAST)
    assert [str(r.directory) for r in (first, second)] == ["runs/store-vcs", "runs/store-vcs-2"]
    replaced = train_head(store, head="mean", out=first.directory, seeds=2, **FAST)
    assert evaluate_run(first.directory).config.head == "mean"
    assert replaced.summaries[0].interval[0] <= replaced.top1 <= replaced.summaries[0].interval[1]


def test_a_run_that_cannot_be_written_leaves_the_one_that_was_there(make_store, tmp_path, monkeypatch):
    store = make_store().open()
    train_head(store, head="vcs", seeds=2, out=tmp_path / "run", **FAST)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UnwrittenError, match=r"^cannot write .*safetensors: No space left on device") as caught:
            train_head(store, head="mean", out=tmp_path / "run", **FAST)
        with pytest.raises(UnwrittenError):
            train_head(store, head="mean", out=tmp_path / "other", **FAST)
    assert caught.value.result.summaries
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert not (tmp_path / "other").exists()
    train_head(store, head="mean", out=tmp_path / "run", **FAST)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"run.json", "predictions.parquet", "split1-seed0.safetensors"}
    # Stopped between its last file and its place: the next one who looks finds it.
    (tmp_path / "run" / ".new").mkdir()
    (tmp_path / "run" / "run.json").rename(tmp_path / "run" / ".new" / "run.json")
    assert evaluate_run(tmp_path / "run").reproduced


def full(*_, **__):
    raise OSError(errno.ENOSPC, "full")


def test_splits_without_videos_are_refused_before_any_training(make_store, tmp_path):
    made = make_store(train_classes=0)
    with pytest.raises(MissingError, match=r"^split 1 of .* has no training videos; name another --split, or list "):
        train_head(made.open(), head="vcs", split="all", out=tmp_path / "run", progress=pytest.fail, **FAST)
    store = make_store("whole").open()
    column = store.plan.videos.column_names.index("split2")
    trained = store.plan.videos.set_column(column, "split2", pa.array(["train"] * len(store.plan.videos)))
    object.__setattr__(store.plan, "videos", trained)
    with pytest.raises(MissingError, match=r"^split 2 of .* has no test videos"):
        train_head(store, head="vcs", split="all", out=tmp_path / "run", progress=pytest.fail, **FAST)
    lost = make_store("lost").open()
    lost.usable = lambda groups: lost.selected(1, "train")
    with pytest.raises(MissingError, match=r"^test of split 1 has no video with features"):
        train_head(lost, head="vcs", out=tmp_path / "run", progress=pytest.fail, **FAST)
    assert not (tmp_path / "run").exists()


def test_a_training_that_fails_leaves_no_folder(make_store, tmp_path, monkeypatch):
    monkeypatch.setattr(head_evaluate, "fit_runs", full)
    for name in ("new", "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(OSError, match="full"):
            train_head(make_store(name + " store").open(), head="vcs", out=tmp_path / name, **FAST)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").is_dir()


def test_progress_is_told_epoch_by_epoch(make_store, tmp_path):
    reports = []
    store = make_store().open()
    train_head(store, head="vcs", split="all", seeds=2, out=tmp_path / "run", progress=reports.append, **FAST)
    # All four are trained together, as they are small; their epochs end when their own videos do.
    heard = [(r.split, r.seed, r.epoch) for r in reports]
    assert sorted(heard) == [(s, n, e) for s in (1, 2) for n in (0, 1) for e in (1, 2)]
    assert [r.epoch for r in reports] == sorted(r.epoch for r in reports)
    assert {r.runs for r in reports} == {4}
    assert all(report.epochs == 2 and report.loss > 0 for report in reports)


def test_the_test_set_is_not_read_before_training_ends(make_store, tmp_path, monkeypatch):
    events = []
    load = head_data.load_inputs
    monkeypatch.setattr(head_data, "load_inputs", lambda *a, **k: events.append(k["subset"]) or load(*a, **k))
    store = make_store().open()
    train_head(store, head="vcs", out=tmp_path / "run", progress=lambda r: events.append(r.epoch), **FAST)
    assert events == ["train", 1, 2, "test"]
