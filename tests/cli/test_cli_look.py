"""``inspect``, ``report`` and ``predict`` keep the command line's contract."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from extractions import small_config

from pipeline.extraction import extract
from pipeline.head.evaluate import train_head

COMMAND = [sys.executable, "-c", "from cli.main import run; run()"]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    extract(small_config(small_videos, folder / "s"))
    train_head(folder / "s", head="vcs", frames=2, epochs=1, device="cpu", out=folder / "run")
    return folder / "run"


def test_predict_prints_one_object(run: Path, small_videos: Path) -> None:
    done = call("predict", small_videos / "jump & run", "--run", run, "--top", "1", "--json")
    assert done.returncode == 0, done.stderr
    videos = json.loads(done.stdout)["videos"]
    assert [Path(video["path"]).name for video in videos] == ["broken.mp4", "cut.avi", "d.mp4", "e.mp4"]
    assert [len(video["classes"]) for video in videos] == [0, 1, 1, 1]
    assert videos[1]["partial"]


def test_predict_fails_where_no_video_can_be_used(run: Path, small_videos: Path) -> None:
    done = call("predict", small_videos / "jump & run" / "broken.mp4", "--run", run)
    assert done.returncode == 1
    assert "not-a-video" in done.stdout
    assert "error: no video could be used" in done.stderr


def test_inspect_and_report_print_where_the_file_is(run: Path, tmp_path: Path) -> None:
    store = run.parent / "s"
    done = call("inspect", "--store", store, "--random", "2", "--run", run, "--out", tmp_path / "i.png")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'i.png'}\n"), done.stderr
    done = call("report", "--run", run, "--examples", "1", "--out", tmp_path / "r.html")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'r.html'}\n"), done.stderr


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
def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    from cli.main import run as entry_point

    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["vilp-pipe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        entry_point()
    out, err = capfd.readouterr()
    assert (stopped.value.code, out, len(err.splitlines())) == (code, "", 1)
    assert words in err
