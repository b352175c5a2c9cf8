"""Nothing leaves the folder that it is unpacked into, whatever an archive or a tool does."""

from __future__ import annotations

import contextlib
import shutil
import struct
import zipfile

import pytest
import rars

from pipeline.datasets.prepare.rar import read_rar
from pipeline.datasets.prepare.unpack import TOOLS, safe_name, unpack
from store.errors import MissingError, RetryError, UsageError

NAMES = {
    "brush_hair/A#1_&_(b);!_[c]_@+_brush_hair_u_nm_np1_fr_med_0.avi": b"one" * 100,
    "brush_hair/-rf $(touch x) `id`.avi": b"two",
    "brush_hair/empty.avi": b"",
}
LINK_RECORD = struct.pack("BBBBB", 4, 5, 1, 0, 1)


@pytest.fixture
def only_fake(tmp_path, monkeypatch):
    """The path holds one tool, which is ours."""
    monkeypatch.setenv("PATH", str(rars.install_unrar(tmp_path / "bin")))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("build", [rars.rar4, rars.rar5])
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_unpacks_odd_names(tmp_path, monkeypatch, build, tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    archive = build(tmp_path / "odd [1] *;.rar", NAMES)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    unpack(archive, tmp_path / "out")
    assert files_of(tmp_path / "out") == NAMES


@pytest.mark.usefixtures("only_fake")
def test_our_tool_unpacks_so_that_the_other_tests_mean_something(tmp_path):
    unpack(rars.rar4(tmp_path / "a.rar", NAMES), tmp_path / "out")
    assert files_of(tmp_path / "out") == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.rar", "bin", "out"]


@pytest.mark.usefixtures("only_fake")
@pytest.mark.parametrize("build", [rars.rar4, rars.rar5, "zip"])
@pytest.mark.parametrize(
    "name", ["../out.avi", "a/../../out.avi", "/tmp/out.avi", "C:/out.avi", "c:out.avi", "a//b", "."]
)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(tmp_path, build, name):
    members = {"good.avi": b"x", name: b"evil"}
    if build == "zip":
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for member, data in members.items():
                out.writestr(zipfile.ZipInfo(member), data)
    else:
        archive = build(tmp_path / "a.rar", members)
    with pytest.raises(UsageError, match="do not use it"):
        unpack(archive, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()
    assert not (tmp_path / "out.avi").exists()


@pytest.mark.parametrize("name", ["a\\..\\..\\b", "a\nb", "\\\\host\\share", "a\0b"])
def test_backslashes_and_control_characters_are_refused(name):
    with pytest.raises(UsageError):
        safe_name(name)


@pytest.mark.usefixtures("only_fake")
def test_links_are_refused(tmp_path):
    for archive in (
        rars.rar4(tmp_path / "a.rar", {"link": b"/etc"}, mode=rars.LINK),
        rars.rar5(tmp_path / "b.rar", {"link": b"/etc"}, mode=rars.LINK),
        rars.rar5(tmp_path / "c.rar", {"link": b""}, extra=LINK_RECORD),
    ):
        with pytest.raises(UsageError, match="link"):
            unpack(archive, tmp_path / "out")
    info = zipfile.ZipInfo("link")
    info.external_attr = rars.LINK << 16
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as out:
        out.writestr(info, "/etc")
    with pytest.raises(UsageError, match="link"):
        unpack(tmp_path / "d.zip", tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.symlink('/etc', 'OUT/extra')", "no plain file"),
        ("open('OUT/other.avi', 'w').write('x')", "'good.avi' has no bytes"),
        ("open('OUT/good.avi', 'w').write('longer')", "'good.avi' has 6 bytes"),
        ("print('disk full', file=sys.stderr); open('OUT/good.avi', 'w').write('x'); sys.exit(3)", "disk full"),
    ],
)
def test_a_tool_that_makes_something_else_has_failed(tmp_path, monkeypatch, body, words):
    monkeypatch.setenv("PATH", str(rars.install_unrar(tmp_path / "bin", body)))
    with pytest.raises(RetryError, match=words):
        unpack(rars.rar4(tmp_path / "a.rar", {"good.avi": b"x"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_tool_is_one_line_that_says_which(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"unar, unrar, bsdtar, 7z.*apt-get install"):
        unpack(rars.rar4(tmp_path / "a.rar", NAMES), tmp_path / "out")


@pytest.mark.parametrize("build", [rars.rar4, rars.rar5])
def test_an_archive_that_is_cut_or_damaged_anywhere_is_refused_or_read_whole(tmp_path, build):
    archive = build(tmp_path / "a.rar", {"a/b.avi": b"x" * 20, "a/c.avi": b"y" * 20})
    data, whole = archive.read_bytes(), read_rar(archive)
    data_bytes = {at for at in range(len(data)) if data[at : at + 1] in (b"x", b"y")}
    for at in range(len(data)):
        archive.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        if at in data_bytes:  # covered by the CRC that the tool checks
            assert read_rar(archive) == whole
        else:
            with pytest.raises(UsageError):
                read_rar(archive)
        archive.write_bytes(data[:at])
        with contextlib.suppress(UsageError):
            assert read_rar(archive) == whole[: len(read_rar(archive))]
