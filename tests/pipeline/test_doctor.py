"""First aid: what works is called so, and what does not is found, with what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from extractions import pose_config, small_config

import pipeline.forecast
from pipeline.doctor import FAIL, OK, WARN, Check, check, decoding, examine, machine, needs
from stages import downloads, weights
from stages.clip import models

Usage = namedtuple("Usage", "total used free")


def by_name(checks: object) -> dict[str, Check]:
    return {check.name: check for check in checks}  # type: ignore[attr-defined]


def test_this_machine_is_fit(small_videos: Path, tmp_path: Path) -> None:
    config = small_config(small_videos, tmp_path / "s")
    found = by_name(examine(config, planned=True))
    assert {name for name, check in found.items() if check.status == FAIL} == set()
    for name in ("python", "packages", "cpu", "codecs", "decoder pyav", "clip weights", "videos", "disk"):
        assert found[name].status == OK, found[name]
    assert found["videos"].found.startswith("7 of 7 videos to do")
    assert "random weights" in found["clip weights"].found
    assert not (tmp_path / "s").exists()


def test_pictures_say_their_numbers() -> None:
    assert [decoding.number_of(decoding.numbered(number)) for number in range(64)] == list(range(64))


def test_a_decoder_that_is_one_frame_late_is_found() -> None:
    found = by_name(decoding.decoders("wrong_decoder:decode"))
    assert found["decoder pyav"].status == OK
    wrong = found["decoder wrong_decoder:decode"]
    assert wrong.status == FAIL
    assert wrong.found.startswith("mpeg4: 16 of 16 frames are others than those that were asked for; h264: 16 of 16")
    assert "--decoder pyav" in wrong.todo


def test_a_decoder_that_is_not_there_fails_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BACKENDS", ("pyav", "nowhere:decode"))
    assert by_name(decoding.decoders("pyav"))["decoder nowhere:decode"].status == WARN
    assert by_name(decoding.decoders("nowhere:decode"))["decoder nowhere:decode"].status == FAIL


def test_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "OTHER_CODECS", ("hevc", "no-such-codec"))
    assert decoding.codecs().status == WARN
    assert "lacks no-such-codec" in decoding.codecs().found
    monkeypatch.setattr(decoding, "NEEDED_CODECS", ("h264", "no-such-codec"))
    assert decoding.codecs().status == FAIL


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED", {"numpy": "numpy", "zarr": "no_such_module"})
    versions = {**machine.machine_environment(), "mmpose": "not installed", "decord": "not installed"}
    monkeypatch.setattr(machine, "machine_environment", lambda: versions)
    found = by_name(machine.packages())
    assert (found["zarr"].status, found["packages"].found) == (FAIL, f"numpy {versions['numpy']}")
    assert (found["mmpose"].status, found["decord"].status) == (WARN, WARN)
    assert "--pose mmpose" in found["mmpose"].todo


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PYTHONS", ((3, 8),))
    assert machine.python().status == FAIL


class FakeGpu:
    """What ``machine.gpu`` asks of ``torch``, of a machine with one GPU; ``wrong`` is added to what it multiplies."""

    __version__ = "2.6.0+cu124"

    def __init__(self, *, seen: bool = True, wrong: float = 0.0, error: str = "") -> None:
        self.cuda, self.version, self.wrong, self.error = self, namedtuple("Version", "cuda")("12.4"), wrong, error
        self.is_available = lambda: seen
        self.device_count = lambda: 1
        self.get_device_name = lambda number: f"NVIDIA H100 {number}"

    def ones(self, *size: int, device: str) -> torch.Tensor:
        assert device == "cuda"
        if self.error:
            raise RuntimeError(self.error)
        return torch.ones(*size) + self.wrong


@pytest.mark.parametrize(
    ("fake", "status", "words"),
    [
        (FakeGpu(), OK, "NVIDIA H100 0; CUDA 12.4"),
        (FakeGpu(wrong=0.5), FAIL, "NVIDIA H100 0"),
        (FakeGpu(error="CUDA error: out of memory"), FAIL, "RuntimeError: CUDA error: out of memory"),
        (FakeGpu(seen=False), OK, "none; torch 2.6.0+cu124 computes on the CPU"),
    ],
)
def test_a_gpu(monkeypatch: pytest.MonkeyPatch, fake: FakeGpu, status: str, words: str) -> None:
    """With a stand-in for torch: the logic of the look, and not CUDA itself."""
    monkeypatch.setitem(sys.modules, "torch", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    found = check.safely("gpu", machine.gpu)
    assert (found.status, found.found) == (status, words)
    assert bool(found.todo) == (status == FAIL)


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeGpu(seen=False))  # type: ignore[arg-type]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    found = machine.gpu()
    assert (found.status, found.found) == (WARN, "there is one, torch 2.6.0+cu124 sees none")
    assert "update the driver" in found.todo


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    found = by_name(machine.memory())
    assert (found["memory"].status, found["shared memory"].status) == (WARN, WARN)
    assert "--shm-size" in found["shared memory"].todo


def test_a_look_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.precision.has_fast_bf16", lambda: 1 / 0)
    found = by_name(machine.this_machine(with_ray=False))["cpu"]
    assert (found.status, found.found) == (FAIL, "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (subprocess.CalledProcessError(1, "ray", stderr="a\nOSError: no space\n"), "does not start: OSError: no space"),
        (subprocess.TimeoutExpired("ray", 90), "has not started within 90 seconds"),
    ],
)
def test_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    found = machine.ray()
    assert found.status == FAIL
    assert words in found.found
    assert "--engine inline" in found.todo


@pytest.mark.slow
def test_ray_starts() -> None:
    assert machine.ray().status == OK


@pytest.mark.parametrize(("network", "planned"), [(True, True), (False, True), (False, False)])
def test_weights_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool, planned: bool
) -> None:
    """They fail only a plan that could not fetch them, and nothing is fetched for the look."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_cached", lambda hub: None)
    monkeypatch.setattr(models, "download_pretrained", refuse)
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(needs, "resolves", lambda host: network)
    config = small_config(
        tmp_path,
        tmp_path / "s",
        clip="ViT-B-16",
        clip_pretrained="openai",
        pose="mmpose",
        pose_frames=8,
        video="r3d_18",
    )
    found = by_name(needs.weights(config, planned=planned))
    status = FAIL if planned and not network else WARN
    assert [found[f"{kind} weights"].status for kind in ("clip", "pose", "video")] == [status] * 3
    assert "--clip ViT-B-16-quickgelu --clip-pretrained FILE" in found["clip weights"].todo
    for kind in ("pose", "video"):
        assert f"into {tmp_path / 'cache' / 'weights'}" in found[f"{kind} weights"].todo
    assert not (tmp_path / "cache" / "weights").exists() or not os.listdir(tmp_path / "cache" / "weights")


def test_weights_that_are_there(tmp_path: Path, shared: Path) -> None:
    folder = shared / "weights"
    config = small_config(
        tmp_path,
        tmp_path / "s",
        pose="onnx",
        pose_frames=8,
        det_weights=str(folder / "rtmdet_nano_person" / "end2end.onnx"),
        pose_weights=str(folder / "movenet_lightning" / "movenet_lightning_int8.onnx"),
    )
    assert by_name(needs.weights(config, planned=True))["pose weights"].status == OK


def test_a_file_that_is_named_and_not_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "resolves", lambda host: True)
    config = small_config(tmp_path, tmp_path / "s", pose="onnx", pose_frames=8, det_weights="gone.onnx")
    assert by_name(needs.weights(config, planned=True))["pose weights"].status == FAIL


def test_downloads_are_allowed_again_after_a_look() -> None:
    with downloads.no_downloads(), pytest.raises(ConnectionError):
        downloads.require_downloads()
    downloads.require_downloads()


def test_a_plan_that_does_not_fit(small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pose_config(small_videos, tmp_path / "s")
    monkeypatch.setattr(pipeline.forecast, "free_bytes", lambda path: 1000)
    monkeypatch.setattr(needs, "machine_memory", lambda: 1 << 30)
    found = by_name(needs.plan(config))
    assert (found["videos"].status, found["disk"].status, found["memory for it"].status) == (OK, FAIL, WARN)


def test_weights_that_are_to_come_do_not_hide_the_plan(
    small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_cached", lambda hub: None)
    config = small_config(small_videos, tmp_path / "s", clip="ViT-B-32", clip_pretrained="openai")
    assert by_name(needs.plan(config))["disk"].status == OK


def test_videos_that_are_missing_name_the_command(tmp_path: Path) -> None:
    config = pose_config(tmp_path / "nowhere", tmp_path / "s", dataset="hmdb51")
    (found,) = needs.plan(config)
    assert (found.status, found.todo) == (FAIL, "get them: vilp-pipe datasets prepare hmdb51")


def test_the_interpreter_is_this_one() -> None:
    assert sys.executable in machine.python().found
