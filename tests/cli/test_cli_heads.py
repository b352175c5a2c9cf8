"""``train-head``, ``evaluate`` and ``study``: what they print, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Vilp
from disks import tmpfs
from made_up_heads import MadeUpStore

from pipeline.studies import STUDIES


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(MadeUpStore(tmp_path_factory.mktemp("made-up") / "store", video=True).root)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    names = ("pour", "run", "swim", "talk")
    return str(MadeUpStore(tmp_path_factory.mktemp("other") / "others", class_names=names).root)


def test_a_run_from_training_to_every_test(run: Vilp, store: str, other: str) -> None:
    made = run(
        *("train-head", "--store", store, "--head", "pvcs+pose", "--split", "all", "--seeds", "2", "--frames", "4"),
        *("--epochs", "2", "--batch-size", "16", "--device", "cpu", "--out", "run", "--pose-in", "values", "--json"),
    )
    assert made.code == 0, made.err
    record = json.loads(made.out)
    assert record["config"]["pose_in"] == "values"
    assert len(record["scores"]) == 4
    assert record["interval"][0] <= record["top1"] <= record["interval"][1]
    again = json.loads(run("evaluate", "--run", "run", "--device", "cpu", "--json").out)
    assert again["reproduced"] is True
    assert again["splits"] == record["splits"]
    words = run("evaluate", "--run", "run", "--views", "center", "--device", "cpu")
    assert "mean of splits: top-1" in words.out
    assert f"table: {record['table'][1]}" in words.out
    few = json.loads(run("evaluate", "--run", "run", "--few-shot", "1,2", "--device", "cpu", "--json").out)
    assert [row["shots"] for row in few["rows"]] == [1, 2]
    across = run("evaluate", "--run", "run", "--store", other, "--device", "cpu", "--json")
    assert across.code == 0, across.err
    found = json.loads(across.out)
    assert (found["trained_on"], found["dataset"], found["heads"]) == ("made-up", "made-up", 2)
    assert "learnt on made-up, 2 heads" in run("evaluate", "--run", "run", "--store", other, "--device", "cpu").out


def test_a_run_is_repeated_from_its_settings_after_a_text_set_was_added(run: Vilp, tmp_path: Path) -> None:
    made = MadeUpStore(tmp_path / "own", pose=False)
    options = ("--frames", "4", "--epochs", "1", "--device", "cpu")
    assert run("train-head", "--store", str(made.root), "--head", "vcs", *options, "--out", "run").code == 0
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    assert f'text = "{first["features"]["text"]}"' in (tmp_path / "run" / "train-head.toml").read_text()
    made.add_text("a {}")
    again = run("train-head", "--config", "run/train-head.toml", "--out", "again", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["files"] == first["files"]


def test_figures_are_shown_though_the_run_cannot_be_written(run: Vilp, store: str, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "8k") as small:
        made = run(
            *("train-head", "--store", store, "--head", "attn", "--frames", "4", "--epochs", "1", "--device", "cpu"),
            *("--out", str(small / "run")),
        )
        assert made.code == 1
        assert "mean of splits: top-1" in made.out
        assert "next:" not in made.out
        (error,) = (line for line in made.err.splitlines() if line.startswith("error"))
        assert error.startswith(f"error: cannot write {small / 'run'}"), error
        assert "No space left on device" in error
        assert list(small.iterdir()) == []
        study = run("study", "frames", "--store", store, "--epochs", "1", "--seeds", "1", "--out", str(small / "study"))
        assert study.code == 1
        assert "Verdict" in study.out
        assert f"error: cannot write {small / 'study' / 'frames.png'}: No space left on device" in study.err
        assert not list((small / "study").iterdir())


def test_a_video_model_and_late_fusion(run: Vilp, store: str) -> None:
    options = ("--store", store, "--epochs", "2", "--frames", "4", "--device", "cpu")
    clips = run("train-head", *options, "--head", "mean", "--video", "small", "--out", "clips", "--json")
    assert clips.code == 0, clips.err
    assert json.loads(clips.out)["features"]["encoder"] == "video"
    assert run("train-head", *options, "--head", "poseconv", "--out", "poseconv").code == 0
    assert run("train-head", *options, "--head", "vcs", "--out", "vcs").code == 0
    said = run("evaluate", "--run", "vcs", "--late", "poseconv", "--device", "cpu")
    assert said.code == 0, said.err
    assert "late fusion on made-up: vcs with run poseconv (poseconv)" in said.out
    assert "fused: top-1" in said.out
    found = json.loads(run("evaluate", "--run", "vcs", "--late", "clips", "--device", "cpu", "--json").out)
    assert found["other"] == "run clips (mean)"
    again = run("train-head", "--config", "clips/train-head.toml", "--out", "again", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["features"] == json.loads(clips.out)["features"]


def test_what_is_not_where_it_should_be_is_told_with_the_way_out(run: Vilp, tmp_path: Path) -> None:
    made = MadeUpStore(tmp_path / "own", train_classes=3)
    options = ("--store", str(made.root), "--epochs", "1", "--frames", "4", "--device", "cpu")
    for head in ("vcs", "pose"):
        assert run("train-head", *options, "--head", head, "--out", head).code == 0
    fused = run("evaluate", "--run", "vcs", "--late", "pose", "--out", "late", "--device", "cpu")
    assert fused.code == 0, fused.err
    notes = [line for line in fused.out.splitlines() if line.startswith("note: no training video")]
    assert len(notes) == len(set(notes)) == 1
    for command in ("evaluate", "report", "inspect"):
        more = ("--store", str(made.root), "--random", "1") if command == "inspect" else ()
        found = run(command, "--run", "late", *more)
        assert found.code == 2
        assert "late holds a late fusion" in found.err
        assert "vilp-pipe predict VIDEO --run late" in found.err
        assert "train-head" not in found.err
    nothing = run("evaluate", "--run", "vcs", "--late", "poes", "--device", "cpu")
    assert "late is 'poes', and there is no such run or file; allowed: the folder of a run" in nothing.err
    made.root.rename(tmp_path / "moved")
    for more in ((), ("--late", "pose"), ("--few-shot", "1")):
        gone = run("evaluate", "--run", "vcs", "--device", "cpu", *more)
        assert gone.code == 1
        assert f"no store at {made.root}, from which the run was trained" in gone.err
        assert "--store" in gone.err
        assert "extract" not in gone.err
    again = run("evaluate", "--run", "vcs", "--store", str(tmp_path / "moved"), "--device", "cpu")
    assert "to the bit: yes" in again.out, again.err


def test_zero_shot_needs_no_run(run: Vilp, store: str) -> None:
    found = run("evaluate", "--zero-shot", "--store", store, "--head", "mean", "--frames", "4", "--device", "cpu")
    assert found.code == 0, found.err
    assert "zero-shot on made-up: head mean, untrained" in found.out
    assert "half of the classes (2), 10 draws: top-1" in found.out
    assert found.out.count("test videos of split") == 2


def test_half_of_few_classes_is_not_told(run: Vilp, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.head.protocols.half_class_top1", lambda *_: ())
    options = ("evaluate", "--zero-shot", "--store", store, "--head", "mean", "--frames", "4", "--device", "cpu")
    assert "half of the classes" not in run(*options).out
    assert json.loads(run(*options, "--json").out)["half_mean"] is None


def test_tuning_is_told(run: Vilp, store: str) -> None:
    tuned = run(
        *("train-head", "--store", store, "--head", "mean", "--frames", "2", "--epochs", "2", "--device", "cpu"),
        *("--out", "run", "--tune"),
    )
    assert tuned.code == 0, tuned.err
    assert "training videos of split 1: " in tuned.out


def test_a_study(run: Vilp, store: str, tmp_path: Path) -> None:
    options = ("--store", store, "--frames", "4", "--seeds", "1", "--epochs", "1", "--device", "cpu")
    said = run("study", "occlusion", *options)
    assert said.code == 0, said.err
    assert "**Verdict: " in said.out
    assert "png: studies/store-occlusion/occlusion.png" in said.out
    found = json.loads(run("study", "occlusion", *options, "--precision", "bf16", "--json").out)
    assert found["settings"]["training"]["precision"] == "bf16"
    assert found["files"]["json"] == "studies/store-occlusion-2/occlusion.json"
    assert found["settings"]["head"]["persons"] == "all"
    moving = json.loads(run("study", "occlusion", *options, "--persons", "moving", "--json").out)
    assert moving["settings"]["head"]["persons"] == "moving"
    assert 'persons = "moving"' in (tmp_path / moving["files"]["json"]).with_name("study.toml").read_text()
    help_text = run("study", "--help").out
    assert all(name in help_text for name in STUDIES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train-head", "--head", "svm"),
            "head is 'svm'; allowed: mean, vcs, vilp, pvcs, pvcs-joint, attn, pose, poseconv, fuse",
        ),
        (("train-head", "--modalities", "x"), "modalities is 'X'; allowed: V, P, V+T, P+T, V+P, V+P+T"),
        (("train-head", "--head", "vcs", "--loss", "kl"), "loss is 'kl'; allowed: all-class, in-batch"),
        (("train-head", "--head", "attn", "--frames", "4", "--epochs", "0"), "epochs is 0 (zero-shot) and head 'attn'"),
        (("train-head", "--head", "vcs", "--interpolation", "2"), "interpolation is 2.0; allowed: above 0, up to 1"),
        (("train-head", "--head", "vcs", "--word-mode", "end"), "word mode is 'end'; allowed: name+eot, name, all"),
        (("evaluate",), "run is not given; name the folder of a training run with --run, or give --zero-shot"),
        (("evaluate", "--few-shot", "2,x", "--run", "r"), "few-shot is '2,x'; allowed: numbers from 1 on"),
        (("evaluate", "--few-shot", "2", "--run", "r", "--zero-shot"), "few-shot trains the head of a run again"),
        (("evaluate", "--late", "x.pkl", "--run", "r", "--zero-shot"), "late fuses the head of a run: give --run"),
        (("train-head", "--head", "vcs", "--video", "small"), "allowed with it: mean, attn, also with +pose"),
        (("study", "everything"), "study is 'everything'; allowed: pose, frames"),
        (("study", "pose", "--head", "vcs"), "head is 'vcs', which is nothing without pose, or reads none"),
        (("study", "pose", "--persons", "first"), "persons is 'first'; allowed: all, moving"),
        (
            ("study", "pose", "--head", "vcs+pose", "--persons", "moving"),
            "persons is moving, which head 'vcs+pose' does",
        ),
        (("study", "pose", "--precision", "fp16"), "precision is 'fp16'; allowed: auto, fp32, bf16"),
        (("study", "pose", "--epochs", "0"), "epochs is 0; a study trains"),
        (("study", "transfer"), "to is not given; name the store of another dataset with --to"),
    ],
)
def test_what_is_wrong_is_one_line(run: Vilp, store: str, arguments: tuple[str, ...], message: str) -> None:
    named = () if "r" in arguments or arguments == ("evaluate",) else ("--store", store)
    outcome = run(*arguments, *named)
    assert outcome.code == 2
    assert message in outcome.error
