"""The whole extraction as a command, from start to exit, against a plain script that is run the same way."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline.benchmarks.base import BenchmarkConfig, Comparison, Way, compare, make_row
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.kernels import measure
from pipeline.engines.sizing import cpus, wanted_lanes
from pipeline.progress import Progress
from stages.clip.config import DEFAULT_TOKENS
from store.layout import COMMITS

PLAIN = "plain script, fp32"
# Small shards, so that a few clips make several units of work, as a whole dataset does with the default.
SHARD_LEN = 8
FIRST, START = "first result, s", "start-up, s"
EFFICIENCY = "efficiency, %"


def run(config: BenchmarkConfig, clips: ClipSet, folder: Path, progress: Progress) -> list[Comparison]:
    """Seconds from the command to its exit, and to the first features that are safe on the disk; then a longer run of
    each engine, for what a clip costs once everything has started."""
    listing = folder / "clips.txt"
    listing.write_text("\n".join(map(str, clips.paths)) + "\n")
    for path in clips.paths:
        path.read_bytes()  # whoever comes first must not pay for a cold disk
    many = copies(clips, config.steady_clips, folder / "copies")
    progress.note(f"extract: measuring the kernels alone on {len(clips.paths)} clips")
    tokens = ",".join(DEFAULT_TOKENS)
    needs = {given: measure(listing, config.models[0], config.frames, given) for given in ("", tokens)}
    kernels = Kernels({given: sum(need.values()) / len(clips.paths) for given, need in needs.items()})
    notes = (
        f"{clips.what}, {config.frames} frames each; precision auto",
        f"{EFFICIENCY}: CPU seconds that the kernels need alone (all cores busy with them, in the same run: decoding "
        f"{needs['']['decode']:.1f}, scaling and image tower {needs['']['clip']:.1f}, with tokens "
        f"{needs[tokens]['clip']:.1f}) / (wall seconds x cores)",
        f"ours: a committed and checksummed store, no pose, shards of {SHARD_LEN} clips; once a store it also encodes "
        "the class names, and with tokens it stores value and penult patch tokens; the plain script does neither",
        "plain: decord get_batch (PyAV where decord is not installed), Pillow transform, fp32, one .npy a clip",
    )
    runs = Runs(config, listing, folder, itertools.count())
    engines = {engine: f"ours, {engine}" for engine in config.engines}
    plain: list[Times] = []
    ways: dict[str, Way] = {PLAIN: partial(_whole, runs.plain, clips, kernels, None, plain)}
    for engine, name in engines.items():
        ways[name] = partial(_whole, partial(runs.ours, engine, ""), clips, kernels, "", [])
    ways[f"{name}, with tokens"] = partial(_whole, partial(runs.ours, engine, tokens), clips, kernels, tokens, [])
    whole = compare(
        "extract",
        f"whole extraction, {config.models[0]}",
        ways,
        plain=PLAIN,
        count=len(clips.paths),
        unit="clips",
        rounds=config.extract_rounds,
        progress=progress,
        notes=(*notes, "from command to exit, start-up included", f"{FIRST}: to the first .npy or committed shard"),
    )
    times = {PLAIN: plain[-1]}
    progress.begin("extraction without start-up", len(engines))
    for engine, name in engines.items():
        times[name] = runs.ours(engine, "", many)
        progress.advance(1)
    progress.end()
    return [whole, _steady(times, config, len(many.paths), kernels, notes)]


@dataclass(frozen=True)
class Kernels:
    """CPU seconds that a clip needs alone, by the tokens that are stored."""

    a_clip: Mapping[str, float]

    def efficiency(self, clips: int, seconds: float, tokens: str | None) -> dict[str, float]:
        """A column where the kernels run on the CPU and are ours."""
        if tokens is None or torch.cuda.is_available():
            return {}
        return {EFFICIENCY: 100 * self.a_clip[tokens] * clips / (seconds * cpus())}


@dataclass(frozen=True)
class Times:
    """One run of a command. ``results`` are the seconds after its start at which clips were safe, and how many; they
    come from so many ``lanes`` at once."""

    seconds: float
    results: tuple[tuple[float, int], ...]
    lanes: int

    @property
    def steady(self) -> float:
        """Seconds a clip from when every lane has given a result: those that all lanes had begun by the first one would
        count for nothing."""
        began, later = self.results[self.lanes - 1][0], self.results[self.lanes :]
        return (later[-1][0] - began) / sum(clips for _, clips in later)


def _whole(
    run: Callable[[ClipSet], Times], clips: ClipSet, kernels: Kernels, tokens: str | None, keep: list[Times]
) -> dict[str, float]:
    times = run(clips)
    keep.append(times)
    return {FIRST: times.results[0][0], **kernels.efficiency(len(clips.paths), times.seconds, tokens)}


def _steady(
    times: Mapping[str, Times], config: BenchmarkConfig, count: int, kernels: Kernels, notes: tuple[str, ...]
) -> Comparison:
    """What ``count`` clips take at the rate from the first results on."""
    plain = [count * times[PLAIN].steady]
    rows = []
    for name, found in times.items():
        seconds = count * found.steady
        columns = kernels.efficiency(count, seconds, None if name == PLAIN else "")
        rows.append(make_row(name, [seconds], plain, count, "clips", {START: found.results[0][0], **columns}))
    notes = (
        *notes,
        f"the same clips again and again, {count} for ours; seconds are those that {count} clips take at the rate "
        "from the first result of every lane to the last",
        f"{START}: from the command to the first results, which is left out of the rate",
    )
    return Comparison("extract", f"extraction without start-up, {config.models[0]}", PLAIN, tuple(rows), notes)


def copies(clips: ClipSet, wanted: int, folder: Path) -> ClipSet:
    """The clips under names of their own again and again, until there are ``wanted`` of them, at least three shards."""
    rounds = -(-max(wanted, 3 * SHARD_LEN) // len(clips.paths))
    paths = []
    for number, (_, path) in enumerate(itertools.product(range(rounds), clips.paths)):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        paths.append(Path(shutil.copyfile(path, folder / path.parent.name / f"{number:05d}-{path.name}")))
    return ClipSet("folder", folder, tuple(paths), (), f"{len(paths)} copies")


@dataclass(frozen=True)
class Runs:
    """Runs of the commands, each into a folder of its own."""

    config: BenchmarkConfig
    listing: Path
    folder: Path
    numbers: itertools.count[int]

    def plain(self, clips: ClipSet) -> Times:
        out = self.folder / f"plain{next(self.numbers)}"
        arguments = [str(self.listing), str(out), self.config.models[0], str(self.config.frames)]
        began = time.time()
        _call([sys.executable, "-m", "pipeline.benchmarks.plain", *arguments])
        seconds = time.time() - began
        files = list(out.glob("*.npy"))
        _all_done(PLAIN, len(files), len(clips.paths))
        return _times(seconds, began, dict.fromkeys(files, 1), lanes=1)

    def ours(self, engine: str, tokens: str, clips: ClipSet) -> Times:
        store = self.folder / f"store{next(self.numbers)}"
        options: dict[str, Any] = {
            "dataset": clips.dataset,
            "root": clips.root,
            "store": store,
            "limit": len(clips.paths),
            "frames": self.config.frames,
            "clip": self.config.models[0],
            "clip-pretrained": "none",
            "pose": "none",
            "tokens": tokens,
            "engine": engine,
            "shard-len": SHARD_LEN,
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        began = time.time()
        output = _call([sys.executable, "-c", "from cli.main import run; run()", "extract", *flags, "--json"])
        seconds = time.time() - began
        _all_done(f"extraction with {engine}", json.loads(output)["done"], len(clips.paths))
        commits = (store / COMMITS / "clip").glob("*/*.parquet")
        rows = {path: pq.read_metadata(path).num_rows for path in commits}
        times = _times(seconds, began, rows, lanes=wanted_lanes(cpus()))
        shutil.rmtree(store)
        return times


def _times(seconds: float, began: float, files: Mapping[Path, int], *, lanes: int) -> Times:
    results = sorted((path.stat().st_mtime - began, clips) for path, clips in files.items())
    return Times(seconds, tuple(results), min(lanes, len(results) - 1))


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
