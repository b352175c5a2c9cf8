"""The documentation: every command in it exists, its tutorial runs, and the site builds without a warning."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from typing import Any

import parsing
import pytest
from commands import Vilp
from made_up_heads import FRAMES, MadeUpStore

from pipeline.export import export
from pipeline.head import zero_shot

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_site"))

from console import commands, console_blocks  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def typed(page: Path) -> list[str]:
    """The commands of ``vilp-pipe`` on a page, in console blocks and in scripts."""
    text = page.read_text()
    scripts = re.findall(r"^(?:exec )?(vilp-pipe .*)$", "".join(blocks(text, "bash")), re.MULTILINE)
    return [*(line for block in console_blocks(text) for line in commands(block) if line.startswith("vilp-")), *scripts]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.config.read_config", lambda path, context: {})
    for line in typed(page):
        if not re.fullmatch(r"vilp-pipe --[a-z-]+", line):
            parsing.parse(line)


def test_commands_are_found() -> None:
    assert "vilp-pipe status" in typed(ROOT / "docs" / "tutorial.md")
    assert any("--part" in line for line in typed(ROOT / "docs" / "how-to" / "slurm.md"))
    assert sum(len(typed(page)) for page in PAGES) > 50


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "toml")], ids=lambda page: page.stem
)
def test_every_configuration_is_read(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page.read_text(), "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        for command, values in tomllib.loads(block).items():
            found = parsing.parse(f"vilp-pipe {command} --config {path}").params
            assert found["store"] == values["store"]


def test_the_estimator_of_the_how_to_works(
    run: Vilp, tmp_path: Path, small_videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module,) = blocks((ROOT / "docs" / "how-to" / "pose-estimator.md").read_text(), "python")
    (tmp_path / "my_pose.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run(
        *("extract", "--dataset", "folder", "--root", str(small_videos), "--store", "s", "--engine", "inline"),
        *("--modality", "pose", "--pose", "my_pose:Centre", "--frames", "2", "--pose-frames", "4", "--json"),
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["quarantined"] == {"not-a-video": 1}


def test_the_numpy_of_the_how_to_gives_our_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MadeUpStore(tmp_path / "s", noise=4.0).open()  # type: ignore[no-untyped-call]
    monkeypatch.chdir(tmp_path)
    export(store, "hmdb51-npy", to="npy", arrays=("cls",))
    (code,) = (b for b in blocks((ROOT / "docs" / "how-to" / "elsewhere.md").read_text(), "python") if "numpy" in b)
    exec(code, {})
    figure = zero_shot(store, head="mean", frames=FRAMES, device="cpu").everything["top1"]
    assert 0.3 < figure < 1
    assert float(capsys.readouterr().out) == pytest.approx(figure)


@pytest.fixture
def run(vilp: Vilp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vilp:
    monkeypatch.chdir(tmp_path)
    return vilp


def build(tutorial: Path, site: Path) -> None:
    environment = {**os.environ, "VILP_TUTORIAL": str(tutorial)}
    # Without --quiet, under which warnings count for nothing.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """With a stand-in for what the tutorial prints and draws."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    (tmp_path / "tutorial" / "pictures").mkdir(parents=True)
    for name in set(re.findall(r"]\(pictures/([\w.-]+)\)", page)):
        (tmp_path / "tutorial" / "pictures" / name).write_bytes(png())
    outputs = {command: f"[{command}]" for block in console_blocks(page) for command in commands(block)}
    (tmp_path / "tutorial" / "outputs.json").write_text(json.dumps(outputs))
    build(tmp_path / "tutorial", tmp_path / "site")
    built = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(ROOT / "docs") for page in PAGES[1:]} <= built
    home = (tmp_path / "site" / "index.html").read_text()
    for page in PAGES[1:]:  # the menu has every page
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix(".html")}"' in home
    reference = (tmp_path / "site" / "commands.html").read_text()
    for words, command in parsing.commands():
        assert f">{' '.join(words)}<" in reference
        assert all(max(p.opts, key=len) in reference for p in command.params if p.param_type_name == "option")
    assert "[vilp-pipe status]" in re.sub(r"<[^>]*>", "", (tmp_path / "site" / "tutorial.html").read_text())
    for path in (tmp_path / "site").rglob("*.html"):  # nothing is loaded from elsewhere
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', path.read_text()), path


@pytest.mark.slow
def test_the_tutorial_runs_and_its_site_builds(tmp_path: Path) -> None:
    import tutorial

    tutorial.run(tmp_path / "tutorial")
    outputs: dict[str, Any] = json.loads((tmp_path / "tutorial" / "outputs.json").read_text())
    trained = [text.splitlines()[0] for command, text in outputs.items() if " train-head " in command]
    assert len(trained) == 2
    assert trained[0] == trained[1]  # the second is the first again
    assert "predictions equal those of the run to the bit: yes" in outputs["vilp-pipe evaluate --run runs/first"]
    build(tmp_path / "tutorial", tmp_path / "site")


def png() -> bytes:
    """One grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
