"""Files for people: whole or not at all, alone and together, readable by those whom the umask lets."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.files import STAGED, free_path, is_empty, put_file, put_together, settle
from pipeline.studies.report import Report, write_report
from store.errors import UnwrittenError


@pytest.fixture
def _umask() -> Any:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_files_have_the_mode_of_any_new_file(tmp_path: Path) -> None:
    put_file(tmp_path / "a" / "file", lambda path: path.write_text("x"))
    report = Report("s", "?", "helps", ("yes",), ("c",), ((1,),), {}, {}, (), lambda figure: None)
    write_report(report, tmp_path / "a")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()}
    assert modes == dict.fromkeys(("file", "s.json", "s.md", "s.png"), 0o640)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("new")
        raise OSError(errno.ENOSPC, "whatever")

    (tmp_path / "file").write_text("old")
    with pytest.raises(UnwrittenError, match=rf"^cannot write {tmp_path / 'file'}: No space left on device; make room"):
        put_file(tmp_path / "file", half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}
    with pytest.raises(UnwrittenError, match="below: File exists"):
        put_file(tmp_path / "file" / "below", half)


def fill(folder: Path, text: str) -> None:
    with put_together(folder, "record") as staged:
        for name in ("a", "b", "record"):
            put_file(staged / name, lambda path: path.write_text(text))


@pytest.mark.parametrize("stop", range(7))
def test_files_that_belong_together_are_all_old_or_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Whichever move is the last one: three into ``.new``, three out of it."""
    fill(tmp_path, "old")
    moves: list[str] = []
    real = os.replace

    def replace(*paths: Path) -> None:
        if len(moves) == stop:
            raise KeyboardInterrupt
        moves.append(str(paths[1]))
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        if stop < 6:
            with pytest.raises(KeyboardInterrupt):
                fill(tmp_path, "new")
        else:
            fill(tmp_path, "new")
    settle(tmp_path, "record")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(("a", "b", "record"), "old" if stop < 3 else "new")


def test_what_was_written_in_vain_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / STAGED).mkdir()
    (tmp_path / STAGED / "a").write_text("half")
    settle(tmp_path, "record")
    assert not (tmp_path / "a").exists()
    fill(tmp_path, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "record"}


def test_a_free_path_is_the_first_where_there_is_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for expected in ("run", "run-2", "run-3"):
        assert free_path(run) == tmp_path / expected
        free_path(run).mkdir()


def test_a_folder_with_leftovers_alone_is_empty(tmp_path: Path) -> None:
    assert is_empty(tmp_path)
    (tmp_path / STAGED).mkdir()
    assert is_empty(tmp_path)
    (tmp_path / "file").touch()
    assert not is_empty(tmp_path)
