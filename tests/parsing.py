"""Commands of ``vilp-pipe`` as the application understands them, without running them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from cli.app import app
from cli.main import add_commands


def group() -> Any:
    add_commands()
    return typer.main.get_command(app)


def commands(of: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, groups of commands left out."""
    of = of or group()
    for name, command in of.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def parse(line: str) -> Any:
    """The context that a command line, which begins with ``vilp-pipe``, leads to. Raises where an option or a command
    does not exist, an argument is missing, or a number is none."""
    program, *words = shlex.split(line, comments=True)
    assert program == "vilp-pipe", line
    context = group().make_context("vilp-pipe", words)
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context
