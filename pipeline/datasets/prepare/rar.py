"""What a RAR archive holds, read off its headers, so that nothing is unpacked before every name was looked at.

Formats: RAR 1.5 to 4 and RAR 5, as described in the technical notes that come with RAR and UnRAR. Archives in several
volumes or with passwords, and RAR 4 names in its packed Unicode form, are refused: the archives of the datasets have
none.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from store.errors import UsageError

RAR4, RAR5 = b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"

_LONGEST_HEADER = 2 << 20
_UNIX, _KIND, _REGULAR, _FOLDER, _REPARSE = 3, 0o170000, 0o100000, 0o040000, 0x400


@dataclass(frozen=True)
class Entry:
    """One member. ``kind`` is ``file``, ``folder``, or what else it is (``link``, ``device``)."""

    name: str
    size: int
    kind: str


def read_rar(path: Path) -> list[Entry]:
    """Members of a RAR archive in their order. Raises ``UsageError`` for what is damaged or not supported."""
    with path.open("rb") as file:
        signature = file.read(len(RAR5))
        try:
            if signature == RAR5:
                return list(_rar5(file, path))
            if signature.startswith(RAR4):
                file.seek(len(RAR4))
                return list(_rar4(file, path))
        except (struct.error, IndexError):
            raise _damaged(path, file, "a header is cut short") from None
    raise UsageError(f"{path} is not a RAR archive; it begins with {signature!r}")


def _damaged(path: Path, file: BinaryIO, what: str) -> UsageError:
    return UsageError(f"{path} cannot be read near byte {file.tell():,}: {what}; take the official archive again")


def _skip(file: BinaryIO, path: Path, length: int) -> None:
    end = file.tell() + length
    if end > path.stat().st_size:
        raise _damaged(path, file, "the file ends in the middle of a member")
    file.seek(end)


def _rar4(file: BinaryIO, path: Path) -> Iterator[Entry]:
    main, member, end = 0x73, 0x74, 0x7B
    while head := file.read(7):
        crc, block, flags, size = struct.unpack("<HBHH", head)
        rest = file.read(size - 7) if size >= 7 else b""
        if size < 7 or len(rest) != size - 7 or zlib.crc32(head[2:] + rest) & 0xFFFF != crc:
            raise _damaged(path, file, "a header does not match its checksum")
        data = 0
        if block == main and flags & 0x81:
            raise _damaged(path, file, "archives in volumes or with encrypted headers are not supported")
        if block == end:
            return
        if block == member:
            packed, unpacked, system, _, _, _, _, name_size, attributes = struct.unpack_from("<IIBIIBBHI", rest)
            at = 25
            data = packed
            if flags & 0x100:
                high_packed, high_unpacked = struct.unpack_from("<II", rest, at)
                data, unpacked, at = packed | high_packed << 32, unpacked | high_unpacked << 32, at + 8
            raw = rest[at : at + name_size]
            if flags & 0x07:
                raise _damaged(path, file, f"{raw!r} is encrypted or split over volumes, which is not supported")
            if len(raw) != name_size or (flags & 0x200 and b"\0" in raw):
                raise _damaged(path, file, f"the name {raw!r} is not plain text, which is not supported")
            yield Entry(
                _text(raw, path, file).replace("\\", "/"),
                unpacked,
                _kind(flags & 0xE0 == 0xE0, system == _UNIX, attributes),
            )
        elif flags & 0x8000:
            (data,) = struct.unpack_from("<I", rest)
        _skip(file, path, data)


def _rar5(file: BinaryIO, path: Path) -> Iterator[Entry]:
    main, member, encryption, end = 1, 2, 4, 5
    while checksum := file.read(4):
        size = _Numbers(lead := file.read(3))
        length = size.next()
        if not 0 < length <= _LONGEST_HEADER:
            raise _damaged(path, file, "a header has no sensible length")
        file.seek(size.at - len(lead), 1)
        body = file.read(length)
        if len(body) != length or struct.pack("<I", zlib.crc32(lead[: size.at] + body)) != checksum:
            raise _damaged(path, file, "a header does not match its checksum")
        header = _Numbers(body)
        block, flags = header.next(), header.next()
        extra = header.next() if flags & 1 else 0
        data = header.next() if flags & 2 else 0
        if block == encryption or (block == main and header.next() & 1):
            raise _damaged(path, file, "archives in volumes or with encrypted headers are not supported")
        if block == end:
            return
        if block == member:
            if flags & 0x18:
                raise _damaged(path, file, "a member is split over volumes, which is not supported")
            details, unpacked, attributes = header.next(), header.next(), header.next()
            header.at += 4 * bool(details & 2) + 4 * bool(details & 4)
            header.next()  # compression
            system, name_size = header.next(), header.next()
            raw = body[header.at : header.at + name_size]
            kind = _kind(bool(details & 1), system == 1, attributes)
            if 5 in _records(body[length - extra :] if extra else b""):
                kind = "link"
            yield Entry(_text(raw, path, file), unpacked, kind)
        _skip(file, path, data)


def _records(extra: bytes) -> set[int]:
    """Types of the records in the extra area of a member; 5 is a redirection: a link, or a copy of another member."""
    numbers, found = _Numbers(extra), set()
    while numbers.at < len(extra):
        size = numbers.next()
        begins = numbers.at
        found.add(numbers.next())
        numbers.at = begins + size
    return found


def _kind(folder: bool, unix: bool, attributes: int) -> str:
    if unix:
        kind = attributes & _KIND
        return "folder" if folder or kind == _FOLDER else "file" if kind in (0, _REGULAR) else "link or device"
    return "link" if attributes & _REPARSE else "folder" if folder else "file"


def _text(raw: bytes, path: Path, file: BinaryIO) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _damaged(path, file, f"the name {raw!r} is not UTF-8, which is not supported") from None


class _Numbers:
    """Numbers of variable length: seven bits a byte, the lowest first, the eighth bit set on all but the last."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def next(self) -> int:
        number = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
