"""The machine that was measured on."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """``precision`` is what ``auto`` means here; ``load`` is ``load_per_core()`` before the benchmark."""

    cpu: str
    cores: int
    memory_gb: float
    gpu: str
    amx: bool
    precision: str
    torch: str
    load: float

    @property
    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB, {self.gpu}, "
            f"{'AMX' if self.amx else 'no AMX'}, torch {self.torch}, precision auto is {self.precision}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    import torch

    from stages.precision import has_amx, resolve_precision

    cores = len(os.sched_getaffinity(0))
    return Machine(
        cpu=_cpu_model(),
        cores=cores,
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        amx=has_amx(),
        precision=resolve_precision("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        torch=torch.__version__,
        load=load_per_core(),
    )


def load_per_core() -> float:
    """Processes that ran or wanted to, on average over the last minute, a core."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
