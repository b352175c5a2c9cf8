"""Words and progress on standard error; results on standard output. All of it passes ``store.printable`` here, since
names and messages come from files that strangers made."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.progress import Progress
from store.errors import UnwrittenError
from store.printable import UNPRINTABLE, printable

if TYPE_CHECKING:
    from pipeline.head import EpochReport


def say(line: str = "") -> None:
    """A line for people, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_result_on_stdout() -> Iterator[Any]:
    """Send all that anybody prints while the block runs, native libraries included, to standard error.

    Yields a function that prints a line to the real standard output: line breaks in names are written out.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def out(line: str) -> None:
        os.write(real, f"{printable(line)}\n".encode())

    try:
        yield out
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


@contextlib.contextmanager
def shown_anyway(show: Callable[[Any], None]) -> Iterator[None]:
    """Show what took long to find even where it cannot be written, which stays an error."""
    try:
        yield
    except UnwrittenError as error:
        if error.result is not None:
            show(error.result)
        raise


def as_json(value: Any) -> str:
    """One JSON object on one line; NaN and infinity become null. What a terminal would obey is escaped as JSON does."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show(result: Any, lines: Iterable[str], *, json: bool, print_result: Callable[[str], None]) -> None:
    """Print a result: its ``to_dict()`` as one JSON object, or else ``lines``."""
    for line in [as_json(result.to_dict())] if json else lines:
        print_result(line)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def show_table(title: str, rows: Sequence[Sequence[str]], columns: Sequence[str] = ()) -> None:
    """A table on standard error: rows of a name and a value, or of a name and a figure for every other one of the
    ``columns`` that are named. Commands do not belong in it: it breaks lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), show_header=bool(columns), title_justify="left")
    table.add_column(*columns[:1], style="bold")
    for column in columns[1:] or ("",):
        table.add_column(column, overflow="fold", justify="right" if columns else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # no markup, no emoji
    Console(stderr=True).print(table)


def make_progress() -> Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere."""
    return _Bar() if sys.stderr.isatty() else _Lines()


def epochs_on(progress: Progress) -> Callable[[EpochReport], None]:
    """A training callback that shows every head's epochs as one piece of work, or those of all heads trained
    together."""
    shown: list[tuple[int, int]] = []

    def report(epoch: EpochReport) -> None:
        if not shown:
            heads = f"split {epoch.split}, seed {epoch.seed}" if epoch.runs == 1 else f"{epoch.runs} heads together"
            progress.begin(f"training, {heads}", epoch.epochs)
            shown.append((epoch.split, epoch.seed))
        if shown == [(epoch.split, epoch.seed)]:
            progress.advance(1)
            if epoch.epoch == epoch.epochs:
                progress.end()
                shown.clear()

    return report


class _Lines(Progress):
    """A line now and then: at least ten seconds apart, so that a log stays readable."""

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._said = time.monotonic()
        say(f"{what}: {total} to do")

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said >= 10 or self._done >= self._total:
            self._said = now
            rate = self._done / max(now - self._began, 1e-9)
            left = f", {rate:.1f} a second, {(self._total - self._done) / rate:.0f} s left" if rate else ""
            say(f"{self._what}: {self._done} of {self._total}{left}")

    def note(self, line: str) -> None:
        say(line)

    def warn(self, line: str) -> None:
        say(f"warning: {line}")


class _Bar(Progress):
    """Rich's progress bar on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Any = None

    def begin(self, what: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(what, total=total, rate="")
        self._bar.start()

    def advance(self, steps: int) -> None:
        self._bar.advance(self._task, steps)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:.1f}/s" if speed else "")

    def end(self) -> None:
        self._bar.stop()

    def note(self, line: str) -> None:
        self._print(line)

    def warn(self, line: str) -> None:
        self._print(f"warning: {line}", style="yellow")

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(printable(line), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
