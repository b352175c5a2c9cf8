"""Options that several commands share, and what a shell completes for them with the tab key."""

from __future__ import annotations

from collections.abc import Callable
from glob import escape, glob
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.head.config import HEADS, LATE_POSE, SKELETON_HEADS


def named(*names: str) -> Callable[[str], list[str]]:
    """Completion with names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def with_commas(*names: str) -> Callable[[str], list[str]]:
    """Completion of the last of several names with commas between them."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        there = before.split(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in there]

    return complete


def split_names(text: str) -> tuple[str, ...]:
    """The names in a text with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _holding(record: str, below: str) -> Callable[[str], list[str]]:
    """Completion with the folders under ``below`` that hold a file, or else with folders of the disk."""

    def complete(incomplete: str) -> list[str]:
        known = sorted(str(path.parents[record.count("/")]) for path in Path(below).glob(f"*/{record}"))
        folders = (f"{path}/" for path in sorted(glob(f"{escape(incomplete)}*")) if Path(path).is_dir())
        return [name for name in known if name.startswith(incomplete)] or list(folders)

    return complete


def complete_dataset(incomplete: str) -> list[str]:
    """Names of datasets that begin with ``incomplete``."""
    from pipeline.datasets import DATASETS

    return named(*DATASETS)(incomplete)


complete_store = _holding("_tables/store.json", "stores")
complete_run = _holding("run.json", "runs")
complete_head = named(*HEADS, *(f"{head}{LATE_POSE}" for head in HEADS if head not in SKELETON_HEADS))
complete_device = named("auto", "cpu", "cuda")

Opt = typer.Option
STORE = "Folder of the store, or s3://bucket/prefix (default: the only one under stores/)."
RUN = "Folder of a training run."
WHERE_THERE_ARE_SEVERAL = "group, or its beginning, where there are several."

Store = Annotated[str | None, Opt(help=STORE, autocompletion=complete_store)]
Run = Annotated[str, Opt(help=RUN, autocompletion=complete_run)]
Head = Annotated[
    str,
    Opt(
        help=f"{', '.join(HEADS)}; any but {' and '.join(SKELETON_HEADS)} with {LATE_POSE} (late fusion).",
        autocompletion=complete_head,
    ),
]
Split = Annotated[str, Opt(help="Number of the official split, or all.")]
Frames = Annotated[int, Opt(help="Frames a video of those that are stored.")]
ClipGroup = Annotated[str | None, Opt(help=f"Id of the CLIP {WHERE_THERE_ARE_SEVERAL}")]
PoseGroup = Annotated[str | None, Opt(help=f"Id of the pose {WHERE_THERE_ARE_SEVERAL}")]
TextGroup = Annotated[
    str | None, Opt(help="Id of the text set (prompt templates), or its beginning, where there are several.")
]
PosefeatGroup = Annotated[
    str | None, Opt(help="Id of a skeleton network's group, or its beginning: adds features, scores and seen.")
]
Device = Annotated[str, Opt(help="auto, cpu, cuda or cuda:N.", autocompletion=complete_device)]
Code = Annotated[
    list[str] | None, Opt(help="A module:name that the store names and that may be run, where you trust it.")
]
DryRun = Annotated[bool, Opt("--dry-run", help="Name what would be removed, and remove nothing.")]
Json = Annotated[bool, Opt("--json", help="Print one JSON object on standard output.")]


def persons_option(panel: str | None = None) -> Any:
    """``--persons``, in a panel of the help."""
    what = "Whose joints pvcs, pvcs-joint and fuse read: all, or moving (each by how far they move)."
    return Opt(help=what, rich_help_panel=panel, autocompletion=named("all", "moving"))


def precision_option(panel: str | None = None) -> Any:
    """``--precision`` of training, in a panel of the help."""
    what = "Of the matrix products of training: auto, fp32 or bf16."
    return Opt(help=what, rich_help_panel=panel, autocompletion=named("auto", "fp32", "bf16"))
