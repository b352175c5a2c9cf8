"""The command line: ``vilp-pipe``. Parses, calls and prints; all work is done elsewhere."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

import typer

from cli.app import app
from cli.console import say
from store.errors import UsageError, VilpError
from store.printable import command, one_line

# Where the commands are, in the order in which the help lists them.
MODULES = (
    *("extract", "store", "train_head", "evaluate", "study", "inspect", "report", "predict", "search"),
    *("export", "care", "datasets", "doctor", "demo", "benchmark"),
)


class Stopped(BaseException):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def add_commands() -> None:
    """Register every command with the application."""
    # Importing these modules must stay cheap: what is heavy is imported inside the commands.
    for module in MODULES:
        import_module(f"cli.{module}")


def _on_signal(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal ends the process at once, whatever the clean-up is doing.
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


def _collect_seldom() -> None:
    # Importing torch and open_clip makes 400,000 objects that stay. Looking for garbage among them time and again is an
    # eighth of the import, and once more at the end takes a second.
    gc.set_threshold(5_000)
    atexit.register(gc.freeze)


def run() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 usage, 130 and 143 after SIGINT and SIGTERM."""
    _collect_seldom()
    add_commands()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        code = app(prog_name="vilp-pipe", standalone_mode=False)
        sys.exit(code or 0)
    except typer.TyperException as error:
        if message := error.format_message():  # empty where it was the help
            say(f"error: {one_line(message).rstrip('.')}; see {command(*_command_of(error), '--help')}")
        sys.exit(error.exit_code)
    except VilpError as error:
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Stopped as stopped:
        say(f"stopped; what was committed stays. To go on: {command(*sys.argv[1:])}")
        sys.exit(128 + stopped.number)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        again = command("--debug", *sys.argv[1:])
        say(f"error: {type(error).__name__}: {one_line(str(error))}; to see where, run: {again}")
        sys.exit(1)


def _command_of(error: typer.TyperException) -> list[str]:
    """Words of the command that an error of parsing is about, without the program."""
    context = getattr(error, "ctx", None)
    return context.command_path.split()[1:] if context is not None else []
