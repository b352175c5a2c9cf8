"""What a user asks of an extraction, validated as early as possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.datasets import DATASETS, default_root
from stages.clip.config import DEFAULT_TOKENS
from stages.clip.templates import DEFAULT_TEMPLATES, check_template
from stages.video.config import RECIPES
from store.errors import StoreError, UsageError, nearest, one_of
from store.lease import WHOLE, Part

ENGINES = ("ray", "inline")
MODALITIES = ("clip", "pose", "video", "text")
# Computed from what a store holds, without a video, and only where it is asked for.
POSEFEAT = "posefeat"
HEATMAPS = ("none", "joints", "limbs")
ESTIMATORS = ("mmpose", "onnx", "precomputed", "none")


@dataclass(frozen=True)
class ExtractConfig:
    """Everything that ``vilp-pipe extract`` takes. ``vilp-pipe extract --help`` explains each value.

    dataset       ``ucf101``, ``hmdb51``, ``folder``, ``manifest`` or ``synthetic``
    root          folder of the videos; None: ``$VILP_DATA/<dataset>``, else ``data/<dataset>``
    store         folder of the store, or ``s3://bucket/prefix``; None: ``stores/<dataset>``
    splits        folder of the official split lists; None: beside the videos
    frames        T, frames a video for CLIP; ``pose_frames`` is Tp, a multiple of T
    views         V parts of a frame that CLIP sees: see ``stages.geometry``
    tokens        patch tokens to store: ``value``, ``penult``
    clip          an open_clip model, ``stick`` or ``tiny``; ``clip_pretrained`` is a tag, a file, or ``none`` (see
                  ``ClipConfig``); empty: ``openai``, or of ``stick`` its own, ``embedded``
    pose          ``mmpose``, ``onnx``, ``precomputed``, ``none`` or ``module:Class``; ``det_weights``, ``pose_weights``
                  and ``pose_config`` are what it needs: see ``PoseConfig``
    heatmap       draw heatmaps of the poses (``joints`` or ``limbs``) and store their CLIP embeddings as well
    video         video model of torchvision (see ``stages.video``), or ``none``; ``video_clips`` is K, clips a video
    templates     prompts of the class names, each with ``{}`` for the name: see ``stages.clip.templates``
    posefeat      run of a skeleton head, or score files of mmaction2: see ``pipeline.posefeat``; of files
                  ``posefeat_split`` is the split whose training videos their network saw, and
                  ``posefeat_annotations`` name the videos where they do not
    modalities    which of ``clip`` (with its text), ``pose`` and ``video`` to compute now, or ``text`` alone, to add a
                  text set to a CLIP model that is there, or ``posefeat`` alone; a store may hold more
    part          this run's share of the shards
    chunk_bytes   decoded frames that travel together, in bytes
    memory        bound in bytes on decoded frames in flight; None: a quarter of the machine's
    decode_seconds  CPU seconds that one video may take to decode, before it is quarantined as decoder-timeout
    limit         only the first videos of the plan, None for all
    seed          of random weights; when a store is made also of the synthetic set's rendering, and of the split of a
                  folder that has none

    Raises ``UsageError`` for a value that is not allowed.
    """

    dataset: str = "synthetic"
    root: str | None = None
    store: str | None = None
    splits: str | None = None
    frames: int = 16
    pose_frames: int = 48
    views: tuple[str, ...] = ("center",)
    tokens: tuple[str, ...] = DEFAULT_TOKENS
    clip: str = "ViT-B-16"
    clip_pretrained: str = ""
    pose: str = "mmpose"
    det_weights: str | None = None
    pose_weights: str | None = None
    pose_config: str | None = None
    heatmap: str = "none"
    video: str = "none"
    video_pretrained: str | None = None
    video_clips: int = 4
    posefeat: tuple[str, ...] = ()
    posefeat_split: int | None = None
    posefeat_annotations: str | None = None
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    decoder: str = "pyav"
    decode_seconds: float = 300.0
    engine: str = "ray"
    ray_address: str | None = None
    part: Part = WHOLE
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    memory: int | None = None
    chunk_bytes: int = 64 << 20
    shard_len: int = 64
    limit: int | None = None
    seed: int = 0
    update: bool = False
    retry_quarantined: bool = False
    modalities: tuple[str, ...] = MODALITIES
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.clip_pretrained:
            object.__setattr__(self, "clip_pretrained", "embedded" if self.clip == "stick" else "openai")
        one_of("engine", self.engine, ENGINES)
        for name in self.modalities:
            one_of("modality", name, (*MODALITIES, POSEFEAT))
        if "text" in self.modalities and not ({"clip"} & set(self.modalities) or self.text_only):
            raise UsageError(f"modality is {','.join(self.modalities)}; give text alone, or with clip")
        if POSEFEAT in self.modalities and not self.posefeat_only:
            raise UsageError(f"modality is {','.join(self.modalities)}; give posefeat alone")
        if self.posefeat_only and not self.posefeat:
            raise UsageError("modality is 'posefeat' but no network is named; give --posefeat a run or score files")
        if not self.modalities:
            raise UsageError(f"modality is empty; allowed: {', '.join(MODALITIES)}")
        for name in ("frames", "pose_frames", "video_clips", "batch_size", "shard_len", "chunk_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}; allowed: 1 or more")
        if self.wants_pose and self.pose_frames % self.frames:
            raise UsageError(
                f"pose-frames is {self.pose_frames}; allowed: a multiple of frames ({self.frames}), "
                "so that the frames of CLIP are among them"
            )
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory is {self.memory}; allowed: 1 byte or more, such as 2GB")
        if not self.decode_seconds > 0:
            raise UsageError(f"decode-seconds is {self.decode_seconds:g}; allowed: more than 0")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; allowed: 1 or more videos")
        if not 0 <= self.part.index < self.part.count:
            raise UsageError(f"part is {self.part.index}/{self.part.count}; allowed: 0/n to (n-1)/n")
        if self.pose not in ESTIMATORS and ":" not in self.pose:
            near = nearest(self.pose, ESTIMATORS)
            raise UsageError(f"pose is {self.pose!r}; allowed: {', '.join(ESTIMATORS)} or module:Class{near}")
        for template in self.templates:
            check_template(template)
        one_of("heatmap", self.heatmap, HEATMAPS)
        one_of("video", self.video, ("none", *RECIPES))
        if self.heatmap != "none" and self.pose == "none":
            raise UsageError(f"heatmap is {self.heatmap!r} but no pose is extracted; name an estimator with --pose")
        if self.modalities == ("pose",) and self.pose == "none":
            raise UsageError("modality is 'pose' but pose is 'none'; name an estimator with --pose")
        if self.modalities == ("video",) and self.video == "none":
            raise UsageError(f"modality is 'video' but no model is named; give --video one of: {', '.join(RECIPES)}")
        if self.wants_video and ":" in self.decoder:
            raise UsageError(f"decoder is {self.decoder!r}, which gives no clips for --video; use --decoder pyav")

    @property
    def wants_pose(self) -> bool:
        return "pose" in self.modalities and self.pose != "none"

    @property
    def wants_clip(self) -> bool:
        """Whether the run knows the CLIP model; a run of text alone encodes no video with it."""
        return "clip" in self.modalities or self.text_only

    @property
    def text_only(self) -> bool:
        """Whether nothing but class names is encoded. Runs that encode frames with CLIP encode them as well."""
        return self.modalities == ("text",)

    @property
    def posefeat_only(self) -> bool:
        return self.modalities == (POSEFEAT,)

    @property
    def wants_video(self) -> bool:
        return "video" in self.modalities and self.video != "none"

    @property
    def decoded_frames(self) -> int:
        """Evenly spaced frames that a video is decoded to: the pose frames, which contain those of CLIP, or those of
        CLIP; those of a video model's clips come on top."""
        return self.pose_frames if self.wants_pose else self.frames if self.wants_clip else 0

    @property
    def store_url(self) -> str:
        return self.store or f"stores/{self.dataset}"

    def code(self) -> dict[str, str]:
        """Settings that name Python code which this configuration would run, by option: a decoder or an estimator of
        the user's, and config files of mmpose, which are programs."""
        named = {"decoder": self.decoder} if ":" in self.decoder else {}
        if self.wants_pose and self.pose not in ESTIMATORS:
            named["pose"] = self.pose
        if self.wants_pose and self.pose == "mmpose" and self.pose_config and ".py" in self.pose_config:
            named["pose_config"] = self.pose_config
        return named

    def recipe(self) -> dict[str, Any]:
        """The settings as plain JSON values, kept in the store so that a repair needs no flags."""
        values = asdict(self)
        # Absolute, so that the store can be resumed and repaired from any directory.
        values["root"] = str(Path(self.root or default_root(self.dataset)).absolute())
        files = ("splits", "det_weights", "pose_weights", "pose_config", "clip_pretrained", "video_pretrained")
        for name in (*files, "posefeat_annotations"):
            if values[name] and Path(values[name]).exists():
                values[name] = str(Path(values[name]).absolute())
        values["posefeat"] = [str(Path(path).absolute()) for path in self.posefeat]
        values["part"] = "0/1"
        values |= {"limit": None, "update": False, "retry_quarantined": False, "strict": False, "ray_address": None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def options(self) -> dict[str, Any]:
        """The settings by option of ``vilp-pipe extract``, for the file that a store keeps of a run: without where the
        store lies, which share of it a run computes and where, and what only matters where something is there."""
        about_the_run = ("store", "part", "ray_address", "chunk_bytes", "update", "retry_quarantined", "strict")
        values = self.recipe() | {"limit": self.limit}
        values["modality"], values["templates"] = values.pop("modalities"), "|".join(self.templates)
        return {name.replace("_", "-"): value for name, value in values.items() if name not in about_the_run}

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any]) -> ExtractConfig:
        """The settings that ``recipe`` keeps. Raises ``StoreError`` (``store-version``) for one that is not known here:
        a newer version wrote it."""
        unknown = sorted(recipe.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise StoreError(
                f"the store was extracted with the setting {unknown[0]!r}, which this vilp-pipe does not know; install "
                "the vilp-pipe that wrote it, or a newer one",
                kind="store-version",
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()
        }
        values["part"] = WHOLE
        return cls(**values)


def parse_part(text: str) -> Part:
    """``i/n`` as a part of the shards, such as ``0/4``."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"part is {text!r}; allowed: i/n with i from 0 to n-1, such as 0/4")
    return Part(int(index), int(count))


def resolve(store: str | None, given: dict[str, Any]) -> ExtractConfig:
    """The configuration for a store: what is given, else what the store's first run used, else the defaults. Weights of
    the first run's pose estimator are not those of another.

    Raises ``UsageError`` where neither a dataset nor a store that exists is named, and where the store names code to
    run: a store is data, and may be a stranger's.
    """
    from store.layout import STORE
    from store.objects import open_objects
    from store.sealed import get_sealed

    if store is None and "dataset" not in given:
        raise UsageError(f"dataset is not given; allowed: {', '.join(DATASETS)} (or --store of a store)")
    if "dataset" in given:
        one_of("dataset", given["dataset"], DATASETS)
    url = store if store is not None else f"stores/{given['dataset']}"
    facts = get_sealed(open_objects(url), STORE)
    if facts is None and "dataset" not in given:
        raise UsageError(f"no feature store at {url} and no --dataset; allowed: {', '.join(DATASETS)}")
    recipe = dict(facts["source"]) if facts else {}
    if "modalities" not in given:
        recipe.pop("modalities", None)
    base = ExtractConfig.from_recipe(recipe) if recipe else default_config(given["dataset"])
    if given.get("modalities") == ("text",):
        base = replace(base, heatmap="none")
    if "clip" in given and "clip_pretrained" not in given and "stick" in (given["clip"], base.clip):
        given = {**given, "clip_pretrained": ""}  # the embedded weights are those of one model, which has no others
    config = replace(base, **{**_of_another_model(base, given), "store": url, **given})
    for option, value in config.code().items():
        if option not in given:
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(
                f"store {url} names code of its own, {flag} {value}; where you trust it, give that option yourself"
            )
    return config


def _of_another_model(base: ExtractConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """No value for those settings of a first run that say nothing of the estimator that is asked for now: files of
    weights belong to one model."""
    if given.get("pose", base.pose) != base.pose:
        return {"det_weights": None, "pose_weights": None, "pose_config": None}
    if given.get("pose_config", base.pose_config) != base.pose_config:
        return {"det_weights": None, "pose_weights": None}
    return {}


def default_config(dataset: str) -> ExtractConfig:
    """Defaults of a dataset. The synthetic set knows its true poses, and the embedded CLIP was trained for it."""
    if dataset == "synthetic":
        return ExtractConfig(dataset=dataset, clip="stick", pose="precomputed")
    return ExtractConfig(dataset=dataset)
