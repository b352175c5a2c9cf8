"""What a head is: its name, its settings, and what it reads of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from store.errors import UsageError, nearest, one_of

# Words of a class that spot frames: see ``functional.word_mask``.
WORD_MODES = ("name+eot", "name", "all")

# What each head reads of a batch: frames [B, T, D]; pose_embedding [B, T, D] (of the heatmap image); pooled [B, T, D]
# and presence [B, T] (tokens under the persons); parts [B, T, J, D] and part_presence [B, T, J] (the same, a body
# part); tokens [B, T, G, G, W]; heatmap [B, T, G, G]; skeleton [B, Ts, Q, F] (keypoints and their motion).
INPUTS: dict[str, tuple[str, ...]] = {
    "mean": ("frames",),
    "vcs": ("frames",),
    "vilp": ("frames", "pose_embedding"),
    "pvcs": ("frames", "pooled", "presence"),
    "pvcs-joint": ("frames", "parts", "part_presence"),
    "attn": ("tokens",),
    "pose": ("skeleton",),
    "poseconv": ("skeleton",),
    "fuse": ("frames", "pooled", "presence", "tokens", "heatmap"),
}
HEADS = tuple(INPUTS)
# Heads that read nothing but skeletons.
SKELETON_HEADS = ("pose", "poseconv")
# A second stream for any other head: its logits and those of the pose head are added (late fusion).
LATE_POSE = "+pose"

# What is left of the default head when modalities are taken away: video, pose, text.
MODALITIES: dict[str, tuple[str, ...]] = {
    "V": ("tokens",),
    "P": ("skeleton",),
    "V+T": ("frames", "tokens"),
    "P+T": ("skeleton",),
    "V+P": ("tokens", "heatmap"),
    "V+P+T": INPUTS["fuse"],
}
# Heads whose frames move towards the persons: the pose may act in the weights of frames, in what is weighted, or both.
POSE_IN = ("both", "weights", "values")
# Whose joints make the heatmaps: everybody's alike, or each person's by how much they move beside the others.
PERSONS = ("all", "moving")
GUIDED = ("vilp", "pvcs", "fuse")
HEATMAPPED = ("pvcs", "pvcs-joint", "fuse")
PATCH_TOKENS = ("penult", "value", "last")
# What a head's frames or tokens come from. The embeddings of a video model's clips meet no words.
ENCODERS = ("clip", "video")
VIDEO_HEADS = ("mean", "attn")


@dataclass(frozen=True)
class HeadConfig:
    """What a head is, apart from the sizes of its inputs.

    head             one of ``HEADS``, or one of them but ``pose`` with ``+pose`` behind it (late fusion)
    word_mode        words that spot frames: ``name+eot``, ``name`` or ``all``
    tau              temperature of the softmax over frames
    kappa            steepness of the published gate (``vilp``)
    sigma            standard deviation of a joint's Gaussian, in cells of the token grid
    persons          whose joints the heatmaps show: ``all``, or ``moving``, see ``skeleton.motion_shares``
    bottleneck       width of the adapters
    pool_heads       heads of the attention pooling (``attn``, ``fuse``)
    modalities       what the head ``fuse`` may read, one of ``MODALITIES``
    pose_in          where the pose acts in ``vilp``, ``pvcs`` and ``fuse``: ``weights``, ``values`` or ``both``
    temporal_layers  of BIKE's temporal transformer in front of ``vilp``: 6 as published, 0 without it
    tokens           patch tokens of the attention pooling
    encoder          ``clip``, or ``video``: what ``mean`` and ``attn`` read are then the clips of a video model, which
                     knows no class names, so that both learn a linear classifier
    """

    head: str = "fuse"
    word_mode: str = "name+eot"
    tau: float = 0.01
    kappa: float = 1.0
    sigma: float = 0.7
    persons: str = "all"
    bottleneck: int = 64
    pool_heads: int = 8
    modalities: str = "V+P+T"
    pose_in: str = "both"
    temporal_layers: int = 0
    tokens: str = "penult"
    encoder: str = "clip"

    def __post_init__(self) -> None:
        if self.base not in HEADS or (self.late_pose and self.base in SKELETON_HEADS):
            both = [head + LATE_POSE for head in HEADS if head not in SKELETON_HEADS]
            raise UsageError(
                f"head is {self.head!r}; allowed: {', '.join(HEADS)}, and all but {' and '.join(SKELETON_HEADS)} with "
                f"{LATE_POSE}{nearest(self.head, [*HEADS, *both])}"
            )
        one_of("word mode", self.word_mode, WORD_MODES)
        one_of("modalities", self.modalities, tuple(MODALITIES))
        one_of("pose-in", self.pose_in, POSE_IN)
        one_of("persons", self.persons, PERSONS)
        one_of("tokens", self.tokens, PATCH_TOKENS)
        one_of("encoder", self.encoder, ENCODERS)
        if self.encoder == "video" and self.base not in VIDEO_HEADS:
            raise UsageError(
                f"head is {self.head!r}, which reads words or patch tokens, and a video model gives neither; allowed "
                f"with it: {', '.join(VIDEO_HEADS)}, also with {LATE_POSE}"
            )
        for name in ("tau", "sigma", "bottleneck", "pool_heads"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: numbers above 0")
        if self.temporal_layers < 0:
            raise UsageError(f"temporal-layers is {self.temporal_layers}; allowed: 0 or more")
        for name, value, heads in (
            ("modalities", self.modalities != "V+P+T", ("fuse",)),
            ("pose-in", self.pose_in != "both", GUIDED),
            ("persons", self.persons != "all", HEATMAPPED),
            ("temporal-layers", self.temporal_layers > 0, ("vilp",)),
            ("tokens", self.tokens != "penult", ("attn", "fuse")),
        ):
            if value and self.base not in heads:
                given = getattr(self, name.replace("-", "_"))
                raise UsageError(f"{name} is {given}, which head {self.head!r} does not have; give --head {heads[0]}")

    @property
    def base(self) -> str:
        return self.head.removesuffix(LATE_POSE)

    @property
    def late_pose(self) -> bool:
        return self.head.endswith(LATE_POSE)

    @property
    def inputs(self) -> tuple[str, ...]:
        own = MODALITIES[self.modalities] if self.base == "fuse" else INPUTS[self.base]
        return (*own, "skeleton") if self.late_pose and "skeleton" not in own else own

    @property
    def reads_text(self) -> bool:
        """Whether the head compares with class names, which makes it zero-shot when untrained."""
        if self.encoder == "video":
            return False
        return "T" in self.modalities if self.base == "fuse" else self.base not in ("attn", *SKELETON_HEADS)

    @property
    def zero_shot(self) -> bool:
        """Whether the untrained head says anything: words meet frames in it."""
        return self.reads_text and "frames" in self.inputs

    @property
    def text_stream(self) -> HeadConfig:
        """What the stream that spots words reads, on its own: all of a head that can go to other classes."""
        if self.base != "fuse":
            return replace(self, head=self.base)
        if "P" in self.modalities:
            return replace(self, head="pvcs", modalities="V+P+T", pose_in="both", tokens="penult")
        return replace(self, head="vcs", modalities="V+P+T", pose_in="both", persons="all", tokens="penult")

    @property
    def reads_pose(self) -> bool:
        return any(name not in ("frames", "tokens") for name in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadConfig:
        return cls(**data)


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of a head's inputs; 0 where it does not read them. ``steps`` and ``motion`` are Ts and F of a skeleton."""

    classes: int
    frames: int
    dim: int = 0
    words: int = 0
    width: int = 0
    grid: int = 0
    steps: int = 0
    motion: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> HeadSizes:
        return cls(**data)
