"""One file over HTTP, resumed where it was cut."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.progress import Progress
from store.errors import MissingError, RetryError

CHUNK = 1 << 20
TRIES = 5
TIMEOUT = 60.0

_SIGNATURES = {".rar": b"Rar!\x1a\x07", ".zip": b"PK"}


@dataclass(frozen=True)
class Archive:
    """One official archive.

    url     where it lies
    size    bytes; None where no source says
    digest  ``sha256:...`` or ``md5:...`` as published by somebody who has the file; None where nobody did
    """

    name: str
    url: str
    size: int | None = None
    digest: str | None = None


def download(
    archive: Archive, folder: Path, *, progress: Progress | None = None, pause: Callable[[float], None] = time.sleep
) -> Path:
    """``folder/<name>`` with the bytes of ``archive.url``.

    What arrives goes to ``<name>.part``, and a cut connection, or a run that was killed, goes on from there with a
    ``Range`` request, if the file is still the same one (``If-Range``); a server without ranges sends it anew. Only a
    file that has the announced size, the known size and digest, and the right signature gets its name.

    Raises ``RetryError`` when five connections in a row brought nothing, ``MissingError`` when the server has no such
    file or what came is not it. ``pause`` waits between tries.
    """
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    done, part = folder / archive.name, folder / f"{archive.name}.part"
    if done.is_file():
        return done
    transfer = _Transfer(archive, part, progress)
    failures = 0
    while True:
        before = transfer.have
        try:
            transfer.receive()
            break
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in (401, 403, 404, 410):
                transfer.end()
                raise MissingError(f"{archive.url}: {reason}; {_by_hand(archive)}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if transfer.have > before else failures + 1
        if failures == TRIES:
            transfer.end()
            raise RetryError(
                f"{archive.url}: {reason}, {TRIES} times in a row; run the same command again to go on from "
                f"{transfer.have:,} bytes, or {_by_hand(archive)}"
            )
        pause(min(30.0, 2.0**failures))
    transfer.end()
    try:
        check(archive, part)
    except MissingError:
        transfer.forget()
        raise
    part.rename(done)
    transfer.forget()
    return done


def check(archive: Archive, path: Path) -> None:
    """Raise ``MissingError`` unless the file is what is known of the archive."""
    with path.open("rb") as file:
        start = file.read(16)
        wanted = _SIGNATURES[Path(archive.name).suffix]
        if not start.startswith(wanted):
            raise MissingError(f"{path} is not {archive.name}: it begins with {start!r}; {_by_hand(archive)}")
        size = path.stat().st_size
        if archive.size not in (None, size):
            raise MissingError(
                f"{path} has {size:,} bytes, the official {archive.name} {archive.size:,}; {_by_hand(archive)}"
            )
        if archive.digest is not None:
            kind, _, hexdigest = archive.digest.partition(":")
            file.seek(0)
            found = hashlib.file_digest(file, kind).hexdigest()
            if found != hexdigest:
                raise MissingError(f"{path} has {kind} {found}; {archive.name} has {hexdigest}; {_by_hand(archive)}")


def _by_hand(archive: Archive) -> str:
    return f"get {archive.name} with a browser and pass the folder that it is in with --from"


class _Transfer:
    """The part of a file that is here, and how to get the rest."""

    def __init__(self, archive: Archive, part: Path, progress: Progress) -> None:
        self._archive, self._part, self._progress = archive, part, progress
        self._notes = part.with_name(f"{part.name}.json")
        self._shown: int | None = None
        self.have = part.stat().st_size if part.is_file() else 0

    def receive(self) -> None:
        """Ask for what is missing and append it. Raises ``OSError`` when the connection ends early."""
        validator = self._validator()
        if self.have and validator is None:
            self._restart()  # nothing says that what the server has now is the same file
        request = urllib.request.Request(self._archive.url)
        if self.have and validator is not None:
            request.add_header("Range", f"bytes={self.have}-")
            request.add_header("If-Range", validator)
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and _total(error.headers) == self.have:
                return  # all of it was here already
            if error.code == 416:
                self._restart()
                raise ConnectionError("the server has a shorter file now") from None
            raise
        with answer:
            begins = _begin(answer.headers) if answer.status == 206 else 0
            if begins != self.have:
                self._restart()
                if begins:
                    raise ConnectionError(f"the server sent bytes from {begins:,} on")
            total = self._expect(answer)
            with self._part.open("ab") as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    self.have += len(block)
                    self._show(total)
        if total is not None and self.have < total:
            raise ConnectionError(f"the connection ended after {self.have:,} of {total:,} bytes")

    def end(self) -> None:
        if self._shown is not None:
            self._progress.end()
            self._shown = None

    def forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def _restart(self) -> None:
        if self._shown:
            self._progress.advance(-self._shown)
            self._shown = 0
        self.have = 0
        self.forget()

    def _expect(self, answer: Any) -> int | None:
        """Bytes of the whole file, written down with what identifies it; checked against the disk and what is known."""
        length = answer.headers.get("Content-Length")
        total = _total(answer.headers) if answer.status == 206 else int(length) if length else None
        if total is not None and self._archive.size not in (None, total):
            self.end()
            raise MissingError(
                f"{self._archive.url} has {total:,} bytes, the official {self._archive.name} {self._archive.size:,}; "
                f"{_by_hand(self._archive)}"
            )
        free = shutil.disk_usage(self._part.parent).free
        if total is not None and free < total - self.have:
            self.end()
            raise MissingError(
                f"{self._archive.name} needs {total - self.have:,} more bytes, but {self._part.parent} has {free:,} "
                "free; make room, or name another --root"
            )
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        strong = validator if validator and not validator.startswith("W/") else None
        self._notes.write_text(json.dumps({"url": self._archive.url, "validator": strong}))
        if self._shown is None and total is not None:
            self._progress.begin(f"{self._archive.name} (MB)", -(-total // CHUNK))
            self._shown = 0
        self._show(total)
        return total

    def _validator(self) -> str | None:
        try:
            notes = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return None
        return notes["validator"] if notes["url"] == self._archive.url else None

    def _show(self, total: int | None) -> None:
        if self._shown is not None:
            now = -(-self.have // CHUNK) if self.have == total else self.have // CHUNK
            self._progress.advance(now - self._shown)
            self._shown = now


def _content_range(headers: Any) -> re.Match[str] | None:
    return re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", headers.get("Content-Range") or "")


def _begin(headers: Any) -> int | None:
    found = _content_range(headers)
    return int(found[1]) if found and found[1] else None


def _total(headers: Any) -> int | None:
    found = _content_range(headers)
    return int(found[2]) if found else None
