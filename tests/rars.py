"""RAR archives that tests make (stored members only), and a tool that unpacks them where no real one is installed."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

Members = Sequence[tuple[str, bytes]] | Mapping[str, bytes]

LINK = 0o120777


def rar4(path: Path, members: Members, *, mode: int = 0o100644) -> Path:
    """An archive in the format of RAR 3, made on Unix; the separator of names is a backslash there."""
    out = b"Rar!\x1a\x07\x00" + _block4(0x73, 0, bytes(6))
    for name, data in _pairs(members):
        raw = name.replace("/", "\\").encode()
        fields = struct.pack(
            "<IIBIIBBHI", len(data), len(data), 3, zlib.crc32(data), 0x5A21_0000, 20, 0x30, len(raw), mode
        )
        out += _block4(0x74, 0x8000, fields + raw) + data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out + _block4(0x7B, 0x4000, b""))
    return path


def rar5(path: Path, members: Members, *, mode: int = 0o100644, extra: bytes = b"") -> Path:
    """The same in the format of RAR 5; ``extra`` is the extra area of every member."""
    out = b"Rar!\x1a\x07\x01\x00" + _block5(b"\x01\x00\x00")
    for name, data in _pairs(members):
        raw = name.encode()
        head = _number(2) + _number(2 | bool(extra)) + (_number(len(extra)) if extra else b"") + _number(len(data))
        head += _number(4) + _number(len(data)) + _number(mode) + struct.pack("<I", zlib.crc32(data))
        out += _block5(head + _number(0) + _number(1) + _number(len(raw)) + raw + extra) + data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out + _block5(b"\x05\x00\x00"))
    return path


def _pairs(members: Members) -> list[tuple[str, bytes]]:
    return list(members.items() if isinstance(members, Mapping) else members)


def _block4(kind: int, flags: int, rest: bytes) -> bytes:
    body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body


def _block5(body: bytes) -> bytes:
    whole = _number(len(body)) + body
    return struct.pack("<I", zlib.crc32(whole)) + whole


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def install_unrar(folder: Path, body: str = "rars.unrar(sys.argv[1:])") -> Path:
    """Put a script called ``unrar`` into ``folder``, which goes onto the path as the only tool."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "unrar"
    here = str(Path(__file__).parent)
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {here!r})\nimport rars\n{body}\n")
    script.chmod(0o755)
    return folder


def unrar(arguments: list[str]) -> None:
    """``unrar x [options] -- ARCHIVE OUT/`` for what ``rar4`` writes."""
    archive, out = (Path(argument) for argument in arguments[-2:])
    data, at = archive.read_bytes(), 7
    while at < len(data):
        kind, _, size = struct.unpack_from("<BHH", data, at + 2)
        end = at + size
        if kind == 0x74:
            length, name_size = struct.unpack_from("<I", data, at + 7)[0], struct.unpack_from("<H", data, at + 26)[0]
            path = out / data[at + 32 : at + 32 + name_size].decode().replace("\\", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[end : end + length])
            end += length
        at = end
