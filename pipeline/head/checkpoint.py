"""A run directory: ``run.json``, ``predictions.parquet`` and one ``split<s>-seed<n>.safetensors`` a trained head (and,
once features were made with it, one ``split<s>-seed<n>-folds.safetensors``: see ``Held``).

All are put in place together (see ``pipeline.files``), and ``run.json``, which holds the hashes of the others, goes
last: a directory has a run if and only if it has that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.files import check_directory, is_empty, put_file, put_together, settle, writing
from pipeline.head.metrics import ranking
from pipeline.head.models import Head, build_head
from pipeline.head.results import Prediction, RunResult
from store.errors import MissingError, StoreError, UnwrittenError, UsageError
from store.printable import command

RECORD = "run.json"
PREDICTIONS = "predictions.parquet"
FUSED = "late.json"  # the record of a late fusion, in its place: see ``pipeline.head.fused``


def checkpoint_name(split: int, seed: int) -> str:
    """File of the head of a split and seed, in the directory of a run."""
    return f"split{split}-seed{seed}.safetensors"


@contextlib.contextmanager
def run_directory(directory: Path) -> Iterator[None]:
    """Make sure that a run can be written, before the block does any work for it. A directory that is made for it is
    removed where the block writes nothing into it.

    Raises ``UsageError`` where the directory holds something other than a run.
    """
    check_directory("out", directory)
    settle(directory, RECORD)
    made = not directory.exists()
    if not (made or is_empty(directory) or (directory / RECORD).is_file()):
        raise UsageError(f"out is {directory}, which is not empty and holds no run; name another directory")
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made:
                directory.rmdir()  # where it is empty


def write_run(
    directory: Path, result: RunResult, heads: dict[tuple[int, int], Head], predictions: Sequence[Prediction]
) -> RunResult:
    """Write a run, replacing one that is there; returns the result with its directory and the hashes of its files.

    ``heads`` are by split and seed. Raises ``UnwrittenError``, which has the result, where it cannot be written; a run
    that was there then stays.
    """
    table = predictions_table(predictions, result.class_names)
    try:
        with put_together(directory, RECORD) as folder:
            files = {PREDICTIONS: put_predictions(folder, table)}
            for (split, seed), head in heads.items():
                name = checkpoint_name(split, seed)
                files[name] = _put_tensors(folder / name, head.state_dict())
            written = replace(result, directory=directory, files=files)
            put_record(folder / RECORD, written.to_dict())
    except UnwrittenError as error:
        error.result = result
        raise
    for path in directory.glob("split*-seed*.safetensors"):
        if path.name not in files:  # of the run before
            path.unlink()
    return written


def read_run(directory: str | os.PathLike[str]) -> RunResult:
    """The record of a run. Raises ``MissingError`` where there is none, ``UsageError`` where it is a late fusion."""
    path = Path(directory) / RECORD
    check_directory("run", path.parent)
    settle(path.parent, RECORD)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        if (path.parent / FUSED).is_file():
            ask = command("predict", "VIDEO", "--run", str(directory))
            raise UsageError(
                f"{directory} holds a late fusion of evaluate --late, whose figures are in {path.parent / FUSED}, and "
                f"no run of a head; ask it about videos with: {ask}; or name one of the runs that it fuses"
            ) from None
        make = command("train-head", "--out", str(directory))
        raise MissingError(f"no run in {directory}; make one with: {make}") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); train again", kind="store-corrupt") from None
    if data.get("format") != "vilp-run" or data.get("version") != 1:
        raise StoreError(f"{path} is no run that this version reads (format vilp-run, version 1)", kind="store-version")
    return RunResult.from_dict(data).at(Path(directory))


def open_run(run: RunResult | str | os.PathLike[str]) -> RunResult:
    """The record of a run, or of the one in a directory. Raises as ``read_run``."""
    return run if isinstance(run, RunResult) else read_run(run)


def put_predictions(directory: Path, table: pa.Table) -> str:
    """Put a table of predictions (see ``predictions_table``) into a directory; returns the file's SHA-256 (hex)."""
    return put_file(directory / PREDICTIONS, lambda path: pq.write_table(table, path, compression="zstd"))


def put_record(path: Path, record: Mapping[str, object]) -> None:
    """Put the JSON of plain values into a file."""
    text = json.dumps(record, indent=2, allow_nan=False)
    put_file(path, lambda fresh: fresh.write_text(text + "\n"))


def _put_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    return put_file(path, lambda fresh: fresh.write_bytes(data))


def load_head(run: RunResult, split: int, seed: int) -> Head:
    """A trained head of a run, on the CPU. Raises ``StoreError`` (``store-corrupt``) where its file was changed."""
    name = checkpoint_name(split, seed)
    head = build_head(run.config, run.sizes)
    head.load_state_dict(load_file(_checked(run, name)))
    return head.eval()


def weights_digest(run: RunResult, split: int, seed: int) -> str:
    """SHA-256 (hex) of a trained head's file, as it was written."""
    return run.files[checkpoint_name(split, seed)]


@dataclass(frozen=True)
class Held:
    """What the file of the heads that were trained without a fold of the training videos says beside their weights.

    of        SHA-256 of the file of the head that saw all training videos
    training  ids of all training videos; of these each tuple of ``held_out`` was held out once
    """

    of: str
    training: tuple[str, ...]
    held_out: tuple[tuple[str, ...], ...]


def held_name(split: int, seed: int) -> str:
    """File of the heads that were trained without a fold of a split's training videos, in the directory of a run."""
    return f"split{split}-seed{seed}-folds.safetensors"


def write_held(run: RunResult, split: int, seed: int, heads: Sequence[Head], facts: Held) -> None:
    """Put the heads that were trained without a fold each beside the others of a run."""
    assert run.directory is not None
    tensors = {f"{fold}.{name}": t for fold, head in enumerate(heads) for name, t in head.state_dict().items()}
    # One entry: safetensors writes several in any order, and the file's hash is the head's name.
    text = json.dumps(asdict(facts), sort_keys=True)
    _put_tensors(run.directory / held_name(split, seed), tensors, {"held": text})


def read_held(run: RunResult, split: int, seed: int) -> tuple[list[Head], Held, str] | None:
    """The heads that ``write_held`` wrote, on the CPU, what their file says, and its SHA-256. None where there is no
    such file, or where it is of a head that was trained before."""
    assert run.directory is not None
    path = run.directory / held_name(split, seed)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["held"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    facts = Held(found["of"], tuple(found["training"]), tuple(map(tuple, found["held_out"])))
    if facts.of != weights_digest(run, split, seed):
        return None
    heads = []
    for fold in range(len(facts.held_out)):
        head, prefix = build_head(run.config, run.sizes), f"{fold}."
        head.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        heads.append(head.eval())
    return heads, facts, hashlib.sha256(path.read_bytes()).hexdigest()


def load_predictions(run: RunResult) -> list[Prediction]:
    """The recorded predictions of a run, in order of split and seed."""
    table = pq.read_table(_checked(run, PREDICTIONS))
    found = []
    for split, seed in sorted({(score.split, score.seed) for score in run.scores}):
        mask = np.logical_and(table["split"].to_numpy() == split, table["seed"].to_numpy() == seed)
        rows = table.filter(pa.array(mask))
        found.append(
            Prediction(
                split=split,
                seed=seed,
                scores=np.array(rows["logits"].combine_chunks().flatten()).reshape(len(rows), -1),
                labels=rows["label"].to_numpy(),
                slots=rows["slot"].to_numpy(),
                video_ids=tuple(rows["video_id"].to_pylist()),
                sources=tuple(rows["source"].to_pylist()),
            )
        )
    return found


def predictions_table(predictions: Sequence[Prediction], class_names: Sequence[str]) -> pa.Table:
    """One row a split, seed and test video."""
    parts = []
    for p in predictions:
        count = len(p.labels)
        best = ranking(p.scores, min(5, len(class_names)))
        logits = pa.FixedSizeListArray.from_arrays(pa.array(p.scores.astype(np.float32).ravel()), p.scores.shape[1])
        columns = {
            "split": pa.array([p.split] * count, pa.int32()),
            "seed": pa.array([p.seed] * count, pa.int32()),
            "slot": pa.array(p.slots, pa.int64()),
            "video_id": pa.array(p.video_ids, pa.string()),
            "source": pa.array(p.sources, pa.string()),
            "label": pa.array(p.labels, pa.int64()),
            "class_name": pa.array([class_names[label] for label in p.labels], pa.string()),
            "predicted": pa.array([class_names[label] for label in best[:, 0]], pa.string()),
            "top5": pa.array(best.tolist(), pa.list_(pa.int64())),
            "logits": logits,
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _checked(run: RunResult, name: str) -> Path:
    assert run.directory is not None
    path = run.directory / name
    if not path.is_file():
        raise MissingError(f"{path} is missing from the run; train again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != run.files.get(name):
        raise StoreError(f"{path} is not as it was written; train again", kind="store-corrupt")
    return path
