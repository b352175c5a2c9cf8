"""Names of devices: which may be given, and which stand for a device that torch sees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from stages.device import check_device, resolve_device
from store.errors import UsageError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, usable: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and count > 0)


@pytest.fixture(autouse=True)
def cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize(
    ("count", "name", "found"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_name_stands_for_a_device(monkeypatch: pytest.MonkeyPatch, count: int, name: str, found: str) -> None:
    gpus(monkeypatch, count)
    assert resolve_device(name) == torch.device(found)


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (1, "cup", "device is 'cup'; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...; did you mean cpu?"),
        (1, "mps", "device is 'mps'; allowed: auto, cpu, cuda, cuda:0, cuda:1, ..."),
        (1, "cuda:", "device is 'cuda:'; allowed"),
        (1, "cuda:one", "device is 'cuda:one'; allowed"),
        (1, "cpu:0", "device is 'cpu:0'; allowed"),
        (1, "", "device is ''; allowed"),
        (0, "cuda", "device is 'cuda', but torch sees no GPU here; use --device auto or cpu"),
        (0, "cuda:1", "device is 'cuda:1', but torch sees no GPU here; use --device auto or cpu"),
        (1, "cuda:1", "device is 'cuda:1', but of GPUs torch sees 1, the last of them cuda:0; name one of them"),
        (2, "cuda:1000", "device is 'cuda:1000', but of GPUs torch sees 2, the last of them cuda:1; name one of them"),
    ],
)
def test_another_one_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch, count: int, name: str, message: str) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(message)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_gpu_whose_driver_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1, usable=False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="sees no GPU"):
        resolve_device("cuda")


def test_heads_may_compute_repeatably_in_a_process_that_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS is asked at the first product alone, which may be the encoder's."""
    gpus(monkeypatch, 1)
    resolve_device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    resolve_device("auto")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_the_user_set_for_cublas_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    resolve_device("cuda:0")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_name_is_checked_without_torch() -> None:
    code = (
        f"import sys; from {check_device.__module__} import check_device; check_device('cuda:7'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()
