"""The command line: ``vilp-pipe``. Parses, calls and prints; all work is done elsewhere."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

from cli.app import app
from cli.console import say
from store.errors import UsageError, VilpError
from store.printable import command, one_line


class Stopped(BaseException):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _add_commands() -> None:
    # Importing these modules must stay cheap: what is heavy is imported inside the commands.
    import cli.benchmark
    import cli.care
    import cli.datasets
    import cli.demo
    import cli.doctor
    import cli.export
    import cli.extract
    import cli.head
    import cli.inspect
    import cli.predict
    import cli.report
    import cli.search
    import cli.store
    import cli.study  # noqa: F401


def _on_signal(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal ends the process at once, whatever the clean-up is doing.
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


def run() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 usage, 130 and 143 after SIGINT and SIGTERM."""
    _add_commands()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        app(prog_name="vilp-pipe", standalone_mode=True)
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
        say(f"error: {type(error).__name__}: {one_line(str(error))} (run with --debug to see where)")
        sys.exit(1)
