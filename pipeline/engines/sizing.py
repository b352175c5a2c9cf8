"""How much of a machine a run takes: its lanes, the bytes of a chunk, and Ray's object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ExtractConfig
from pipeline.graph import Graph

# Chunks of frames that a lane holds at most: one that is being decoded while two are with the encoders, and a video
# that did not fit into the last chunk.
LANE_CHUNKS = 4
# A frame of the usual widest shape, RGB, in bytes a pixel of its short side squared.
_WIDE_FRAME = 3 * 16 / 9
# For a small extraction Ray's object store need not be smaller than this.
_LEAST_OBJECT_BYTES = 1 << 30


@dataclass(frozen=True)
class Sizing:
    """What a run may take of each machine that it works on.

    memory       bound in bytes on decoded frames in flight; None: a quarter of the machine's memory
    chunk_bytes  frames that travel together, in bytes; one larger video makes a chunk alone
    video_bytes  frames of one video, as large as they usually get
    unit_bytes   features of one unit, which are held until they are written
    """

    memory: int | None
    chunk_bytes: int
    video_bytes: int
    unit_bytes: int

    @staticmethod
    def of(config: ExtractConfig, graph: Graph) -> Sizing:
        """Chunks as configured, or smaller ones where ``memory`` does not hold those of a single lane."""
        memory = _frames_memory(config.memory, machine_memory())
        features = sum(spec.nbytes for modality in graph.modalities().values() for spec in modality.arrays.values())
        decode = graph.decode
        return Sizing(
            memory=config.memory,
            chunk_bytes=max(1, min(config.chunk_bytes, memory // LANE_CHUNKS)),
            video_bytes=int(decode.all_frames * _WIDE_FRAME * (decode.max_short_side or 0) ** 2),
            unit_bytes=config.shard_len * features,
        )

    @property
    def lane_bytes(self) -> int:
        """Frames that one lane holds at most."""
        return LANE_CHUNKS * max(self.chunk_bytes, self.video_bytes)

    @property
    def warnings(self) -> list[str]:
        """A line where ``memory`` does not even hold what a single lane needs."""
        if self.memory is None or self.memory >= LANE_CHUNKS * self.video_bytes:
            return []
        return [
            f"memory is {self.memory} bytes, but frames of large videos take up to {LANE_CHUNKS * self.video_bytes} in "
            "one lane; fewer --frames, --pose-frames and --video-clips take less"
        ]

    def lanes(self, cpus: float, memory: float) -> int:
        """Lanes of a machine with so many CPUs and bytes of memory: ``wanted_lanes``, where memory allows."""
        return max(1, min(wanted_lanes(cpus), _frames_memory(self.memory, memory) // self.lane_bytes))

    def object_bytes(self, lanes: int, memory: int) -> int:
        """Size of Ray's object store on a machine of ``memory`` bytes: the frames and the features of all lanes, unless
        that is more than a third of the memory; what does not fit then, Ray spills to the disk."""
        return max(_LEAST_OBJECT_BYTES, min(lanes * (self.lane_bytes + 2 * self.unit_bytes), memory // 3))


def wanted_lanes(cpus: float) -> int:
    """Lanes that keep so many CPUs busy: two at least, since one leaves the encoders idle while it writes."""
    return max(2, int(cpus) // 2)


def _frames_memory(bound: int | None, machine: float) -> int:
    return int(machine // 4) if bound is None else bound


def cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those that it may run on, or the least that the quota of a control group over it
    (a container, a batch job) amounts to, rounded up. ``root`` is where ``proc`` and ``sys`` are."""
    limits = [len(os.sched_getaffinity(0))]
    for group in _control_groups(root, "cpu"):
        facts = _read(group / "cpu.max") or _read(group / "cpu.cfs_quota_us") + _read(group / "cpu.cfs_period_us")
        numbers = [int(word) for word in facts.split() if word.isdecimal()]
        if len(numbers) == 2:  # else there is no quota: "max" or -1
            limits.append(max(1, -(-numbers[0] // numbers[1])))
    return min(limits)


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or the least that a control group over it is limited
    to. ``root`` is where ``proc`` and ``sys`` are."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _control_groups(root, "memory"):
        texts = [_read(group / name) for name in ("memory.max", "memory.limit_in_bytes")]
        limits += [int(text) for text in texts if text.strip().isdecimal()]
    return min(limits)


def available_memory() -> int:
    """Bytes that could be allocated now without swapping, as the kernel estimates."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups over this process that limit what ``controller`` counts."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        tree = root / "sys/fs/cgroup"
        if controllers:  # of the first version, which has a tree for each
            if controller not in controllers.split(","):
                continue
            tree /= controller
        group = tree / path.lstrip("/")
        # In a container the path may be the host's, of which only the top is to be seen.
        yield from (level for level in (group, *group.parents) if level.is_relative_to(tree))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
