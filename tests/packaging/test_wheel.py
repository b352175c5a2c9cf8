"""The package without extras: what is in its wheel, and that plain pip installs it into a clean environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "pipeline", "stages", "store")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*command, source], check=True, stdin=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    assert held == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        meta = message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert set(archive.read(f"{info}/top_level.txt").decode().split()) == set(PACKAGES)
    assert meta["Name"] == "vilp-pipe"
    assert meta["License-Expression"] == "Apache-2.0"
    assert meta["Requires-Python"] == "<3.13,>=3.11"
    assert "vilp-pipe = cli.main:run" in entry_points
    always = [line for line in meta.get_all("Requires-Dist", []) if "extra ==" not in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(always) == len(project["dependencies"])
    assert not any(line.startswith("mm") for line in always)


@pytest.mark.slow
def test_plain_pip_installs_the_wheel_into_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Takes minutes and 7 GB. The lock is a constraint only: it picks versions, pip finds out what is needed."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip"]
    quiet: dict[str, Any] = {"check": True, "stdin": subprocess.DEVNULL}
    try:
        subprocess.run([*pip, "install", "--quiet", "-c", ROOT / "requirements.lock", wheel], **quiet)
        subprocess.run([*pip, "check"], **quiet)
        missing = [venv / "bin" / "python", "-c", "import importlib.util as u; assert not u.find_spec('mmpose')"]
        subprocess.run(missing, cwd=tmp_path, **quiet)
        shown = subprocess.run(
            [venv / "bin" / "vilp-pipe", "--help"], cwd=tmp_path, capture_output=True, text=True, **quiet
        )
        assert "extract" in shown.stdout
    finally:
        shutil.rmtree(venv)
