"""Files for people: each is written whole or not at all, and so are those that belong together in one folder.

Files that belong together are written into the folder ``.new`` inside theirs, their record last. Once the record is
there, all are moved to their places, the record last again; where that is cut short, whoever looks next ends it
(``settle``). Until then nothing of what was there before is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from store.errors import UnwrittenError, UsageError

STAGED = ".new"


def check_directory(name: str, path: Path) -> None:
    """Raise ``UsageError`` where a file lies at the place of the directory that ``name`` gives: before any work."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{name} is {path}, which is a file; name a directory")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UnwrittenError(
            f"cannot write {path}: {reason}; make room there or name another place, and run the same command again"
        ) from error


def put_file(path: Path, write: Callable[[Path], object]) -> str:
    """Write a file beside its place, make it durable and move it there; returns its SHA-256 (hex). Its mode is that of
    any new file. Raises ``UnwrittenError``; what was there before then stays."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with open(temporary, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return digest


@contextlib.contextmanager
def put_together(folder: Path, record: str) -> Iterator[Path]:
    """Gives a folder to write files into, the one named ``record`` last, and then moves them into ``folder``. Where
    writing fails, ``folder`` is as it was."""
    staged = folder / STAGED
    with writing(folder):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
    try:
        yield staged
        settle(folder, record)
    finally:
        if not (staged / record).exists():
            shutil.rmtree(staged, ignore_errors=True)


def settle(folder: Path, record: str) -> None:
    """Move files to their places that were written together and are not there yet."""
    staged = folder / STAGED
    if not (staged / record).is_file():
        return
    gone = contextlib.suppress(FileNotFoundError)  # somebody else looks at the same moment
    with writing(folder), gone:
        for path in sorted(staged.iterdir(), key=lambda path: path.name == record):
            with gone:
                os.replace(path, folder / path.name)
        staged.rmdir()


def free_path(path: Path) -> Path:
    """``path``, or the first of ``<path>-2``, ``<path>-3``, ... where there is nothing."""
    candidates = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10_000)))
    return next(candidate for candidate in candidates if not candidate.exists())


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what is left of files that were not put in place."""
    return all(path.name == STAGED for path in folder.iterdir())
