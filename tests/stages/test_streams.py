"""Frames to a device and back. Streams are a GPU's: where there is none, a record of what would be asked of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.transfer import Transfer
from stages.types import Clip, DecodedVideo, VideoRef

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Record:
    """Stands in for torch.cuda, and writes down what happens on which stream, or on the host."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.current = "compute"
        made = iter(("up", "down"))
        record, said = self, self.events.append

        class Stream:
            def __init__(self, name: str) -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                said(f"{self.name} waits for {other.name}")

        class Event:
            def __init__(self, blocking: bool) -> None:
                assert blocking, "a host that spins takes a core from decoding"

            def record(self, stream: Stream) -> None:
                self.stream = stream.name

            def synchronize(self) -> None:
                said(f"host waits for {self.stream}")

        @contextlib.contextmanager
        def on(stream: Stream) -> Iterator[None]:
            before, record.current = record.current, stream.name
            yield
            record.current = before

        def pin(tensor: torch.Tensor) -> torch.Tensor:
            said("host pins")
            return tensor.clone()

        def copy(tensor: torch.Tensor, *arguments: object, non_blocking: bool) -> torch.Tensor:
            assert non_blocking
            said(f"copy on {record.current}")
            return tensor

        patch.setattr(torch.cuda, "Stream", lambda device: Stream(next(made)))
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "stream", on)
        patch.setattr(torch.cuda, "current_stream", lambda device: Stream(record.current))
        patch.setattr(torch.Tensor, "pin_memory", pin)
        patch.setattr(torch.Tensor, "to", copy)
        patch.setattr(torch.Tensor, "copy_", copy)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: said(f"kept for {stream.name}"))
        plain = torch.empty
        patch.setattr(torch, "empty", lambda *shape, pin_memory, **given: plain(*shape, **given))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    with monkeypatch.context() as patch:
        yield Record(patch)


def test_frames_travel_beside_the_computation_and_the_host_does_not_wait(record: Record) -> None:
    frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    sent = Transfer(torch.device("cuda")).send(frames)
    assert record.events == ["host pins", "copy on up", "compute waits for up", "kept for compute"]
    frames[:] = 0  # as the next chunk would, in the same shared memory
    assert sent.flatten().tolist() == list(range(12))


def test_features_are_read_when_they_are_computed(record: Record) -> None:
    found = Transfer(torch.device("cuda")).fetch({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
    assert {name: array.shape for name, array in found.items()} == {"a": (2, 3), "b": (4,)}
    moved = ["copy on down", "kept for down"]
    assert record.events == ["down waits for compute", *moved, *moved, "host waits for down"]


def test_on_a_cpu_nothing_is_copied() -> None:
    transfer, frames = Transfer(torch.device("cpu")), np.zeros((2, 4, 4, 3), np.uint8)
    frames.flags.writeable = False  # a view on shared memory
    sent = transfer.send(frames)
    assert sent.data_ptr() == frames.ctypes.data
    assert transfer.fetch({"a": sent})["a"].ctypes.data == frames.ctypes.data


@GPU
def test_on_a_gpu_features_are_the_same_in_any_company() -> None:
    """A copy that comes too late, or memory that is given away too early, shows as other numbers."""
    config = ClipConfig(model="tiny", pretrained="none", num_frames=4, device="cuda")
    encoder = ClipEncoder(config)
    encoder.setup()
    rng, places = np.random.default_rng(0), np.arange(4, dtype=np.int32)
    clips = []
    for slot in range(64):
        frames = rng.integers(0, 256, (4, 240, 320, 3), dtype=np.uint8)
        clips.append(Clip(VideoRef(slot, "", ""), DecodedVideo(frames, places, places / 25, 4, 4, 25.0, 320, 240)))
    together = encoder(clips)
    for name, array in together.items():
        assert array.tobytes() == np.concatenate([encoder([clip])[name] for clip in clips]).tobytes()
