"""``extract``: from videos on the disk to committed features in a store."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.config import ExtractConfig
from pipeline.datasets import Dataset, load_dataset
from pipeline.engines.lanes import WorkerLostError, bound_losses, run_lanes
from pipeline.engines.sizing import Sizing, cpus, machine_memory
from pipeline.graph import Branch, Graph, make_graph
from pipeline.plan import Unit, compare, count_videos, extend_plan, make_plan, pending_units
from pipeline.progress import Progress
from pipeline.summary import Summary
from stages.write import WriteConfig
from store.commits import committed_shards
from store.errors import StoreError
from store.groups import read_groups, write_metadata
from store.layout import STORE
from store.lease import Lease, hold
from store.objects import LocalObjects
from store.plan import Plan, read_plan, settle_plan, write_plan
from store.sealed import get_sealed
from store.writer import add_modality, check_place, create_store, write_text_set


def extract(
    config: ExtractConfig, *, progress: Progress | None = None, only_shards: Collection[int] | None = None
) -> Summary:
    """Compute what is missing in a store: plan minus commits (of some shards only, where ``only_shards`` names them).

    Makes the store where there is none. Every shard that is committed when this returns, fails or is killed stays;
    running it again goes on from there, and ends with the same values on either engine.

    Raises ``UsageError``, ``MissingError`` (videos or weights), ``StoreError`` (the store cannot be used, is in use by
    another run, or the environment fails: see the kinds in ``store.errors``). Under ``strict`` missing videos, changed
    videos and another environment are errors as well.
    """
    progress = progress or Progress()
    began = time.monotonic()
    dataset = load_dataset(config.dataset, config.root, splits_dir=config.splits)
    graph = make_graph(config, dataset.root)
    if config.strict and dataset.missing:
        raise StoreError(
            f"{len(dataset.missing)} listed videos are missing under {dataset.root}, the first {dataset.missing[0]!r}; "
            "provide them, or run without --strict",
            kind="store-mismatch",
        )
    objects = LocalObjects(config.store_path)
    check_place(objects)
    with hold(objects, config.part) as lease:
        plan, warnings = _plan(objects, config, dataset)
        warnings += _add_groups(objects, config, graph, plan)
        if warnings and config.strict:
            raise StoreError(f"{warnings[0]} (--strict)", kind="store-mismatch")
        warnings += Sizing.of(config, graph).warnings
        for warning in warnings:
            progress.warn(warning)
        summary = _summary(objects, plan, graph)
        summary.warnings = warnings
        units = pending_units(
            objects,
            plan,
            list(graph.modalities()),
            dataset.root,
            part=config.part,
            limit=config.limit,
            retry_quarantined=config.retry_quarantined,
        )
        if only_shards is not None:
            units = [unit for unit in units if unit.shard in only_shards]
        _run(objects, config, graph, plan, units, dataset.root, lease, summary, progress)
    summary.seconds = time.monotonic() - began
    return summary


def dry_run(config: ExtractConfig) -> dict[str, Any]:
    """What an extraction would do: counts, and bytes on the disk. Writes nothing."""
    dataset = load_dataset(config.dataset, config.root, splits_dir=config.splits)
    graph = make_graph(config, dataset.root)
    objects = LocalObjects(config.store_path)
    check_place(objects)
    exists = get_sealed(objects, STORE) is not None
    plan = read_plan(objects) if exists else make_plan(dataset, config.shard_len, config.recipe())
    units = pending_units(objects, plan, list(graph.modalities()), dataset.root, part=config.part, limit=config.limit)
    video_bytes = sum(spec.nbytes for modality in graph.modalities().values() for spec in modality.arrays.values())
    return {
        "store": str(objects.root),
        "planned": plan.videos.num_rows,
        "missing": len(dataset.missing),
        "to_do": count_videos(units),
        "shards": len(units),
        "bytes": count_videos(units) * video_bytes,
        "groups": ", ".join(graph.modalities()),
        "lanes": Sizing.of(config, graph).lanes(cpus(), machine_memory()),
    }


def _plan(objects: LocalObjects, config: ExtractConfig, dataset: Dataset) -> tuple[Plan, list[str]]:
    """The plan of the store, made or extended where that was asked for, and how the dataset differs from it."""
    if get_sealed(objects, STORE) is None:
        return create_store(objects, make_plan(dataset, config.shard_len, config.recipe())), []
    settle_plan(objects)
    plan = read_plan(objects)
    changes = compare(plan, dataset)
    if changes.resized:
        raise StoreError(
            f"{len(changes.resized)} videos have another size than when the plan was made, the first "
            f"{changes.resized[0]!r}; restore them, or extract into a new store with --store",
            kind="store-mismatch",
        )
    warnings = []
    if config.shard_len != plan.shard_len:
        warnings.append(f"shard-len is {config.shard_len}, but the store was made with {plan.shard_len}, which stays")
    if changes.added and config.update:
        plan = extend_plan(plan, dataset)
        write_plan(objects, plan)
    elif changes.added:
        warnings.append(f"{len(changes.added)} videos are new since the plan was made; add them with --update")
    if changes.removed:
        warnings.append(f"{len(changes.removed)} videos of the plan are gone, the first {changes.removed[0]!r}")
    if changes.touched:
        warnings.append(
            f"{len(changes.touched)} videos have another modification time than when the plan was made, the first "
            f"{changes.touched[0]!r}; compare their contents with: vilp-pipe verify --sources"
        )
    write_metadata(objects, plan)
    return plan, warnings


def _add_groups(objects: LocalObjects, config: ExtractConfig, graph: Graph, plan: Plan) -> list[str]:
    """Define the groups of this run; says where what is there was computed in another environment."""
    warnings = []
    environments: dict[str, dict[str, Any]] = {branch.modality.path: branch.environment() for branch in graph.branches}
    for path, modality in graph.modalities().items():
        environment = environments.get(path, {})
        group = add_modality(objects, plan, modality, config.recipe(), environment)
        differing = sorted(key for key in environment if group.environment.get(key) != environment[key])
        if differing and committed_shards(objects, path):
            was = ", ".join(f"{key} {group.environment.get(key)} then, {environment[key]} now" for key in differing)
            warnings.append(f"{path} was begun in another environment, so its last bits may differ: {was}")
    return warnings


def _run(
    objects: LocalObjects,
    config: ExtractConfig,
    graph: Graph,
    plan: Plan,
    units: list[Unit],
    root: Path,
    lease: Lease,
    summary: Summary,
    progress: Progress,
) -> None:
    clip = next((branch for branch in graph.branches if branch.modality.kind == "clip"), None)
    texts = clip is not None and not _has_text(objects, clip.modality.path)
    if not units and not texts:
        return
    video_ids = dict(zip(plan.videos["slot"].to_pylist(), plan.videos["video_id"].to_pylist(), strict=True))
    write = WriteConfig(str(objects.root), plan.shard_len, lease)
    with _engine(config, graph, write) as engine, ThreadPoolExecutor(1) as beside:
        text = beside.submit(_write_text, objects, config, plan, engine, clip, lease) if texts and clip else None
        progress.begin("extracting", count_videos(units))
        for result in run_lanes(engine, graph, units, root, progress.advance):
            summary.add(result.rows, video_ids)
            if result.retries:
                summary.retried(result.unit.shard, result.retries)
                progress.note(f"shard {result.unit.shard}: {'; '.join(result.retries)}")
        if text is not None and (losses := text.result()):
            summary.retried(None, losses)
        progress.end()


def _write_text(
    objects: LocalObjects, config: ExtractConfig, plan: Plan, engine: Any, clip: Branch, lease: Lease
) -> list[str]:
    """Class names through the text tower, committed: beside the first units, since it takes seconds. Returns lines that
    say what was done again, and why."""
    from stages.clip.text import text_arrays, text_modality

    text, losses = None, []
    while text is None:
        try:
            text = engine.call(clip, "encode_text", plan.class_names)
        except WorkerLostError as loss:
            losses.append(f"began again: {loss}")
            bound_losses("encoding of class names", len(losses), loss)
    modality = text_modality(clip.modality, text)
    add_modality(objects, plan, modality, config.recipe(), {})
    write_text_set(objects, modality, text_arrays(text), lease)
    return losses


def _has_text(objects: LocalObjects, clip: str) -> bool:
    folder = objects.path(f"_tables/commits/{clip}/text")
    return folder.is_dir() and any(committed_shards(objects, f"{clip}/text/{path.name}") for path in folder.iterdir())


@contextlib.contextmanager
def _engine(config: ExtractConfig, graph: Graph, write: WriteConfig) -> Iterator[Any]:
    engine: Any
    sizing = Sizing.of(config, graph)
    graph = dataclasses.replace(graph, decode=dataclasses.replace(graph.decode, chunk_bytes=sizing.chunk_bytes))
    if config.engine == "inline":
        from pipeline.engines.inline import InlineEngine

        engine = InlineEngine(graph, write, lanes=sizing.lanes(cpus(), machine_memory()))
    else:
        from pipeline.engines.ray import RayEngine

        engine = RayEngine(graph, write, sizing, address=config.ray_address)
    try:
        yield engine
    finally:
        engine.close()


def _summary(objects: LocalObjects, plan: Plan, graph: Graph) -> Summary:
    reasons = plan.missing["reason"].to_pylist()
    # The default head reads poses.
    head = [] if any(group.modality.kind == "pose" for group in read_groups(objects).values()) else ["--head", "vcs"]
    return Summary(
        store=str(objects.root),
        dataset=plan.dataset,
        planned=plan.videos.num_rows,
        missing=reasons.count("missing"),
        unlisted=reasons.count("unlisted"),
        groups=list(graph.modalities()),
        next_command=shlex.join(["vilp-pipe", "train-head", "--store", os.path.relpath(objects.root), *head]),
    )
