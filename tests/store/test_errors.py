"""Errors live in one place, and the documentation knows every one of them."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

from store import errors
from store.errors import RetryError, StoreError, UsageError, VilpError

PROJECT = Path(__file__).resolve().parents[2]
CLASSES = {cls.__name__: cls for cls in VilpError.__subclasses__()}


def documented() -> dict[str, list[str]]:
    """Kinds by class, as the tables list them; every row has all its cells."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (PROJECT / "docs" / "errors.md").read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif row := re.match(r"\| `([a-z-]+)` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 5, line
            assert all(cells), line
            found.setdefault(section, []).append(row[1])
    return found


def test_every_kind_is_documented_and_no_other() -> None:
    assert documented() == {name: list(cls.KINDS) for name, cls in CLASSES.items()}


def test_a_kind_belongs_to_one_class() -> None:
    kinds = [kind for cls in CLASSES.values() for kind in cls.KINDS]
    assert len(kinds) == len(set(kinds)) > 25


def test_every_kind_that_is_raised_is_known() -> None:
    """By their text, since a wrong one would show only when it is raised."""
    known = {kind for cls in CLASSES.values() for kind in cls.KINDS}
    calls = [
        (file, node)
        for package in ("cli", "pipeline", "stages", "store")
        for file in (PROJECT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    raised = [(file, node) for file, node in calls if node.func.id in CLASSES]  # type: ignore[attr-defined]
    assert len(raised) > 100
    for file, node in raised:
        for keyword in node.keywords:
            if keyword.arg == "kind" and isinstance(keyword.value, ast.Constant):
                kinds = CLASSES[node.func.id].KINDS  # type: ignore[attr-defined]
                assert keyword.value.value in kinds, f"{file}:{node.lineno}"
    failures = [node for _, node in calls if node.func.id == "VideoFailure" and node.args]  # type: ignore[attr-defined]
    assert {node.args[0].value for node in failures if isinstance(node.args[0], ast.Constant)} <= known


def test_no_error_class_is_defined_elsewhere() -> None:
    """What leaves a package on purpose is of these classes; others are private or end inside."""
    inside = {"DamagedShardError", "DecodeProcessError", "SharedMemoryError", "WorkerLostError"}
    for package in ("cli", "pipeline", "stages", "store"):
        for file in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_"):
                    assert file == Path(errors.__file__) or node.name in inside, f"{file}: {node.name}"


@pytest.mark.parametrize("cls", CLASSES.values())
def test_an_error_survives_the_way_between_processes(cls: type[VilpError]) -> None:
    for kind in cls.KINDS:
        copy = pickle.loads(pickle.dumps(cls("a\n  message", kind=kind)))
        assert (type(copy), copy.kind, str(copy)) == (cls, kind, "a message")
    with pytest.raises(ValueError, match="is not one of"):
        cls("x", kind="no-such-kind")


def test_a_message_keeps_the_spaces_of_names() -> None:
    assert str(StoreError("a  b.mp4 is\n\n   bad\n")) == "a  b.mp4 is bad"


def test_no_class_stands_for_another() -> None:
    assert not issubclass(RetryError, StoreError)
    assert not issubclass(UsageError, StoreError)
