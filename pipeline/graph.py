"""The extraction graph of one run: decode, then CLIP, pose and a video model side by side, then write.

decode --+--> clip  --+--> write
         +--> pose  --+
         +--> video --+
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ExtractConfig
from stages.decode import ClipSampling, DecodeConfig, DecodeWorker, decoder_record
from stages.write import ShardWriter, WriteConfig
from store.schema import ArraySpec, Modality

if TYPE_CHECKING:
    from stages.clip import ClipConfig
    from stages.pose.base import PoseConfig
    from stages.pose.heatmap_clip import HeatmapConfig
    from stages.video import VideoConfig

    StageConfig = ClipConfig | PoseConfig | VideoConfig


@dataclass(frozen=True)
class Branch:
    """One modality of a run: how its stage is built, the group it fills, and the frames group that tells which frames
    it saw. Its frames are those ``at`` some places among the ones that are decoded."""

    config: StageConfig
    modality: Modality
    frames: Modality
    at: slice

    def build(self) -> Any:
        """The stage, not yet set up."""
        return _stage(self.config)

    @property
    def parallel(self) -> int:
        """Chunks that the stage takes at once, so that the end of one does not leave threads without work."""
        return 1 if self.modality.kind == "pose" else 2

    def environment(self) -> dict[str, Any]:
        """What may change the last bits of the numbers without changing the group's id."""
        environment: dict[str, Any] = self.build().environment()
        return environment


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


def _stage(config: StageConfig) -> Any:
    from stages.pose.base import PoseConfig
    from stages.video import VideoConfig

    if isinstance(config, VideoConfig):
        from stages.video.encoder import VideoEncoder

        return VideoEncoder(config)
    if isinstance(config, PoseConfig):
        from stages.pose.stage import PoseStage

        return PoseStage(config)
    from stages.clip.encoder import ClipEncoder

    return ClipEncoder(config)


def make_graph(config: ExtractConfig, root: Path) -> Graph:
    """Resolve a configuration into stages and groups, for videos under ``root``. Raises ``UsageError`` and
    ``MissingError`` for settings and weights that cannot be, before anything is decoded."""
    video = video_config(config) if config.wants_video else None
    decode = DecodeConfig(
        backend=config.decoder,
        num_frames=config.decoded_frames,
        chunk_bytes=config.chunk_bytes,
        cpu_deadline_s=config.decode_seconds,
        clips=video.sampling if video else None,
    )
    branches = []
    if config.wants_clip:
        branches.append(_even_branch(clip_config(config), config.frames, decode))
    if config.wants_pose:
        branches.append(_even_branch(pose_config(config, root), config.pose_frames, decode))
    if video is not None:
        branches.append(_branch(video, clips_modality(video.sampling, decode), slice(decode.num_frames, None)))
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


def video_config(config: ExtractConfig) -> VideoConfig:
    """Settings of the video model's stage."""
    from stages.video import VideoConfig

    return VideoConfig(
        model=config.video,
        pretrained=config.video_pretrained,
        num_clips=config.video_clips,
        precision=config.precision,
        device=config.device,
        batch_frames=config.batch_size,
        seed=config.seed,
    )


def evenly(num_frames: int, decoded: int) -> slice:
    """Where ``num_frames`` frames lie among so many that are decoded, evenly spaced both."""
    return slice(0, decoded, decoded // num_frames)


def _even_branch(config: ClipConfig | PoseConfig, num_frames: int, decode: DecodeConfig) -> Branch:
    return _branch(config, frames_modality(num_frames, decode), evenly(num_frames, decode.num_frames))


def _branch(config: StageConfig, frames: Modality, at: slice) -> Branch:
    modality = _stage(config).modality()
    # The numbers depend on which frames were seen and how they were decoded, so both are part of the id.
    modality = dataclasses.replace(modality, record={**modality.record, "frames": dict(frames.record)})
    return Branch(config, modality, frames, at)


def frames_modality(num_frames: int, decode: DecodeConfig) -> Modality:
    """``index`` int32 [T], positions among the decodable frames, and ``pts`` float64 [T], seconds."""
    arrays = {
        "index": ArraySpec((num_frames,), "int32", ("frame",)),
        "pts": ArraySpec((num_frames,), "float64", ("frame",)),
    }
    record = {"num_frames": num_frames, "sampling": "floor(i * n / T)", **decoder_record(decode)}
    return Modality("frames", f"t{num_frames}-{decode.backend}", record, arrays)


def clips_modality(clips: ClipSampling, decode: DecodeConfig) -> Modality:
    """``index`` int32 [K, L] and ``pts`` float64 [K, L], as in ``frames_modality``, of K clips of L frames."""
    shape, dims = (clips.clips, clips.length), ("clip", "frame")
    arrays = {"index": ArraySpec(shape, "int32", dims), "pts": ArraySpec(shape, "float64", dims)}
    record = {
        **dataclasses.asdict(clips),
        "sampling": "floor((s_k + i) * fps / rate), clips from the beginning to the end",
        **decoder_record(decode),
    }
    return Modality("frames", f"{clips.clips}x{clips.length}-{decode.backend}", record, arrays)
