"""Names from strangers in what people read: on terminals, in logs, in commands that they copy.

File names, class names and messages of decoders are data. They may hold characters that a terminal obeys (escape
sequences that hide, forge or retype text), that turn the direction of writing, or that are no text at all. This is the
one place that makes them harmless; what is stored and what programs read stays as it is.
"""

from __future__ import annotations

import re
import shlex

# C0 and C1 controls, line separators, marks that turn the direction of writing, and bytes of names that are no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAK = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")


def printable(text: str) -> str:
    """``text`` with every character that a terminal would obey written out, such as ``\\x1b``."""
    return UNPRINTABLE.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """``text`` on one line, printable: line breaks, with the space around them, become a space."""
    return printable(_BREAK.sub(" ", text.strip()))


def command(*words: str) -> str:
    """A command of ``vilp-pipe`` to copy into a shell, whatever the words hold: ``shlex.split`` gives them back.

    A word with a character that a terminal would obey is written as ``$'...'``, which bash, zsh and ksh read.
    """
    return " ".join(["vilp-pipe", *map(_quote, words)])


def _quote(word: str) -> str:
    if UNPRINTABLE.search(word) is None:
        return shlex.quote(word)
    quoted = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + UNPRINTABLE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _bytes(found[0])), quoted) + "'"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _bytes(character: str) -> bytes:
    code = ord(character)
    # Python's stand-ins for bytes of a file name that are no UTF-8.
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("utf-8", "surrogatepass")
