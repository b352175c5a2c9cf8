"""The Typer application, to which the commands add themselves, and the options that all of them share."""

from __future__ import annotations

import typer

from cli.config import App

app = App(
    name="vilp-pipe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CLIP and pose features of a video dataset once; action recognition heads in seconds.",
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"vilp-pipe {version('vilp-pipe')}")
        raise typer.Exit


@app.callback()
def _common(
    debug: bool = typer.Option(False, "--debug", help="Show a traceback when something fails."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options before the command; ``cli.main`` looks for ``--debug`` itself, since it handles what commands raise."""
