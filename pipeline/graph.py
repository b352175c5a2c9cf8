"""The extraction graph of one run: decode, then CLIP and pose side by side, then write.

decode --+--> clip --+--> write
         +--> pose --+
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ExtractConfig
from stages.decode import DecodeConfig, DecodeWorker, decoder_record
from stages.write import ShardWriter, WriteConfig
from store.schema import ArraySpec, Modality

if TYPE_CHECKING:
    from stages.clip import ClipConfig
    from stages.clip.encoder import ClipEncoder
    from stages.pose.base import PoseConfig
    from stages.pose.heatmap_clip import HeatmapConfig
    from stages.pose.stage import PoseStage


@dataclass(frozen=True)
class Branch:
    """One modality of a run: how its stage is built, the group it fills, and the frames group that tells which frames
    it saw. Its frames are every ``stride``-th of those that are decoded."""

    config: ClipConfig | PoseConfig
    modality: Modality
    frames: Modality
    stride: int

    def build(self) -> ClipEncoder | PoseStage:
        """The stage, not yet set up."""
        return _stage(self.config)

    @property
    def parallel(self) -> int:
        """Chunks that the stage takes at once, so that the end of one does not leave threads without work."""
        return 2 if self.modality.kind == "clip" else 1

    def environment(self) -> dict[str, Any]:
        """What may change the last bits of the numbers without changing the group's id."""
        return self.build().environment()


@dataclass(frozen=True)
class Graph:
    """What a run computes: how videos are decoded, and the branches."""

    decode: DecodeConfig
    branches: tuple[Branch, ...]

    def decoder(self, *, ring: int) -> DecodeWorker:
        """The decoding stage, not yet set up; see ``DecodeWorker`` for ``ring``."""
        return DecodeWorker(self.decode, ring=ring)

    def writer(self, config: WriteConfig) -> ShardWriter:
        """The write stage."""
        return ShardWriter(config)

    def modalities(self) -> dict[str, Modality]:
        """Every group that the run fills, by path: features and the frames they come from."""
        found = [modality for branch in self.branches for modality in (branch.frames, branch.modality)]
        return {modality.path: modality for modality in found}


def _stage(config: ClipConfig | PoseConfig) -> Any:
    from stages.pose.base import PoseConfig

    if isinstance(config, PoseConfig):
        from stages.pose.stage import PoseStage

        return PoseStage(config)
    from stages.clip.encoder import ClipEncoder

    return ClipEncoder(config)


def make_graph(config: ExtractConfig, root: Path) -> Graph:
    """Resolve a configuration into stages and groups, for videos under ``root``. Raises ``UsageError`` and
    ``MissingError`` for settings and weights that cannot be, before anything is decoded."""
    decode = DecodeConfig(
        backend=config.decoder,
        num_frames=config.decoded_frames,
        chunk_bytes=config.chunk_bytes,
        cpu_deadline_s=config.decode_seconds,
    )
    branches = []
    if config.wants_clip:
        branches.append(_branch(clip_config(config), config.frames, decode))
    if config.wants_pose:
        branches.append(_branch(pose_config(config, root), config.pose_frames, decode))
    return Graph(decode, tuple(branches))


def clip_config(config: ExtractConfig) -> ClipConfig:
    """Settings of the CLIP stage."""
    from stages.clip import ClipConfig

    return ClipConfig(
        model=config.clip,
        pretrained=config.clip_pretrained,
        num_frames=config.frames,
        views=config.views,
        tokens=config.tokens,
        precision=config.precision,
        device=config.device,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def pose_config(config: ExtractConfig, root: Path) -> PoseConfig:
    """Settings of the pose stage, for videos under ``root``."""
    from stages.pose.base import PoseConfig

    # The synthetic set comes with the poses that it was rendered from.
    own = str(root / "truth.parquet") if (config.dataset, config.pose) == ("synthetic", "precomputed") else None
    return PoseConfig(
        backend=config.pose,
        det_weights=config.det_weights,
        pose_weights=config.pose_weights,
        config=config.pose_config or own,
        num_frames=config.pose_frames,
        device=config.device,
        seed=config.seed,
        heatmap=_heatmap_config(config),
    )


def _heatmap_config(config: ExtractConfig) -> HeatmapConfig | None:
    if config.heatmap == "none":
        return None
    from stages.pose.heatmap_clip import HeatmapConfig

    return HeatmapConfig(dataclasses.replace(clip_config(config), tokens=()), config.heatmap)


def _branch(config: ClipConfig | PoseConfig, num_frames: int, decode: DecodeConfig) -> Branch:
    frames = frames_modality(num_frames, decode)
    modality = _stage(config).modality()
    # The numbers depend on which frames were seen and how they were decoded, so both are part of the id.
    modality = dataclasses.replace(modality, record={**modality.record, "frames": dict(frames.record)})
    return Branch(config, modality, frames, decode.num_frames // num_frames)


def frames_modality(num_frames: int, decode: DecodeConfig) -> Modality:
    """``index`` int32 [T], positions among the decodable frames, and ``pts`` float64 [T], seconds."""
    arrays = {
        "index": ArraySpec((num_frames,), "int32", ("frame",)),
        "pts": ArraySpec((num_frames,), "float64", ("frame",)),
    }
    record = {"num_frames": num_frames, "sampling": "floor(i * n / T)", **decoder_record(decode)}
    return Modality("frames", f"t{num_frames}-{decode.backend}", record, arrays)
