"""HTML and SVG that cannot be broken by what stands in it: every string is escaped, but for what ``el`` made itself."""

from __future__ import annotations

import html
import json
from typing import Any

VOID = ("meta", "img", "br", "col")


class Markup(str):
    """Text that is markup already; only ``el`` and this module's constants make it."""

    __slots__ = ()


def clean(text: object) -> str:
    """``text`` with every character that does not show (control and direction characters, lone surrogates) replaced, so
    that none can hide or turn round what stands beside it."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def escape(text: object) -> Markup:
    """``text`` as it can stand between tags and in quoted attributes."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text), quote=True))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children are escaped unless they are ``Markup``; lists are joined, None is nothing. An attribute
    ``a_b`` is called ``a-b``, and ``cls`` is ``class``; None leaves it out."""
    named = {"class" if key == "cls" else key.replace("_", "-"): value for key, value in attributes.items()}
    inside = "".join(f' {key}="{escape(value)}"' for key, value in named.items() if value is not None)
    return Markup(f"<{name}{inside}>" if name in VOID else f"<{name}{inside}>{joined(children)}</{name}>")


def joined(children: Any) -> Markup:
    """Children one after the other."""
    parts = (joined(c) if isinstance(c, list | tuple) else "" if c is None else escape(c) for c in children)
    return Markup("".join(parts))


def data_block(name: str, value: Any) -> Markup:
    """A JSON value that a script of the page can read, from the element with the id ``name``."""
    text = json.dumps(_cleaned(value), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return clean(value) if isinstance(value, str) else value
