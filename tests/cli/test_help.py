"""Help and completion: worked examples that parse, values that exist, nothing heavy loaded for either."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import parsing
import pytest
import stores

from cli import options
from pipeline import config as extraction
from pipeline.datasets import DATASETS
from pipeline.export import FORMATS
from pipeline.head.config import HEADS, MODALITIES, PERSONS, POSE_IN, WORD_MODES
from pipeline.head.train import LOSSES
from pipeline.search import UNITS
from pipeline.studies import STUDIES
from stages.clip.config import PRECISIONS, TOKENS
from stages.decode.backends import BACKENDS
from stages.geometry import VIEWS
from stages.video.config import RECIPES

COMMANDS = {" ".join(words): command for words, command in parsing.commands()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(name: str) -> None:
    lines = inspect.cleandoc(COMMANDS[name].help).splitlines()
    examples = [line.strip() for line in lines if line.startswith("  vilp-pipe ")]
    assert examples, name
    for example in examples:
        context = parsing.parse(example)
        assert context.command_path == f"vilp-pipe {name}"


def complete(command: str, option: str, incomplete: str = "") -> set[str]:
    param = next(p for p in COMMANDS[command].params if option in (*p.opts, p.name))
    return {
        item.value for item in param.shell_complete(parsing.group().make_context("vilp-pipe", [command]), incomplete)
    }


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("extract", "--dataset", DATASETS),
        ("extract", "--engine", extraction.ENGINES),
        ("extract", "--pose", extraction.ESTIMATORS),
        ("extract", "--heatmap", extraction.HEATMAPS),
        ("extract", "--modality", (*extraction.MODALITIES, "posefeat")),
        ("extract", "--views", VIEWS),
        ("extract", "--tokens", TOKENS),
        ("extract", "--precision", PRECISIONS),
        ("extract", "--decoder", BACKENDS),
        ("extract", "--video", ("none", *RECIPES)),
        ("train-head", "--word-mode", WORD_MODES),
        ("train-head", "--modalities", tuple(MODALITIES)),
        ("train-head", "--persons", PERSONS),
        ("train-head", "--pose-in", POSE_IN),
        ("train-head", "--loss", LOSSES),
        ("export", "--format", FORMATS),
        ("train-head", "--tokens", TOKENS),
        ("doctor", "--decoder", BACKENDS),
        ("doctor", "--pose", extraction.ESTIMATORS),
        ("demo", "--engine", extraction.ENGINES),
        ("search", "--by", UNITS),
        ("study", "name", tuple(STUDIES)),
        ("study", "--persons", PERSONS),
    ],
)
def test_completion_offers_what_is_allowed(command: str, option: str, values: tuple[str, ...]) -> None:
    assert complete(command, option) == set(values)


def test_heads_are_completed() -> None:
    assert set(HEADS) < complete("train-head", "--head")
    assert complete("train-head", "--head", "pvcs-") == {"pvcs-joint", "pvcs-joint+pose"}
    assert complete("evaluate", "--head", "vi") == {"vilp", "vilp+pose"}


def test_the_last_of_several_names_is_completed() -> None:
    assert complete("extract", "--views", "center,f") == {"center,flip"}
    assert complete("extract", "--tokens", "value,") == {"value,penult", "value,last"}


def test_stores_and_runs_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        stores.build(tmp_path / "stores" / name, shards=())
    (tmp_path / "stores" / "none").mkdir()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").touch()
    assert complete("status", "--store") == {"stores/one", "stores/two"}
    assert complete("train-head", "--store", "stores/t") == {"stores/two"}
    assert complete("evaluate", "--run") == {"runs/a"}
    assert complete("evaluate", "--run", "sto") == {"stores/"}


def test_a_shell_gets_completions_and_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, atexit; sys.argv[0] = 'vilp-pipe'\n"
        "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
        "from cli.main import run; run()"
    )
    words = {"COMP_WORDS": "vilp-pipe train-head --head at", "COMP_CWORD": "3"}
    environment = {**os.environ, **words, "_VILP_PIPE_COMPLETE": "complete_bash"}
    environment["PYTHONPATH"] = str(Path(parsing.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.split() == ["attn", "attn+pose"], done.stderr
    assert not {"torch", "ray", "zarr", "av", "cv2", "matplotlib"} & set(done.stderr.split())


def test_shared_options_are_shared() -> None:
    """An option that several commands have is one object, or says why it is another thing there."""
    shared = {"json": options.Json, "code": options.Code}
    own = {("verify", "code")}
    for name, command in COMMANDS.items():
        for param in command.params:
            if param.name in shared and (name, param.name) not in own:
                (info,) = (arg for arg in get_args(shared[param.name]) if hasattr(arg, "help"))
                assert param.help == info.help, (name, param.name)


def test_doctor_asks_about_everything_that_changes_what_an_extraction_needs() -> None:
    """It takes the very options of extract, without those that say how a run is made and told of."""
    theirs, ours = ({p.name: p.help for p in COMMANDS[name].params} for name in ("extract", "doctor"))
    assert ours.items() <= theirs.items()
    run = {"ray_address", "update", "retry_quarantined", "dry_run", "profile", "strict"}
    assert theirs.keys() - ours.keys() == run


def test_paragraphs_of_the_help_are_broken_by_the_terminal_alone() -> None:
    for name, command in COMMANDS.items():
        words, _, examples = command.help.partition("\b\n")
        assert "\n" not in words.replace("\n\n", ""), name
        assert examples.startswith("  vilp-pipe "), name
