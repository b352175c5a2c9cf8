"""Running a study by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from pipeline.studies import STUDIES
from pipeline.studies.base import Note, StudyConfig
from pipeline.studies.report import Report, check_folder, free_folder, write_report
from store.errors import one_of


def run_study(
    name: str, config: StudyConfig, *, out: str | os.PathLike[str] | None = None, note: Note = lambda line: None
) -> Report:
    """Answer one of ``STUDIES`` and write table, picture and verdict to ``out``, by default the first free
    ``studies/<store>-<study>``. ``note`` hears a line at every step.

    Raises ``UsageError`` for settings that the study cannot work with, ``MissingError`` where the store lacks what it
    reads.
    """
    one_of("study", name, tuple(STUDIES))
    folder = check_folder(Path(out) if out is not None else free_folder(config.store, name), name)
    module = name.replace("-", "_")
    study: Callable[[StudyConfig, Note], Report] = getattr(
        import_module(f"pipeline.studies.{_MODULES.get(name, module)}"), f"study_{module}"
    )
    return write_report(study(config, note), folder)


# Studies that share a module with another.
_MODULES = {"backbone": "groups", "estimators": "groups", "pose-poor": "people", "occlusion": "people"}
