"""Settings of a command as TOML, to be kept with what the command made and given back to it with ``--config``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

# How a file of settings begins that was written here, and may be replaced.
MARK = "# Written by vilp-pipe"


def as_toml(command: str, values: Mapping[str, Any]) -> bytes:
    """A table named after ``command`` (such as ``extract`` or ``datasets prepare``) with ``values`` by option; those
    that are None are left out. Names that are no UTF-8 stay the bytes that they are."""
    lines = [f"{MARK} {version('vilp-pipe')}. The same again: vilp-pipe {command} --config FILE"]
    lines += [f"[{'.'.join(command.split())}]"]
    lines += [f"{name} = {_value(value)}" for name, value in values.items() if value is not None]
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings are TOML's but for one control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
