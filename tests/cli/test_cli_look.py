"""``inspect``, ``report`` and ``predict`` keep the command line's contract."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
from commands import Vilp
from extractions import small_config

from pipeline.extraction import extract
from pipeline.head.evaluate import train_head

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(vilp: Vilp) -> Call:
    """Run a command in this process: exit code, standard output, standard error."""
    return lambda *arguments: astuple(vilp(*arguments))


@pytest.fixture(scope="module")
def run(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    extract(small_config(small_videos, folder / "s"))
    train_head(folder / "s", head="vcs", frames=2, epochs=1, device="cpu", out=folder / "run")
    return folder / "run"


def test_predict_prints_one_object(call: Call, run: Path, small_videos: Path) -> None:
    code, out, err = call("predict", small_videos / "jump & run", "--run", run, "--top", "1", "--json")
    assert code == 0, err
    videos = json.loads(out)["videos"]
    assert [Path(video["path"]).name for video in videos] == ["broken.mp4", "cut.avi", "d.mp4", "e.mp4"]
    assert [len(video["classes"]) for video in videos] == [0, 1, 1, 1]
    assert videos[1]["partial"]


def test_predict_fails_where_no_video_can_be_used(call: Call, run: Path, small_videos: Path) -> None:
    code, out, err = call("predict", small_videos / "jump & run" / "broken.mp4", "--run", run)
    assert code == 1
    assert "not-a-video" in out
    assert "error: no video could be used" in err


def test_inspect_and_report_print_where_the_file_is(call: Call, run: Path, tmp_path: Path) -> None:
    store = run.parent / "s"
    code, out, err = call("inspect", "--store", store, "--random", "2", "--run", run, "--out", tmp_path / "i.png")
    assert (code, out) == (0, f"{tmp_path / 'i.png'}\n"), err
    kept = tomllib.loads((tmp_path / "i.png.toml").read_text())["inspect"]
    assert (kept["store"], kept["run"], kept["random"]) == (str(store), str(run), 2)
    first = (tmp_path / "i.png").read_bytes()
    code, out, err = call("inspect", "--config", tmp_path / "i.png.toml", "--out", tmp_path / "again.png", "--json")
    assert json.loads(out)["picture"] == str(tmp_path / "again.png"), err
    assert (tmp_path / "again.png").read_bytes() == first
    code, out, err = call("report", "--run", run, "--examples", "1", "--out", tmp_path / "r.html")
    assert (code, out) == (0, f"{tmp_path / 'r.html'}\n"), err
    assert tomllib.loads((tmp_path / "r.html.toml").read_text())["report"]["examples"] == 1


@pytest.mark.parametrize("command", ["inspect", "report", "predict"])
def test_there_is_help_with_an_example(call: Call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"vilp-pipe {command} " in out.split("Options")[0].split("Usage")[1].split("\n", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect"], 2, "give either --video ID"),
        (["inspect", "--store", "nowhere", "--random", "0"], 2, "random is 0; allowed: 1 or more"),
        (["inspect", "--random", "1", "--out", "i.svg"], 2, "out is 'i.svg'; allowed: a name that ends in .png"),
        (["inspect", "--store", "nowhere", "--video", "a"], 1, "no feature store"),
        (["report", "--run", "nowhere"], 1, "no run in nowhere"),
        (["report", "--run", "nowhere", "--examples", "-1"], 2, "examples is -1; allowed: 0 to 24"),
        (["predict", "a.mp4", "--run", "nowhere"], 1, "no run in nowhere"),
        (["predict", "a.mp4", "--run", "nowhere", "--top", "0"], 2, "top is 0; allowed: 1 or more"),
    ],
)
def test_an_error_is_one_line(call: Call, arguments: list[str], code: int, words: str) -> None:
    found, out, err = call(*arguments)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert words in err
