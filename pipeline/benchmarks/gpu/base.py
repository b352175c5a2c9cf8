"""What every part of the GPU benchmark is made of: calls that are timed by the device's clock, and the least that they
must do."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

# One call of what is timed; it may return anything.
Work = Callable[[], Any]


@dataclass(frozen=True)
class GpuConfig:
    """How much work is done.

    matrices      sides of the square matrices whose products are the ceiling
    megabytes     that are copied, in the device's memory and between it and the host
    models        CLIP models, with random weights of real size; the first one extracts, ``profiled`` is looked into
    batches       images of a forward pass: the one of an extraction, and one that fills the device
    compiler      backend of torch.compile
    clips, frames, height, width  decoded clips that the encoder is given, and T, H, W of each
    persons       crops of the keypoint model, in batches of ``pose_batches``; ``pose_width`` is its first layer's
    store_videos  of the made-up store: all of HMDB51
    train, test   videos of a split that heads are trained on, HMDB51's; ``head_frames`` is T of the heads, ``grid`` and
                  ``width`` are G and W of their tokens
    splits, seeds, epochs  of a study
    extracted     clips of the whole extraction; ``rendered`` of them differ
    repeats       of a call, three or more, but for one that takes longer than the ``seconds`` that all may take
    """

    matrices: tuple[int, ...] = (4096, 8192, 16384)
    megabytes: int = 512
    models: tuple[str, ...] = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
    profiled: str = "ViT-B-16"
    batches: tuple[int, ...] = (32, 256)
    compiler: str = "inductor"
    clips: int = 32
    frames: int = 16
    height: int = 240
    width: int = 320
    persons: int = 2048
    pose_batches: tuple[int, ...] = (16, 256)
    pose_width: int = 48
    store_videos: int = 6766
    train: int = 3570
    test: int = 1530
    head_frames: int = 8
    grid: int = 7
    token_width: int = 768
    splits: int = 3
    seeds: int = 5
    epochs: int = 30
    extracted: int = 768
    rendered: int = 96
    repeats: int = 20
    seconds: float = 2.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GpuConfig:
        """The inverse of ``to_dict``, of what JSON makes of it too."""
        given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**given)


# Runs every line in a minute on a CPU; its figures mean nothing.
TINY = GpuConfig(
    matrices=(64, 96),
    megabytes=1,
    models=("tiny",),
    profiled="tiny",
    batches=(2, 4),
    compiler="eager",
    clips=3,
    frames=4,
    height=60,
    width=80,
    persons=5,
    pose_batches=(2, 4),
    pose_width=2,
    store_videos=70,
    train=60,
    test=40,
    grid=2,
    token_width=16,
    splits=2,
    seeds=2,
    epochs=1,
    extracted=8,
    rendered=4,
    repeats=3,
    seconds=0.0,
)


@dataclass(frozen=True)
class Need:
    """The least that a call has to do, however it is written.

    operations  floating-point operations, an addition and a multiplication being two, of matrix products in
                ``precision``
    memory      bytes through the device's memory: every input read once, every output written once
    upload      bytes from the host to the device
    """

    operations: float = 0.0
    memory: float = 0.0
    upload: float = 0.0
    precision: str = "bf16"


@dataclass(frozen=True)
class Row:
    """One way of doing something: seconds of every repeat of a call that does ``count`` units of work.

    ``problem`` says why there are no seconds. ``columns`` are other figures.
    """

    group: str
    name: str
    unit: str
    count: float = 0.0
    seconds: tuple[float, ...] = ()
    need: Need = Need()
    columns: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.count / self.median

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The inverse of ``to_dict``, of what JSON makes of it too."""
        given = {**values, "seconds": tuple(values["seconds"]), "need": Need(**values["need"])}
        return cls(**given)


class Bench:
    """Times the ways of a part one after the other, and tells of each as soon as it is done.

    A way that fails, or for which no memory or time is left, is a row that says so; the next one follows.
    """

    def __init__(
        self,
        config: GpuConfig,
        device: torch.device,
        folder: Path,
        *,
        tell: Callable[[Row], None],
        deadline: float = float("inf"),
    ) -> None:
        """``folder`` is for files beside the figures; ``deadline`` is of ``time.monotonic()``."""
        self.config, self.device, self.folder = config, device, folder
        self._tell, self._deadline = tell, deadline

    def time(
        self,
        group: str,
        name: str,
        make: Callable[[], Work],
        *,
        count: float,
        unit: str,
        need: Need | None = None,
        check: Callable[[Any], Mapping[str, float]] = lambda output: {},
        on_host: bool = False,
        once: bool = False,
    ) -> Row:
        """Time what ``make`` returns.

        check    figures on what a call returned, such as how far it is from the truth
        on_host  by the host's clock, for a call that ends with results on the host
        once     a call that takes long, or that ``make`` has warmed up for: called once, without a check
        """
        row = Row(group, name, unit, count, need=need or Need())
        return self._guarded(row, lambda: self._timed(row, make(), check, on_host, once))

    def figures(self, group: str, name: str, find: Callable[[], Mapping[str, float]]) -> Row:
        """A row of other figures than times."""
        row = Row(group, name, "")
        return self._guarded(row, lambda: dataclasses.replace(row, columns=find()))

    def _guarded(self, row: Row, fill: Callable[[], Row]) -> Row:
        try:
            if time.monotonic() > self._deadline:
                raise TimeoutError("not run, the time of this part was up")
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            filled = fill()
            if wrong := [f"{name} is {value}" for name, value in filled.columns.items() if not math.isfinite(value)]:
                raise ValueError(", ".join(wrong))
            row = filled
        except torch.OutOfMemoryError:
            row = dataclasses.replace(row, problem=f"out of memory on {self.device}")
        except Exception as error:  # whatever it is, it costs this row alone
            row = dataclasses.replace(row, problem=one_line(error))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._tell(row)
        return row

    def _timed(
        self, row: Row, work: Work, check: Callable[[Any], Mapping[str, float]], on_host: bool, once: bool
    ) -> Row:
        timed = self._host_seconds if on_host or self.device.type != "cuda" else self._device_seconds
        columns = {} if once else dict(check(work()))  # the warm-up
        seconds = timed(work, 1)
        if not once and seconds[0] <= self.config.seconds:
            seconds = timed(work, max(3, min(self.config.repeats, int(self.config.seconds / seconds[0]))))
        return dataclasses.replace(row, seconds=seconds, columns={**columns, **self._peak()})

    def _device_seconds(self, work: Work, repeats: int) -> tuple[float, ...]:
        """The host runs ahead of the device here, as it does in an extraction."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize(self.device)
        return tuple(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks))

    def _host_seconds(self, work: Work, repeats: int) -> tuple[float, ...]:
        found = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            found.append(time.perf_counter() - began)
        return tuple(found)

    def _peak(self) -> dict[str, float]:
        if self.device.type != "cuda":
            return {}
        return {"peak GB": torch.cuda.max_memory_allocated(self.device) / 1e9}


def call(function: Callable[..., Any], *arguments: Any) -> Callable[[], Work]:
    """For ``Bench.time``: calls of a function for which nothing has to be prepared."""
    return partial(partial, function, *arguments)


def one_line(error: BaseException) -> str:
    """What went wrong, in one line; of a package that is missing, which."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs {error.name.partition('.')[0]}, which is not installed"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def nbytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())
