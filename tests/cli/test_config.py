"""Configuration files: read by every command, kept with what was made, and enough to make it again."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import parsing
import pytest
import stores
from commands import Vilp
from hypothesis import given
from hypothesis import strategies as st
from made_up_heads import MadeUpStore
from s3server import S3Server

from cli.config import _key
from pipeline.config import ExtractConfig
from pipeline.head.config import HeadConfig
from pipeline.head.train import TrainConfig
from pipeline.settings import as_toml
from store.errors import UsageError
from store.objects import open_objects

COMMANDS = {" ".join(words): command for words, command in parsing.commands()}
QUICK = ("--frames", "2", "--epochs", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))


def test_every_command_takes_a_file() -> None:
    assert len(COMMANDS) >= 18
    for name, command in COMMANDS.items():
        assert "config" in {param.name for param in command.params}, name


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'dataset = "hmdb51"\n[extract]\nframes = 8\npose_frames = 24\nviews = ["center", "flip"]\nstrict = true\n'
        '[train-head]\nhead = "vcs"\n'
    )
    found = parsing.parse(f"vilp-pipe extract --frames 4 --config {path}").params
    assert (found["dataset"], found["frames"], found["pose_frames"]) == ("hmdb51", 4, 24)
    assert (found["views"], found["strict"], found["batch_size"]) == ("center,flip", True, None)
    assert parsing.parse(f"vilp-pipe extract --config {path} --no-strict").params["strict"] is False


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf[extract]\r\nframes = 8\r\n")
    assert parsing.parse(f"vilp-pipe extract --config {path}").params["frames"] == 8


def test_doctor_reads_what_extract_would_do(tmp_path: Path) -> None:
    """The table of extract where there is none of its own, as the files that stores keep have it."""
    path = tmp_path / "mine.toml"
    path.write_text('[extract]\ndataset = "hmdb51"\npose-frames = 96\nstrict = true\nray_address = "auto"\n')
    found = parsing.parse(f"vilp-pipe doctor --config {path}").params
    assert (found["dataset"], found["pose_frames"]) == ("hmdb51", 96)
    path.write_text("[extract]\nframes = 8\n[doctor]\nlimit = 3\n")
    found = parsing.parse(f"vilp-pipe doctor --config {path}").params
    assert (found["frames"], found["limit"]) == (None, 3)


def test_a_word_that_extract_does_not_know_is_none_of_doctor_either(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[extract]\nframe = 8\n")
    with pytest.raises(UsageError, match="'frame' is no option of doctor; did you mean frames"):
        parsing.parse(f"vilp-pipe doctor --config {path}")


def test_arguments_and_repeated_options_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[predict]\nvideos = ["a.mp4", "b c.mp4"]\nrun = "r"\ncode = "m:n"\n[study]\nname = "pose"\n')
    found = parsing.parse(f"vilp-pipe predict --config {path}").params
    assert (found["videos"], found["run"], found["code"]) == (["a.mp4", "b c.mp4"], "r", ["m:n"])
    assert parsing.parse(f"vilp-pipe predict x.mp4 --config {path}").params["videos"] == ["x.mp4"]
    assert parsing.parse(f"vilp-pipe study --config {path}").params["name"] == "pose"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("framse = 8", 2, "'framse' is no option of extract; did you mean frames?; see vilp-pipe extract --help"),
        ("[extract]\nheads = 8", 2, "'heads' is no option of extract"),
        ("[exract]\nframes = 8", 2, "[exract] is no command; did you mean extract?"),
        ("[train-head]\nframes = 8", 2, "says nothing for extract; its tables are: train-head"),
        ("[extract.frames]\nx = 1", 2, "frames is {'x': 1}; allowed: one value, or a list of values"),
        ("strict = 'yes'", 2, "strict is 'yes'; allowed: true, false"),
        ("config = 'x.toml'", 2, "'config' is no option of extract"),
        ("frames = 8.5", 2, "frames is '8.5'; input should be a valid integer"),
        ("dataset = 'hmdb15'", 2, "did you mean hmdb51?"),
        ("frames: 8", 2, "is no TOML"),
        (None, 1, "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(
    run: Vilp, tmp_path: Path, content: str | None, code: int, words: str
) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_text(content)
    outcome = run("extract", "--config", "mine.toml")
    assert outcome.code == code
    assert words in outcome.line


def test_a_store_keeps_settings_that_make_the_same_store(run: Vilp, tmp_path: Path, small_videos: Path) -> None:
    options = ("--frames", "2", "--pose-frames", "4", "--limit", "3", "--shard-len", "2", "--engine", "inline")
    own = ("--modality", "pose", "--pose", "plain_pose:PlainEstimator")
    where = ("--dataset", "folder", "--root", str(small_videos))
    assert run("extract", *where, "--store", "first", *options, *own).code == 0
    (kept,) = (tmp_path / "first" / "_tables" / "configs").iterdir()
    assert tomllib.loads(kept.read_text())["extract"]["limit"] == 3
    assert run("extract", "--config", str(kept), "--store", "second").code == 0
    first, second = (json.loads(run("verify", "--store", name, "--json").out) for name in ("first", "second"))
    assert first["digest"] == second["digest"]
    assert [path.name for path in (tmp_path / "second" / "_tables" / "configs").iterdir()] == [kept.name]
    assert run("copy", "first", "third").code == 0
    assert (tmp_path / "third" / "_tables" / "configs" / kept.name).read_bytes() == kept.read_bytes()
    assert run("gc", "--store", "first", "--dry-run").out.startswith("0 objects")
    kept.write_bytes(kept.read_bytes() + b"#")
    assert "is a damaged record of settings" in run("verify", "--store", "first").out
    assert run("verify", "--store", "first", "--repair", "--json").code == 0
    assert not kept.exists()


def test_a_run_keeps_settings_that_make_the_same_run(run: Vilp, tmp_path: Path) -> None:
    store = MadeUpStore(tmp_path / "made-up")
    options = ("--head", "pvcs+pose", "--seeds", "2", "--tau", "0.02", "--weight-decay", "0.01", "--random-frames")
    assert run("train-head", "--store", "made-up", *QUICK, *options, "--out", "first").code == 0
    again = run("train-head", "--config", "first/train-head.toml", "--out", "second", "--json")
    assert again.code == 0, again.err
    first = json.loads((tmp_path / "first" / "run.json").read_text())
    assert json.loads(again.out)["files"] == first["files"]
    kept = tomllib.loads((tmp_path / "second" / "train-head.toml").read_text())["train-head"]
    assert (kept["store"], kept["weight-decay"], kept["pose"]) == (str(store.root), 0.01, first["features"]["pose"])
    assert not {"out", "json", "config"} & set(kept)


def test_a_study_keeps_settings_that_give_the_same_answer(run: Vilp, tmp_path: Path) -> None:
    MadeUpStore(tmp_path / "made-up")
    first = run("study", "occlusion", "--store", "made-up", *QUICK, "--seeds", "1", "--json")
    assert first.code == 0, first.err
    folder = Path(json.loads(first.out)["files"]["json"]).parent
    second = run("study", "--config", folder / "study.toml", "--json")
    one, two = ({**json.loads(outcome.out), "files": None} for outcome in (first, second))
    assert one == two


def test_an_export_keeps_settings_in_a_folder_and_in_a_bucket(run: Vilp, tmp_path: Path, s3: S3Server) -> None:
    stores.build(tmp_path / "stores" / "mine")
    options = ("--format", "npy", "--arrays", "cls", "--split", "1", "--subset", "test")
    assert run("export", "--out", "first", *options).code == 0
    again = run("export", "--config", "first/export.toml", "--out", s3.url("second"))
    assert again.code == 0, again.err
    kept = open_objects(s3.url("second"))
    assert kept.get("export.toml") == (tmp_path / "first" / "export.toml").read_bytes()
    assert kept.get("index.parquet") == (tmp_path / "first" / "index.parquet").read_bytes()


def test_a_file_of_somebody_else_stays(run: Vilp, tmp_path: Path) -> None:
    MadeUpStore(tmp_path / "made-up")
    assert run("train-head", "--store", "made-up", *QUICK, "--head", "mean", "--out", "r").code == 0
    (tmp_path / "r" / "train-head.toml").write_text("# mine\n")
    said = run("train-head", "--store", "made-up", *QUICK, "--head", "mean", "--out", "r")
    assert "was not written by vilp-pipe and stays" in said.err
    assert (tmp_path / "r" / "train-head.toml").read_text() == "# mine\n"


TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.binary(max_size=8).map(
    lambda data: data.decode(errors="surrogateescape")
)


@given(st.lists(TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False)))
def test_values_come_back_from_toml(values: list[object]) -> None:
    text = as_toml("datasets prepare", {"a-b": values, "none": None, "one": values[0] if values else None})
    found = tomllib.loads(text.decode(errors="surrogateescape"))["datasets"]["prepare"]
    assert found["a-b"] == values
    assert ("one" in found, "none" in found) == (bool(values), False)


def test_every_setting_is_an_option() -> None:
    extract = {_key(param) for param in COMMANDS["extract"].params}
    assert set(ExtractConfig().options()) <= extract
    train = {_key(param): param.default for param in COMMANDS["train-head"].params}
    for config in (HeadConfig, TrainConfig):
        for field in dataclasses.fields(config):
            if field.name == "encoder":  # follows from --video
                continue
            assert train[field.name.replace("_", "-")] == field.default, field.name
