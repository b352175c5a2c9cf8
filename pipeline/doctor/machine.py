"""Python, packages, processor, memory, GPU and Ray."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.check import FAIL, OK, WARN, Check, safely
from pipeline.engines.environment import PACKAGES, machine_environment
from pipeline.engines.sizing import available_memory, cpus, machine_memory

PYTHONS = ((3, 11), (3, 12))
# Modules that have to import, by package; what else is in ``PACKAGES`` is for some settings alone.
NEEDED = {
    "numpy": "numpy",
    "pyarrow": "pyarrow.parquet",
    "zarr": "zarr",
    "av": "av",
    "opencv-python-headless": "cv2",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "onnxruntime": "onnxruntime",
}
LITTLE_MEMORY = 4 << 30
LITTLE_SHARED = 1 << 30
RAY_SECONDS = 90.0


def python() -> Check:
    """Whether this is a Python that vilp-pipe runs on."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] in PYTHONS:
        return Check("python", OK, found)
    return Check("python", FAIL, found, "use Python 3.11 or 3.12: make setup PYTHON=python3.12")


def packages() -> Iterator[Check]:
    """One line for what is needed and imports, and one for each package that is missing or broken."""
    versions = machine_environment()
    good = []
    for package, module in NEEDED.items():
        try:
            importlib.import_module(module)
            good.append(f"{package} {versions.get(package) or _version(package)}")
        except Exception as error:  # a shared library that is missing raises whatever it likes
            yield Check(package, FAIL, f"cannot be imported: {error}", "install again with: make setup")
    yield Check("packages", OK, ", ".join(good))
    for package in PACKAGES:
        if versions[package] == "not installed" and package not in NEEDED and package != "vilp-pipe":
            purpose = "--decoder decord" if package == "decord" else "--pose mmpose"
            yield Check(package, WARN, "not installed", f"needed for {purpose} alone; make setup installs it")


def processor() -> Check:
    """Cores, vector instructions, and what ``--precision auto`` makes of them."""
    import torch

    from stages.precision import resolve_precision

    flags = machine_environment()["instructions"].split()
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve") if name in flags]
    precision = resolve_precision("auto", torch.device("cpu"))
    speed = "faster than fp32" if precision == "bf16" else "bf16 would be slower"
    found = (
        f"{cpus()} cores, {' '.join(vectors) or 'no vector instructions'}; --precision auto is {precision} ({speed})"
    )
    if not {"avx2", "asimd"} & set(flags):
        return Check("cpu", WARN, found, "expect encoding to be slow without AVX2; a newer CPU or a GPU helps")
    return Check("cpu", OK, found)


def gpu() -> Check:
    """Whether torch sees a GPU, and multiplies rightly on it."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        ones = torch.ones(8, 8, device="cuda")
        if float((ones @ ones).sum()) != 512:
            return Check(
                "gpu", FAIL, ", ".join(names), "the GPU multiplies wrongly; look at the driver, or --device cpu"
            )
        return Check("gpu", OK, f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if list(Path("/dev").glob("nvidia[0-9]*")):
        todo = "torch cannot use it: update the driver (nvidia-smi says which), or use --device cpu"
        return Check("gpu", WARN, f"there is one, torch {torch.__version__} sees none", todo)
    return Check("gpu", OK, f"none; torch {torch.__version__} computes on the CPU")


def memory() -> Iterator[Check]:
    """Memory for this process, and shared memory for decoded frames."""
    total, available = machine_memory(), available_memory()
    found = f"{total / 2**30:.1f} GB for this process, {available / 2**30:.1f} GB available now"
    few = min(total, available) < LITTLE_MEMORY
    yield Check(
        "memory",
        *((WARN, found, "close other programs, or use --memory 500MB --engine inline") if few else (OK, found)),
    )
    shared = shutil.disk_usage("/dev/shm")
    found = f"/dev/shm has {shared.free / 2**30:.1f} of {shared.total / 2**30:.1f} GB free, for decoded frames"
    few = shared.free < LITTLE_SHARED
    todo = "give the container more (docker run --shm-size=8g), or use --memory 200MB --engine inline"
    yield Check("shared memory", *((WARN, found, todo) if few else (OK, found)))


def ray() -> Check:
    """Whether Ray starts and runs a task, in a process of its own: it leaves threads behind."""
    code = (
        "import logging, ray; logging.getLogger('ray').setLevel(logging.ERROR);"
        "ray.init(address='local', num_cpus=1, object_store_memory=80 << 20, include_dashboard=False,"
        " log_to_driver=False, logging_level=logging.ERROR, configure_logging=False);"
        "assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42; ray.shutdown()"
    )
    found = f"ray {_version('ray')}"
    todo = "free space under /tmp and /dev/shm, or use --engine inline, which needs no Ray"
    try:
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=RAY_SECONDS)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no reason was given"]
        return Check("ray", FAIL, f"{found} does not start: {lines[-1]}", todo)
    except subprocess.TimeoutExpired:
        return Check("ray", FAIL, f"{found} has not started within {RAY_SECONDS:.0f} seconds", todo)
    return Check("ray", OK, f"{found} starts and runs a task")


def this_machine(*, with_ray: bool) -> Iterator[Check]:
    """All of it, a line at a time; Ray, which takes seconds to start, where it is asked for."""
    yield python()
    yield from packages()
    yield safely("cpu", processor)
    yield safely("gpu", gpu)
    yield from memory()
    if with_ray:
        yield safely("ray", ray)


def _version(package: str) -> str:
    return importlib.metadata.version(package)
