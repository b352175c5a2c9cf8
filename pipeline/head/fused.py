"""A fused pair on the disk: ``late.json``, what ``late_fusion`` found, and ``predictions.parquet``, the logits of both
together. The heads stay in the runs that they are of, which ``late.json`` names with the hashes of their files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import is_empty, put_together, settle
from pipeline.head.checkpoint import (
    FUSED,
    load_head,
    predictions_table,
    put_predictions,
    put_record,
    read_run,
    weights_digest,
)
from pipeline.head.late import FORMAT, LateResult
from pipeline.head.models import Head
from pipeline.head.results import RunResult
from store.errors import StoreError, UnwrittenError, UsageError, one_of
from store.printable import command


@dataclass(frozen=True)
class FusedRun:
    """Two runs, and by split the weight of the second and SHA-256 of the files of both heads, a pair a seed."""

    directory: Path
    runs: tuple[RunResult, RunResult]
    weights: Mapping[int, float]
    pairs: Mapping[int, tuple[tuple[str, str], ...]]

    def heads(self, split: int | None = None) -> tuple[list[tuple[Head, Head]], float]:
        """The pairs of heads of one split, of the first unless told otherwise, on the CPU, and the weight. Raises
        ``StoreError`` where a run was trained again since."""
        chosen = min(self.weights) if split is None else split
        one_of("split", chosen, tuple(self.weights))
        first, second = self.runs
        pairs = [(_head(first, one, chosen), _head(second, two, chosen)) for one, two in self.pairs[chosen]]
        return pairs, self.weights[chosen]


def write_fused(directory: str | os.PathLike[str], result: LateResult) -> None:
    """Keep a fusion in a directory, which may hold an older one. Raises ``UsageError`` where it holds something
    else."""
    check_place(directory)
    table = predictions_table(result.predictions, result.class_names)
    try:
        with put_together(Path(directory), FUSED) as folder:
            put_predictions(folder, table)
            put_record(folder / FUSED, result.to_dict())
    except UnwrittenError as error:
        error.result = result
        raise


def check_place(directory: str | os.PathLike[str]) -> None:
    """Raise ``UsageError`` where a directory holds something else than a fusion."""
    folder = Path(directory)
    if folder.is_file() or (folder.is_dir() and not is_empty(folder) and not is_fused(folder)):
        raise UsageError(f"out is {folder}, which holds no late fusion; name another directory")


def is_fused(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds a fusion of runs."""
    settle(Path(directory), FUSED)
    return (Path(directory) / FUSED).is_file()


def read_fused(directory: str | os.PathLike[str]) -> FusedRun:
    """A fusion whose heads can be asked again. Raises ``MissingError`` where the runs are gone, ``UsageError`` where
    the other scores are of no run: files know their own videos alone."""
    folder = Path(directory)
    again = command("evaluate", "--run", "RUN", "--late", "RUN", "--out", str(folder))
    try:
        found = json.loads((folder / FUSED).read_text())
    except ValueError as error:
        raise StoreError(f"{folder / FUSED} is damaged ({error}); fuse again: {again}", kind="store-corrupt") from None
    if found.get("format") != FORMAT or found.get("version") != 1:
        raise StoreError(f"{folder / FUSED} is no late fusion of version 1; fuse again: {again}", kind="store-version")
    if found["other_run"] is None:
        raise UsageError(
            f"{folder} fuses with scores of {found['other']}, which no run here gives for other videos; fuse with a "
            f"run: {again}"
        )
    splits = {split["split"]: split for split in found["splits"]}
    return FusedRun(
        folder,
        (read_run(found["run"]), read_run(found["other_run"])),
        {number: split["weight"] for number, split in splits.items()},
        {number: tuple((one, other) for one, other in split["pairs"]) for number, split in splits.items()},
    )


def _head(run: RunResult, digest: str, split: int) -> Head:
    seeds = {weights_digest(run, split, s.seed): s.seed for s in run.scores if s.split == split}
    if digest not in seeds:
        raise StoreError(
            f"the run in {run.directory} was trained again since it was fused; fuse it again with evaluate --late",
            kind="store-mismatch",
        )
    return load_head(run, split, seeds[digest])
