"""Archives into folders, such that nothing leaves the folder.

Names are judged before anything is unpacked, a tool then works in an empty folder of its own, and what lies there
afterwards has to be what the archive's headers said, file by file: regular files alone. Only our own code moves files
to where they belong.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.prepare.rar import Entry, read_rar
from store.errors import MissingError, RetryError, UsageError

# Commands that unpack ./ARCHIVE into the working directory's folder OUT, without asking anything.
TOOLS: dict[str, tuple[str, ...]] = {
    "unar": ("unar", "-quiet", "-force-overwrite", "-no-directory", "-output-directory", "OUT", "ARCHIVE"),
    "unrar": ("unrar", "x", "-y", "-o+", "-p-", "-inul", "--", "ARCHIVE", "OUT/"),
    "bsdtar": ("bsdtar", "-x", "-f", "ARCHIVE", "-C", "OUT"),
    "7z": ("7z", "x", "-y", "-bd", "-oOUT", "--", "ARCHIVE"),
}


def installed_tools() -> list[str]:
    """The tools of ``TOOLS`` that are on the path."""
    return [name for name in TOOLS if shutil.which(name)]


def need_tool() -> None:
    """Raise ``MissingError`` where no tool can unpack RAR archives."""
    if not installed_tools():
        raise MissingError(
            f"no tool that unpacks RAR archives; install one of {', '.join(TOOLS)}, such as: apt-get install unar",
            kind="missing-package",
        )


def safe_name(name: str) -> str:
    """``name``, a relative path with ``/``. Raises ``UsageError`` for a name that could lead out of its folder:
    absolute, with ``..``, a drive letter, a backslash, a control character, or empty parts."""
    parts = name.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"the archive holds {name!r}, which is absolute or leads out of its folder; do not use it")
    if re.match(r"[A-Za-z]:", parts[0]) or "\\" in name or re.search(r"[\x00-\x1f\x7f]", name):
        raise UsageError(f"the archive holds {name!r}, which is no plain relative path; do not use it")
    return name.rstrip("/")


def unpack(archive: Path, target: Path) -> None:
    """Unpack a RAR or ZIP archive into the folder ``target``, which appears when it is complete.

    Raises ``UsageError`` for an archive that is damaged or holds anything but plain files in plain folders,
    ``MissingError`` where there is no tool, ``RetryError`` where every tool failed.
    """
    entries = _read_zip(archive) if archive.suffix == ".zip" else read_rar(archive)
    files = _files(archive, entries)
    work = target.with_name(f"{target.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    (work / "OUT").mkdir(parents=True)
    if archive.suffix == ".zip":
        _extract_zip(archive, files, work / "OUT")
    else:
        _extract_rar(archive, files, work)
    (work / "OUT").rename(target)
    shutil.rmtree(work)


def _files(archive: Path, entries: Sequence[Entry]) -> dict[str, int]:
    """Sizes of the files of an archive by name, once every name and kind has been judged."""
    files: dict[str, int] = {}
    for entry in entries:
        name = safe_name(entry.name)
        if entry.kind not in ("file", "folder"):
            raise UsageError(f"{archive} holds {name!r}, which is a {entry.kind}; do not use it")
        if entry.kind == "file" and files.setdefault(name, entry.size) != entry.size:
            raise UsageError(f"{archive} holds {name!r} twice, in different sizes; do not use it")
    return files


def _read_zip(archive: Path) -> list[Entry]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return [Entry(info.filename, info.file_size, _zip_kind(info)) for info in opened.infolist()]
    except zipfile.BadZipFile as error:
        raise UsageError(f"{archive} cannot be read: {error}; take the official archive again") from None


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if info.is_dir():
        return "folder"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "link or device"


def _extract_zip(archive: Path, files: dict[str, int], out: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in files:
                path = out / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(name))  # checks the CRC
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{archive} cannot be unpacked: {error}; take the official archive again") from None


def _extract_rar(archive: Path, files: dict[str, int], work: Path) -> None:
    """The first installed tool that makes what the headers promise; some read only part of what RAR can do."""
    need_tool()
    # A name of our own, so that no tool takes signs in the user's path for patterns or options.
    link, out = work / "archive.rar", work / "OUT"
    link.symlink_to(archive.resolve())
    failures = []
    for tool in installed_tools():
        shutil.rmtree(out)
        out.mkdir()
        command = [part.replace("ARCHIVE", f"./{link.name}") for part in TOOLS[tool]]
        done = subprocess.run(
            command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
        wrong = _differs(out, files)
        if done.returncode == 0 and wrong is None:
            return
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        failures.append(f"{tool}: {wrong or said or f'exit code {done.returncode}'}")
    raise RetryError(
        f"{archive} could not be unpacked ({'; '.join(failures):.600}); see that the disk has room, or install another "
        f"of {', '.join(TOOLS)}"
    )


def _differs(out: Path, files: dict[str, int]) -> str | None:
    """How what a tool made differs from the archive's headers, or None."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(out):
        for name in [*folders, *names]:
            path = Path(folder) / name
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(out).as_posix()] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                return f"it made {name!r}, which is no plain file"
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            return (
                f"{name!r} has {found.get(name, 'no')} bytes, where the archive says {files.get(name, 'no such file')}"
            )
    return None
