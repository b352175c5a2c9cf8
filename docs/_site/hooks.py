"""What MkDocs calls while it builds the site: the order of the pages, and the pages and pictures that nobody writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from console import commands, console_blocks  # noqa: E402
from reference import commands_page  # noqa: E402

COMMANDS = "commands.md"
TUTORIAL = "tutorial.md"
# Pages in the order in which they are read. One that is not there is left out, one that is not named comes last.
ORDER: dict[str, tuple[str, ...]] = {
    "": ("index.md", TUTORIAL),
    "How to": (
        "how-to/own-dataset.md",
        "how-to/configuration.md",
        "how-to/offline.md",
        "how-to/cluster.md",
        "how-to/slurm.md",
        "how-to/s3.md",
        "how-to/pose-estimator.md",
        "how-to/clip-model.md",
        "how-to/skeleton-network.md",
        "how-to/elsewhere.md",
    ),
    "Reference": (COMMANDS, "store.md", "errors.md", "promises.md"),
    "Method": ("method.md", "pose.md", "demo.md", "benchmarks.md"),
}


def tutorial_folder() -> Path:
    """Where ``docs/_site/tutorial.py`` has run the tutorial: ``$VILP_TUTORIAL``, or ``build/tutorial``."""
    return Path(os.environ.get("VILP_TUTORIAL") or "build/tutorial")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    there = {path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")} | {COMMANDS}
    named = {page for pages in ORDER.values() for page in pages}
    sections = {**ORDER, "Method": (*ORDER["Method"], *sorted(there - named))}
    nav: list[Any] = []
    for title, pages in sections.items():
        present = [page for page in pages if page in there]
        nav += [{title: present}] if title else [{"Home": present[0]}, *present[1:]]
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = tutorial_folder()
    if not (made / "outputs.json").is_file():
        raise Abort(f"{made} has no tutorial; `make docs` runs it first: python docs/_site/tutorial.py {made}")
    files.append(File.generated(config, COMMANDS, content=commands_page()))
    files.append(
        File.generated(
            config, "_site/pygments.css", content=HtmlFormatter(style="default").get_style_defs(".highlight")
        )
    )
    for picture in sorted(made.glob("pictures/*")):
        files.append(File.generated(config, f"pictures/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Under every command of the tutorial, what it printed when the site was built."""
    if page.file.src_uri != TUTORIAL:
        return markdown
    outputs = json.loads((tutorial_folder() / "outputs.json").read_text())
    for block in console_blocks(markdown):
        lines = []
        for command in commands(block):
            lines += [f"$ {command}", *outputs[command].splitlines()]
        markdown = markdown.replace(block, "\n".join(lines) + "\n", 1)
    return markdown
