"""What a given extraction needs beside a working machine: weights, videos, disk and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import ExtractConfig
from pipeline.datasets.prepare import RECIPES
from pipeline.doctor.check import FAIL, OK, WARN, Check
from pipeline.engines.sizing import machine_memory
from pipeline.forecast import Forecast, forecast
from stages.downloads import no_downloads, resolves
from store.errors import MissingError, VilpError
from store.printable import command

# Where what is not named comes from.
HOSTS = {"clip": "huggingface.co", "pose": "download.openmmlab.com", "video": "download.pytorch.org"}
# A process with the encoders, as ``extract --dry-run`` measures it, whatever the frames: ViT-B/16 and RTMPose-m.
_WORKER_BYTES = 2 << 30


def weights(config: ExtractConfig, *, planned: bool) -> Iterator[Check]:
    """A line for each kind of model: found, or missing with where to get and put them. Downloads nothing. What is
    missing is a failure only where a plan needs it and the first run could not fetch it."""
    with no_downloads():
        if config.wants_clip:
            yield _weights("clip", config, planned)
        if config.wants_pose:
            yield _weights("pose", config, planned)
        if config.wants_video:
            yield _weights("video", config, planned)


def _weights(kind: str, config: ExtractConfig, planned: bool) -> Check:
    name = f"{kind} weights"
    model = {
        "clip": f"{config.clip}, {config.clip_pretrained}",
        "pose": config.pose,
        "video": f"{config.video}, {config.video_pretrained or 'as torchvision recommends'}",
    }[kind]
    try:
        found = _found(kind, config)
    except MissingError as error:
        if error.kind != "missing-weights":
            return Check(name, FAIL if planned else WARN, str(error), "make setup installs what mmpose needs")
        fetched = kind != "pose" or (config.pose == "mmpose" and not (config.det_weights or config.pose_weights))
        if fetched and resolves(HOSTS[kind]):
            return Check(
                name, WARN, f"{model}: not here yet", f"the first run fetches them from {HOSTS[kind]}; {error}"
            )
        return Check(name, FAIL if planned else WARN, f"{model}: not here", str(error))
    except VilpError as error:
        return Check(name, FAIL if planned else WARN, str(error), "name others")
    return Check(name, OK, f"{model}: {found}")


def _found(kind: str, config: ExtractConfig) -> str:
    """Where the weights of a kind are. Raises ``MissingError`` where one is not."""
    if kind == "clip":
        from pipeline.graph import clip_config
        from stages.clip.encoder import ClipEncoder

        return _file(ClipEncoder(clip_config(config)).weights)
    if kind == "video":
        from pipeline.graph import video_config
        from stages.video.models import find_weights

        return _file(find_weights(video_config(config)))
    from pipeline.graph import pose_config
    from stages.pose.stage import create_estimator

    estimator = create_estimator(pose_config(config, Path(config.root or ".")))
    estimator.record()  # hashes every file
    return f"{estimator.name}, all files are there"


def _file(weights: Path | None) -> str:
    return str(weights) if weights is not None else "random weights, which know nothing"


def plan(config: ExtractConfig) -> Iterator[Check]:
    """Videos, disk and memory against what ``config`` needs."""
    try:
        with no_downloads():
            planned = _forecast(config)
    except VilpError as error:
        official = error.kind == "missing-data" and config.dataset in RECIPES
        todo = f"get them: {command('datasets', 'prepare', config.dataset)}" if official else "mend that first"
        yield Check("plan", FAIL, str(error), todo)
        return
    found = (
        f"{planned.to_do:,} of {planned.planned:,} videos to do, {planned.missing:,} listed ones are not on the disk"
    )
    missing = "provide them, or leave them out: extract reports them" if planned.missing else ""
    yield Check("videos", WARN if missing else OK, found, missing)
    yield _disk(planned)
    yield _memory(planned)


def _forecast(config: ExtractConfig) -> Forecast:
    """What an extraction needs. Weights that are not here yet do not change the sizes: random ones stand in."""
    try:
        return forecast(config, measure=False)
    except MissingError as error:
        if error.kind != "missing-weights":
            raise
        random = dataclasses.replace(config, clip_pretrained="none", video_pretrained="none")
        if config.pose == "mmpose":
            random = dataclasses.replace(random, det_weights="none", pose_weights="none")
        return forecast(random, measure=False)


def _disk(planned: Forecast) -> Check:
    need = f"{planned.bytes / 2**30:.2f} GB to write to {planned.store}"
    if planned.free_bytes is None:
        return Check("disk", OK, need)
    found = f"{need}, {planned.free_bytes / 2**30:.1f} GB free"
    if planned.bytes > planned.free_bytes:
        return Check(
            "disk", FAIL, found, "free some, name another disk with --store, or store less: --tokens '' is a tenth"
        )
    return Check("disk", OK, found)


def _memory(planned: Forecast) -> Check:
    need = planned.frame_bytes + 2 * planned.lanes * planned.unit_bytes + _WORKER_BYTES
    found = (
        f"up to {need / 2**30:.1f} GB for {planned.lanes} lanes with their frames and features, and the models; "
        f"this process may use {machine_memory() / 2**30:.1f} GB"
    )
    if need > machine_memory():
        return Check("memory for it", WARN, found, "use less at a time: --memory 500MB --shard-len 16 --engine inline")
    return Check("memory for it", OK, found)
