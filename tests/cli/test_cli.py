"""The command line keeps its contract: one JSON object on standard output, one line an error, exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import stores
from commands import Vilp

TESTS = Path(__file__).resolve().parent.parent


def test_verify_and_status_print_one_object(run: Vilp, tmp_path: Path) -> None:
    stores.build(tmp_path / "stores" / "mine", statuses={2: "quarantined"})
    verified = run("verify", "--json")
    found = json.loads(verified.out)
    assert verified.code == 0
    assert (found["committed"], found["quarantined"], found["corrupt"]) == (10, 1, 0)
    assert len(found["digest"]) == 64
    status = json.loads(run("status", "--json").out)
    assert status["groups"][0]["left"] == 0
    assert status["quarantined"][0]["video_id"] == "v2"


def test_extract_prints_one_object_and_resumes_with_the_store_alone(
    run: Vilp, tmp_path: Path, small_videos: Path
) -> None:
    pose = ["--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--frames", "2", "--pose-frames", "4"]
    first = run(
        *("extract", "--dataset", "folder", "--root", str(small_videos), "--store", "s", "--engine", "inline"),
        *(*pose, "--limit", "3", "--json"),
    )
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert (found["executed"], found["planned"], found["quarantined"]) == (3, 7, {"not-a-video": 1})
    # A store is data: code that it names runs only where the command names it too.
    unnamed = run("extract", "--store", "s", "--modality", "pose")
    assert unnamed.code == 2
    assert "--pose plain_pose:PlainEstimator; where you trust it, give that option yourself" in unnamed.line
    named = ("--modality", "pose", "--pose", "plain_pose:PlainEstimator")
    second = run("extract", "--store", "s", *named)
    assert second.code == 0, second.err
    assert second.out == ""
    assert "4 of 4 in this run" in second.err
    strict = run("extract", "--store", "s", *named, "--strict", "--retry-quarantined")
    assert strict.code == 1


def test_a_run_without_a_success_fails(run: Vilp, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / "x.mp4").write_text("no video")
    outcome = run(
        *("extract", "--dataset", "folder", "--root", "videos", "--store", "s", "--engine", "inline"),
        *("--modality", "pose", "--pose", "plain_pose:PlainEstimator"),
    )
    assert outcome.code == 1
    assert "no video succeeded" in outcome.err


def test_damage_exits_with_1_and_names_the_repair(run: Vilp, tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    path = tmp_path / "s" / stores.CLIP.path / "cls" / "c.1.0.0.0"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    outcome = run("verify", "--store", "s", "--json")
    found = json.loads(outcome.out)
    assert outcome.code == 1
    assert (found["corrupt"], found["digest"]) == (4, None)
    assert found["problems"][0]["slots"] == [4, 5, 6, 7]
    assert "--repair" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["extract"], 2, "dataset is not given"),
        (["extract", "--dataset", "ucf11"], 2, "did you mean ucf101"),
        (["extract", "--dataset", "hmdb51"], 1, "data/hmdb51"),
        (["extract", "--dataset", "ucf101", "--engine", "spark"], 2, "engine is 'spark'; allowed: ray, inline"),
        (
            ["extract", "--dataset", "ucf101", "--frames", "many"],
            2,
            "frames is 'many'; input should be a valid integer",
        ),
        (["extract", "--datset", "ucf101"], 2, "No such option: --datset (Possible options: --dataset"),
        (["predict"], 2, "Missing argument 'VIDEO...'"),
        (["extarct"], 2, "No such command 'extarct'. Did you mean 'extract'"),
        (["nonsense"], 2, "No such command 'nonsense'; see vilp-pipe --help"),
        (["extract", "--dataset", "ucf101", "--part", "2/2"], 2, "part is '2/2'"),
        (["extract", "--dataset", "ucf101", "--memory", "lots"], 2, "memory is 'lots'"),
        (["verify", "--store", "nowhere"], 1, "vilp-pipe extract --store"),
        (["train-head"], 1, "no store under stores/"),
        (["train-head", "--store", "nowhere"], 1, "no feature store"),
        (["evaluate", "--run", "nowhere"], 1, "nowhere"),
    ],
)
def test_an_error_is_one_line(run: Vilp, arguments: list[str], code: int, words: str) -> None:
    outcome = run(*arguments)
    assert words in outcome.line
    assert outcome.code == code


def test_several_stores_have_to_be_chosen_from(run: Vilp, tmp_path: Path) -> None:
    for name in ("a", "b"):
        stores.build(tmp_path / "stores" / name, shards=())
    outcome = run("status")
    assert outcome.code == 2
    assert "stores/a, stores/b" in outcome.line


def test_nothing_heavy_is_imported_for_help() -> None:
    code = "import sys; from cli.main import add_commands; add_commands(); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"torch", "ray", "zarr", "pyarrow", "av", "cv2", "matplotlib", "numpy"} & set(done.stdout.split())


def test_a_command_ends_without_a_last_search_for_garbage() -> None:
    # What is registered first is called last.
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(len(gc.get_objects()))); sys.argv[1:] = ['--help']\n"
        "from cli.main import run; run()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    # Objects that are frozen are not counted: those that are left came to be after the call.
    assert int(done.stdout.split()[-1]) < 1_000


def test_every_command_has_help(run: Vilp) -> None:
    for command in (
        "extract",
        "train-head",
        "evaluate",
        "status",
        "verify",
        "delete",
        "gc",
        "copy",
        "merge",
        "demo",
        "benchmark",
    ):
        outcome = run(command, "--help")
        assert outcome.code == 0
        assert "Usage: vilp-pipe" in outcome.out.replace("\n", " ")


def test_extract_profiles_a_run(run: Vilp, tmp_path: Path, small_videos: Path) -> None:
    options = ("--dataset", "folder", "--root", str(small_videos), "--frames", "2", "--pose-frames", "2")
    own = ("--engine", "inline", "--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--profile", "t.json")
    refused = run("extract", *options, *own, "--dry-run")
    assert (refused.code, "--dry-run makes none; leave one of them out" in refused.line) == (2, True)
    assert not (tmp_path / "t.json").exists()
    told = run("extract", *options, *own, "--limit", "2", "--json")
    assert told.code == 0, told.err
    profile = json.loads(told.out)["profile"]
    assert (profile["trace"], set(profile["stages"])) == ("t.json", {"decode", "pose", "write"})
    assert len(json.loads((tmp_path / "t.json").read_text())) > 3
    shown = run("extract", *options, *own)
    assert shown.code == 0, shown.err
    decode = next(line for line in shown.err.splitlines() if line.startswith("│ decode"))
    assert [cell.strip() for cell in decode.strip("│").split("│")][:2] == ["decode", "1"]
    assert "trace, to open in ui.perfetto.dev: t.json" in shown.err
    assert all(b"profile" not in path.read_bytes() for path in tmp_path.rglob("_tables/configs/*"))


def test_what_nobody_foresaw_is_shown_in_full_by_the_command_that_is_named(
    run: Vilp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.build(tmp_path / "my stores" / "s")
    monkeypatch.setattr("pipeline.status.store_status", lambda url: [][0])
    failed = run("status", "--store", "my stores/s")
    said, _, again = failed.line.partition("; to see where, run: ")
    assert (failed.code, said) == (1, "error: IndexError: list index out of range")
    assert shlex.split(again)[0] == "vilp-pipe"
    with pytest.raises(IndexError):
        run(*shlex.split(again)[1:])


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("demo --out {}", "out"),
        ("benchmark decode --out {}", "out"),
        ("datasets prepare hmdb51 --root {} --from .", "root"),
        ("evaluate --run {}", "run"),
        ("report --run {}", "run"),
        ("train-head --store s --head vcs --frames 4 --out {}", "out"),
        ("study frames --store s --out {}", "out"),
    ],
)
def test_a_file_in_the_place_of_a_directory_is_named(run: Vilp, tmp_path: Path, command: str, name: str) -> None:
    stores.build(tmp_path / "s")
    (tmp_path / "taken").touch()
    failed = run(*command.format("taken").split())
    assert (failed.code, failed.error) == (2, f"error: {name} is taken, which is a file; name a directory")
