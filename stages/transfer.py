"""Frames to a device and features back, while the device computes.

On CUDA either way has a stream of its own and goes through pinned memory, so that the frames of the next clips travel
while the last batch is being computed. The host waits for nothing but features that it is about to read: it hands over
work far ahead of the device, which is what keeps that busy. On a CPU frames and features are where they are needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """The way to one device and back. May be used from any thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams = (torch.cuda.Stream(device), torch.cuda.Stream(device)) if device.type == "cuda" else None

    def send(self, frames: np.ndarray) -> Tensor:
        """Frames uint8, never written to, as a tensor on the device, for use on the calling thread's current stream.
        They may be gone from the host as soon as this returns."""
        with warnings.catch_warnings():  # a view on shared memory may be read-only; nothing here writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            here = torch.from_numpy(np.ascontiguousarray(frames))
        if self._streams is None:
            return here
        up, compute = self._streams[0], torch.cuda.current_stream(self.device)
        with torch.cuda.stream(up):
            there = here.pin_memory().to(self.device, non_blocking=True)
        compute.wait_stream(up)
        # It belongs to the stream that made it, which would give its memory to the next frames too early.
        there.record_stream(compute)
        return there

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Tensors that the calling thread's current stream computes, on the host. Waits for them."""
        if self._streams is None:
            return {name: tensor.numpy() for name, tensor in tensors.items()}
        down, compute = self._streams[1], torch.cuda.current_stream(self.device)
        down.wait_stream(compute)
        here = {}
        with torch.cuda.stream(down):
            for name, tensor in tensors.items():
                here[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                here[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(down)
            done = torch.cuda.Event(blocking=True)
            done.record(down)
        done.synchronize()
        return {name: tensor.numpy() for name, tensor in here.items()}
