"""The command reference, made from the application itself."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator
from typing import Any

import typer

from cli.app import app
from cli.main import add_commands

HEAD = """# Commands

Made from the program itself: the same as `vilp-pipe COMMAND --help`. Exit codes: 0 done, 1 failed, 2 usage, 130 and 143
after SIGINT and SIGTERM. Options before the command: `--debug` shows a traceback when something fails, `--version` the
version, `--install-completion` completes commands, options and their values with the tab key.
"""


def commands_page() -> str:
    """The page in Markdown."""
    add_commands()
    return "\n".join([HEAD, *_commands(typer.main.get_command(app), "vilp-pipe")])


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield from _command(command, f"{path} {name}")


def _command(command: Any, path: str) -> Iterator[str]:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([path, *map(_argument, arguments), "[OPTIONS]"])
    yield f"## {path.partition(' ')[2]}\n"
    yield f"`{usage}`\n"
    words, _, examples = inspect.cleandoc(command.help).partition("\b\n")
    yield f"{words.strip()}\n"
    yield "```console"
    yield from (f"$ {line.strip()}" for line in examples.splitlines() if line.strip())
    yield "```\n"
    yield from map(_entry, [*arguments, *(param for param in command.params if param not in arguments)])
    yield ""


def _entry(param: Any) -> str:
    if param.param_type_name == "argument":
        name = _argument(param)
    else:
        value = "" if getattr(param, "is_bool_flag", False) else f" {param.metavar or param.name.upper()}"
        name = f"{max(param.opts, key=len)}{value}"
    default = "" if param.default in (None, False) else f" (default `{param.default}`)"
    return f"* `{name}`{default}: {_plain(param.help)}"


def _argument(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _plain(text: str | None) -> str:
    """Help as it stands: nothing in it is markup."""
    escaped = (f"\\{character}" if character in "\\*_`[" else character for character in text or "")
    return html.escape("".join(escaped), quote=False)
