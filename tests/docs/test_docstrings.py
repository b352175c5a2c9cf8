"""What every public function says of itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
import stages.decode
import store

ROOT = Path(__file__).resolve().parents[2]
# What the documents tell people to import.
API = [(module, name) for module in (pipeline, store) for name in module.__all__] + [(stages.decode, "decode_video")]


def test_public_functions_and_classes_have_docstrings() -> None:
    """All but those of the benchmarks, which nobody calls."""
    folders = ("cli", "pipeline", "stages", "store", "--exclude", "pipeline/benchmarks")
    words = ("check", "--isolated", "--no-cache", "--select", "D101,D103", "--output-format", "concise", *folders)
    done = subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("module", "name"), API, ids=[name for _, name in API])
def test_the_api_says_what_it_gives_and_raises(module: object, name: str) -> None:
    """Functions name their errors, classes describe every public method of their own."""
    found = getattr(module, name)
    text = inspect.getdoc(found) or ""
    assert text
    if inspect.isclass(found):
        own = [value for key, value in vars(found).items() if not key.startswith("_") and inspect.isfunction(value)]
        assert [method.__qualname__ for method in own if not method.__doc__] == []
    elif inspect.isfunction(found):
        assert "raises" in text.lower()
