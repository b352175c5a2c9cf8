"""The whole extraction as a command, from start to exit, against a plain script that is run the same way."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare
from pipeline.benchmarks.clips import ClipSet
from pipeline.progress import Progress
from stages.clip.config import DEFAULT_TOKENS
from store.layout import COMMITS

PLAIN = "plain script, fp32"
# Small shards, so that a few clips make several units of work, as a whole dataset does with the default.
SHARD_LEN = 8
FIRST = "first result, s"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from the command to its exit, and to the first features that are safe on the disk."""
    listing = folder / "clips.txt"
    listing.write_text("\n".join(map(str, clips.paths)) + "\n")
    for path in clips.paths:
        path.read_bytes()  # whoever comes first must not pay for a cold disk
    numbers = itertools.count()
    ways: dict[str, Way] = {PLAIN: partial(_plain, listing, len(clips.paths), config, folder, numbers)}
    for engine in config.engines:
        ways[f"ours, {engine}"] = partial(_ours, clips, config, engine, "", folder, numbers)
    tokens = ",".join(DEFAULT_TOKENS)
    ways[f"ours, {engine}, with tokens"] = partial(_ours, clips, config, engine, tokens, folder, numbers)
    return [
        compare(
            "extract",
            f"whole extraction, {config.models[0]}",
            ways,
            plain=PLAIN,
            count=len(clips.paths),
            unit="clips",
            rounds=config.extract_rounds,
            progress=progress,
            notes=(
                f"{clips.what}, {config.frames} frames each, from command to exit, start-up included; precision auto",
                "plain: decord get_batch (PyAV where decord is not installed), Pillow transform, fp32, one .npy a clip",
                f"ours: a committed and checksummed store, no pose, shards of {SHARD_LEN} clips; once a store it also "
                "encodes the class names, and with tokens it stores value and penult patch tokens; the plain script "
                "does neither",
                f"{FIRST}: to the first .npy, and to the first committed shard",
            ),
        )
    ]


def _plain(
    listing: Path, count: int, config: BenchmarkConfig, folder: Path, numbers: itertools.count[int]
) -> dict[str, float]:
    out = folder / f"plain{next(numbers)}"
    began = time.time()
    module = "pipeline.benchmarks.plain"
    _call([sys.executable, "-m", module, str(listing), str(out), config.models[0], str(config.frames)])
    files = list(out.glob("*.npy"))
    _all_done(PLAIN, len(files), count)
    return {FIRST: _first(files, began)}


def _ours(
    clips: ClipSet,
    config: BenchmarkConfig,
    engine: str,
    tokens: str,
    folder: Path,
    numbers: itertools.count[int],
) -> dict[str, float]:
    store = folder / f"store{next(numbers)}"
    options: dict[str, Any] = {
        "dataset": clips.dataset,
        "root": clips.root,
        "store": store,
        "limit": len(clips.paths),
        "frames": config.frames,
        "clip": config.models[0],
        "clip-pretrained": "none",
        "pose": "none",
        "tokens": tokens,
        "engine": engine,
        "shard-len": SHARD_LEN,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    began = time.time()
    output = _call([sys.executable, "-c", "from cli.main import run; run()", "extract", *flags, "--json"])
    summary = json.loads(output)
    _all_done(f"extraction with {engine}", summary["done"], len(clips.paths))
    return {FIRST: _first((store / COMMITS / "clip").glob("*/*.parquet"), began)}


def _call(command: Sequence[str]) -> str:
    """Run a command and return its standard output. Raises ``RuntimeError`` with the end of its words on failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split()[-60:])
        raise RuntimeError(f"{' '.join(command[:6])} ... ended with exit code {done.returncode}: {words}")
    return done.stdout


def _all_done(what: str, done: int, wanted: int) -> None:
    if done != wanted:
        raise RuntimeError(f"{what} gave features of {done} of {wanted} clips, so its time says nothing")


def _first(files: Iterable[Path], began: float) -> float:
    """Seconds from ``began`` to the oldest of the files."""
    return min(path.stat().st_mtime for path in files) - began
