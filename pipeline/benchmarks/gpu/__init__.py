"""What a GPU does with the parts of the pipeline, beside what it could do: ``benchmarks/gpu.py``.

Every part runs in a process of its own, which ends when its time is up: one that fails, hangs or loses the device costs
itself alone, and what it had measured by then stays. A part is a module of this package with ``run(bench)``. Nothing
here needs Ray, mmpose or decord.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.benchmarks.gpu.base import TINY, GpuConfig, Row
from pipeline.benchmarks.gpu.report import GpuReport, PartResult
from store.errors import UsageError, one_of

__all__ = ["PARTS", "TINY", "GpuConfig", "GpuReport", "run_gpu"]

# Parts, in the order in which they run, and the seconds that each may take, start-up included: ten minutes together,
# less what is left for starting and for the report.
PARTS = {"ceilings": 30, "clip": 180, "encoder": 65, "heads": 140, "store": 80, "extract": 60, "pose": 35}
# Of its seconds a part begins no further row in the last few.
SPARE = 5
# On a CPU times mean nothing, and nothing is cut short.
PATIENCE = 10
ROOT = Path(__file__).resolve().parents[3]


def run_gpu(
    out: Path,
    *,
    parts: Sequence[str] = tuple(PARTS),
    config: GpuConfig | None = None,
    device: str = "cuda",
    note: Callable[[str], None] = print,
) -> GpuReport:
    """Run the named parts and write ``gpu.json``, ``gpu.txt`` (the table) and profiles into ``out``.

    device  ``cuda``, or ``cpu`` to see that everything runs, with the config ``TINY``

    Raises ``UsageError`` for a part that does not exist, and where there is no such device.
    """
    for name in parts:
        one_of("part", name, tuple(PARTS))
    found = _device(device)
    out.mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), []
    for name in dict.fromkeys(parts):
        budget = PARTS[name] * (1 if device == "cuda" else PATIENCE)
        note(f"{name}: at most {budget} s")
        results.append(run_part(name, config or GpuConfig(), device, out, budget))
    report = GpuReport(found, tuple(results), time.monotonic() - began)
    (out / "gpu.json").write_text(json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n")
    (out / "gpu.txt").write_text(report.table())
    return report


def run_part(name: str, config: GpuConfig, device: str, out: Path, budget: float) -> PartResult:
    """Run one part in a process of its own, for at most ``budget`` seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vilp-gpu-") as folder:
        rows, errors = Path(folder) / "rows.jsonl", Path(folder) / "errors.txt"
        task = {
            "part": name,
            "config": config.to_dict(),
            "device": device,
            "out": str(out.resolve()),
            "rows": str(rows),
            "seconds": budget - SPARE,
        }
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "pipeline.benchmarks.gpu", json.dumps(task)],
                cwd=ROOT,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "TMPDIR": folder},
                start_new_session=True,  # it has children of its own, which must end with it
            )
            problem = _wait(child, budget)
        said = rows.read_text().splitlines() if rows.exists() else []
        if problem and (last := errors.read_text(errors="replace").strip().splitlines()):
            problem = f"{problem}: {last[-1][:200]}"
    return PartResult(
        name, tuple(Row.from_dict(json.loads(line)) for line in said), time.monotonic() - began, budget, problem
    )


def _wait(child: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for the end of a part and all that it started; why it did not end well, if it did not."""
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:g} s, its time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return "" if code == 0 else f"ended with exit code {code}"


def _device(name: str) -> dict[str, Any]:
    """What the figures are of."""
    import torch

    from pipeline.benchmarks.machine import describe_machine

    machine = describe_machine()
    facts: dict[str, Any] = {"type": name, "name": machine.gpu if name == "cuda" else machine.cpu}
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(
                "torch sees no CUDA device here; to see the benchmark run on a CPU, give --tiny --device cpu"
            )
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "multiprocessors": properties.multi_processor_count,
        }
        facts |= {"cuda": torch.version.cuda}
    return {
        **facts,
        "cpu": machine.cpu,
        "cores": machine.cores,
        "torch": machine.torch,
        "python": platform.python_version(),
    }
