"""Configuration files. Every command takes ``--config FILE.toml``, and what makes something keeps its settings there.

A file holds options by their names, ``pose-frames = 48``: at its top, or in a table named after the command, so that
one file can serve several (``[extract]``, ``[train-head]``, ``[datasets.prepare]``). A value means what the same word
means on the command line, where options win over the file; ``--no-X`` takes back a switch that the file turns on.
"""

from __future__ import annotations

import functools
import inspect
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cli.console import say
from pipeline.files import put_file
from pipeline.settings import MARK, as_toml
from store.errors import MissingError, UsageError, nearest
from store.printable import command as shell_command

# Options that say where a result goes or what is shown of it: no settings of the result.
ABOUT_OUTPUT = ("config", "dry-run", "figure", "html", "json", "out", "profile")
# Options whose values are places, kept so that they hold in any directory.
PLACES = ("from", "root", "run", "store", "to", "videos")

# Commands that look at what another would do read its table where a file has none of theirs.
READS_TABLE_OF = {"doctor": "extract"}

_running: ContextVar[typer.Context] = ContextVar("running")


class Command(TyperCommand):
    """A command whose switches can be turned off again, which its help does not list one by one, and whose errors name
    the value that they are about."""

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        for param in self.params:
            if getattr(param, "is_bool_flag", False):
                off = [f"--no-{option.removeprefix('--')}" for option in param.opts if option.startswith("--")]
                parser.add_option(param, off, param.name, action="store_const", const=False)  # type: ignore[call-arg,arg-type]
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except typer.BadParameter as error:
            name = error.param.name if error.param is not None else ""
            given = self.make_parser(ctx).parse_args(args=list(args))[0].get(name, ctx.lookup_default(name))
            if error.param is None or given is None:
                raise  # it is missing
            raise UsageError(
                f"{_key(error.param)} is {given!r}; {error.message[:1].lower()}{error.message[1:]}"
            ) from None


class App(typer.Typer):
    """A Typer application all of whose commands take ``--config``."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        command = super().command

        def add(function: Callable[..., None]) -> Callable[..., None]:
            command(name, cls=Command, help=_flowing(function.__doc__ or ""), **settings)(_with_config(function))
            return function

        return add


def _flowing(text: str) -> str:
    """A docstring whose paragraphs, but not its examples, are one line each, for a terminal of any width to break."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else part.replace("\n", " ") for part in paragraphs)


def with_options_of(command: Callable[..., None], *, but: Sequence[str]) -> Callable[[Any], Any]:
    """Give a function that takes ``**options`` the options of another command, without those named in ``but``."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        theirs, ours = (inspect.signature(f, eval_str=True) for f in (command, function))
        own = [param for param in ours.parameters.values() if param.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = [param for name, param in theirs.parameters.items() if name not in but]
        function.__signature__ = ours.replace(parameters=[*shared, *own])  # type: ignore[attr-defined]
        return function

    return add


def keep_config(made: str | os.PathLike[str], **resolved: Any) -> None:
    """Keep the settings of the command that runs: in the folder (or bucket) that it made, ``<command>.toml``, or beside
    the file, ``<file>.toml``. ``resolved`` are values that it came to, by parameter, such as the store where none was
    given."""
    context = _running.get()
    name = _name(context)
    values = {**context.params, **resolved}
    options = {_key(param): values.get(param.name) for param in context.command.params}
    kept = {key: _kept(key, value) for key, value in options.items() if key not in ABOUT_OUTPUT}
    text, file = as_toml(name, kept), f"{name.replace(' ', '-')}.toml"
    if "://" in str(made):
        from store.objects import open_objects

        open_objects(made).put(file, text)
        return
    path = Path(made) / file if Path(made).is_dir() else Path(f"{made}.toml")
    if path.exists() and not path.read_bytes().startswith(MARK.encode()):
        say(f"note: {path} was not written by vilp-pipe and stays; the settings of this run are not kept")
        return
    put_file(path, lambda fresh: fresh.write_bytes(text))


def read_config(path: str, context: typer.Context) -> dict[str, Any]:
    """What a file says for a command, by parameter: words, lists of words, and bool for switches.

    Raises ``MissingError`` where there is no file, ``UsageError`` where it is no TOML, names an option or a command
    that does not exist, or says nothing for this one.
    """
    name = _name(context)
    try:
        content = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise MissingError(f"config {path} cannot be read: {error.strerror}; name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"config {path} is no TOML: {error}") from None
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    commands = context.find_root().command.commands  # type: ignore[attr-defined]
    for table in tables:
        if table not in commands:
            raise UsageError(f"config {path}: [{table}] is no command{nearest(table, commands)}")
    own = _table(content, name)
    if own is None and (other := READS_TABLE_OF.get(name)) is not None:
        own = _table(content, other)
        beside = {_key(param) for param in commands[other].params} - {_key(param) for param in context.command.params}
        own = None if own is None else {key: value for key, value in own.items() if key.replace("_", "-") not in beside}
    given = {key: value for key, value in content.items() if key not in tables} | (own or {})
    if content and not given and own is None:
        raise UsageError(f"config {path} says nothing for {name}; its tables are: {', '.join(tables)}")
    params = {key: param for param in context.command.params for key in (_key(param), _key(param).replace("-", "_"))}
    values = {}
    for key, value in given.items():
        if key not in params or key == "config":
            see = shell_command(*name.split(), "--help")
            raise UsageError(f"config {path}: {key!r} is no option of {name}{nearest(key, params)}; see {see}")
        values[params[key].name] = _parsed(path, key, value, params[key])
    return values


def _table(content: Any, name: str) -> dict[str, Any] | None:
    """The table of a command in a file, such as that of ``datasets prepare``."""
    for word in name.split():
        content = content.get(word) if isinstance(content, dict) else None
    return content


def _parsed(path: str, key: str, value: Any, param: Any) -> Any:
    """A value of a file as what the command line would hand over."""
    if getattr(param, "is_bool_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"config {path}: {key} is {value!r}; allowed: true, false")
        return value
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, dict | list) for item in items):
        raise UsageError(f"config {path}: {key} is {value!r}; allowed: one value, or a list of values")
    words = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    return words if param.multiple or param.nargs != 1 else ",".join(words)


def _kept(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_kept(key, item) for item in value]
    if key in PLACES and isinstance(value, str | Path) and "://" not in str(value):
        return str(Path(value).absolute())
    return value


def _with_config(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with an option ``--config`` more, and with its context at hand for ``keep_config``."""
    signature = inspect.signature(function, eval_str=True)
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=_CONFIG, default=None)

    @functools.wraps(function)
    def run(context: typer.Context, config: str | None = None, **values: Any) -> None:
        with _at_hand(context):
            function(**values)

    named = [param.replace(kind=inspect.Parameter.KEYWORD_ONLY) for param in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[context, *named, config])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    del run.__wrapped__
    return run


@contextmanager
def _at_hand(context: typer.Context) -> Iterator[None]:
    token = _running.set(context)
    try:
        yield
    finally:
        _running.reset(token)


def _set_defaults(context: typer.Context, path: str | None) -> str | None:
    if path is not None and not context.resilient_parsing:
        context.default_map = read_config(path, context)
    return path


_CONFIG = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.toml",
        is_eager=True,
        callback=_set_defaults,
        help="Take options from a file; those given here win, and --no-X takes a switch back.",
    ),
]


def _name(context: typer.Context) -> str:
    """The command as it is typed, without the program."""
    return context.command_path.partition(" ")[2]


def _key(param: Any) -> str:
    """The name of an option or argument in a file."""
    return max(param.opts, key=len).removeprefix("--") if param.param_type_name == "option" else str(param.name)
