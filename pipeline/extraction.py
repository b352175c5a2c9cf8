"""``extract``: from videos on the disk to committed features in a store."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ExtractConfig
from pipeline.datasets import Dataset, load_dataset
from pipeline.engines.lanes import WorkerLostError, bound_losses, run_lanes
from pipeline.engines.sizing import Sizing, cpus, machine_memory
from pipeline.graph import Branch, Graph, clip_config, make_graph
from pipeline.groups import add_groups, other_versions
from pipeline.plan import (
    Changes,
    Work,
    compare,
    dataset_seed,
    make_plan,
    note_gone,
    pending,
    refresh_files,
    update_plan,
)
from pipeline.progress import Progress
from pipeline.settings import as_toml
from pipeline.summary import Summary, training_command
from pipeline.trace import Trace
from stages.write import WriteConfig
from store.commits import committed_shards
from store.derived import refresh
from store.errors import MissingError, StoreError
from store.groups import read_groups, write_metadata
from store.kept import keep_config
from store.layout import STORE
from store.lease import Lease, hold, planning
from store.objects import Objects, open_objects
from store.packs import PACK_FROM, pack_commits
from store.plan import Plan, read_plan, settle_plan, write_plan
from store.printable import command
from store.reader import FeatureStore
from store.sealed import get_sealed
from store.writer import add_modality, check_place, create_store, write_text_set


def extract(
    config: ExtractConfig,
    *,
    progress: Progress | None = None,
    only_shards: Collection[int] | None = None,
    trace: Trace | None = None,
) -> Summary:
    """Compute what is missing in a store: plan minus commits (of some shards only, where ``only_shards`` names them).

    Makes the store where there is none. Every shard that is committed when this returns, fails or is killed stays;
    running it again goes on from there, and ends with the same values on either engine. ``trace`` is told of
    every call of a stage.

    Raises ``UsageError``, ``MissingError`` (videos or weights), ``StoreError`` (the store cannot be used, is in use by
    another run, or the environment fails: see the kinds in ``store.errors``). Under ``strict`` missing videos, changed
    videos and another environment are errors as well.
    """
    if config.posefeat_only:
        from pipeline.posefeat import extract_posefeat

        return extract_posefeat(config, progress=progress, only_shards=only_shards)
    progress = progress or Progress()
    began = time.monotonic()
    objects = open_objects(config.store_url)
    seed = dataset_seed(objects, config.seed)
    dataset = load_dataset(config.dataset, config.root, splits_dir=config.splits, seed=seed)
    graph = make_graph(config, dataset.root)
    if config.wants_clip:
        from stages.clip.encoder import check_text  # needs torch

        check_text(clip_config(config), dataset.class_names, config.templates)
    if config.strict and dataset.missing:
        raise StoreError(
            f"{len(dataset.missing)} listed videos are missing under {dataset.root}, the first {dataset.missing[0]!r}; "
            "provide them, or run without --strict",
            kind="store-mismatch",
        )
    check_place(objects)
    with hold(objects, config.part) as lease:
        if config.text_only:
            _refuse_without_clip(objects, config, graph)
            only_shards = ()
        with planning(objects) as ours:
            plan, gone, warnings = _plan(ours, config, dataset)
            warnings += other_versions(ours, graph.modalities())
            _heed(warnings, config)
            environments = {branch.modality.path: branch.environment() for branch in graph.branches}
            warnings += add_groups(ours, config, plan, graph.modalities(), environments)
            if only_shards is None:  # a repair makes nothing new
                keep_config(ours, as_toml("extract", config.options()))
        _heed(warnings, config)
        warnings += Sizing.of(config, graph).warnings
        for warning in warnings:
            progress.warn(warning)
        summary = Summary(
            store=objects.url,
            dataset=plan.dataset,
            planned=plan.videos.num_rows,
            missing=plan.num_missing,
            unlisted=plan.num_unlisted,
            groups=list(graph.modalities()),
        )
        summary.warnings = warnings
        work = find_work(objects, plan, graph, dataset.root, config, gone)
        if only_shards is not None:
            work = work.only(only_shards)
        _run(objects, config, graph, work, lease, summary, progress, trace)
        summary.note_quarantine(objects, *refresh(lease.guard(objects)))
        summary.next_command = training_command(objects, graph.modalities(), config.templates)
    summary.seconds = time.monotonic() - began
    summary.profile = None if trace is None else trace.to_dict()
    return summary


def find_work(objects: Objects, plan: Plan, graph: Graph, root: Path, config: ExtractConfig, gone: np.ndarray) -> Work:
    """What a run with this configuration has left to do, without the slots in ``gone``; text alone needs no video."""
    work = pending(
        objects,
        plan,
        graph.modalities(),
        root,
        part=config.part,
        limit=config.limit,
        retry_quarantined=config.retry_quarantined,
        gone=gone,
    )
    return work.only(()) if config.text_only else work


def _plan(objects: Objects, config: ExtractConfig, dataset: Dataset) -> tuple[Plan, np.ndarray, list[str]]:
    """The plan of the store, made or extended where that was asked for, the slots of its videos that are gone, and how
    the dataset differs from it."""
    if get_sealed(objects, STORE) is None:
        return create_store(objects, make_plan(dataset, config.shard_len, config.recipe())), np.empty(0, np.int64), []
    settle_plan(objects)
    plan = read_plan(objects)
    changes = compare(plan, dataset)
    gone = changes.gone(plan)
    if changes.resized:
        _refuse_stale(objects, plan, changes)
        plan = refresh_files(plan, dataset, changes)
        write_plan(objects, plan)
    warnings = []
    if config.shard_len != plan.shard_len:
        warnings.append(f"shard-len is {config.shard_len}, but the store was made with {plan.shard_len}, which stays")
    if config.update and (len(changes.added) or changes.relisted):
        plan = update_plan(plan, dataset, changes)
        write_plan(objects, plan)
    elif len(changes.added):
        warnings.append(f"{len(changes.added)} videos are new since the plan was made; add them with --update")
    if changes.relisted and not config.update:
        warnings.append(
            f"{len(changes.relisted)} videos have another label, source or split in the lists than when the plan was "
            f"made, the first {changes.relisted[0]!r}; take that over with --update"
        )
    if changes.removed:
        warnings.append(
            f"{len(changes.removed)} videos of the plan are gone, the first {changes.removed[0]!r}; they are left out "
            "until they are back"
        )
    noted = note_gone(plan, gone)
    if not noted.missing.equals(plan.missing):
        plan = noted
        write_plan(objects, plan)
    if changes.touched:
        comparing = command("verify", "--sources", "--store", objects.url)
        warnings.append(
            f"{len(changes.touched)} videos have another modification time than when the plan was made, the first "
            f"{changes.touched[0]!r}; compare their contents with: {comparing}"
        )
    write_metadata(objects, plan)
    return plan, gone, warnings


def _heed(warnings: Sequence[str], config: ExtractConfig) -> None:
    """Raise ``StoreError`` for the first of the warnings under ``strict``."""
    if warnings and config.strict:
        raise StoreError(f"{warnings[0]} (--strict)", kind="store-mismatch")


def _refuse_stale(objects: Objects, plan: Plan, changes: Changes) -> None:
    """Raise ``StoreError`` where a video that has features has another size now. One that has none, because it was
    quarantined or never reached, may have been mended."""
    store = FeatureStore.open(objects.url)
    extracted = {slot for group in store.groups.values() if group.modality.per_video for slot in store.usable([group])}
    names = plan.at(np.array(sorted(extracted), np.int64), "video_id")["video_id"].to_pylist()
    stale = sorted(set(names) & set(changes.resized))
    if stale:
        raise StoreError(
            f"{len(stale)} videos have another size than when their features were computed, the first {stale[0]!r}; "
            "restore them, or extract into a new store with --store",
            kind="store-mismatch",
        )


def _refuse_without_clip(objects: Objects, config: ExtractConfig, graph: Graph) -> None:
    """Raise ``MissingError`` where the store has no features of the model whose text tower is wanted."""
    (clip,) = graph.branches
    there = get_sealed(objects, STORE) is not None and clip.modality.path in read_groups(objects)
    if not there:
        adding = command("extract", "--store", objects.url, "--modality", "clip", "--clip", config.clip)
        raise MissingError(
            f"{objects.url} has no features of {clip.modality.path}, so a text set would stand alone; add them with: "
            f"{adding}",
            kind="missing-modality",
        )


def _run(
    objects: Objects,
    config: ExtractConfig,
    graph: Graph,
    work: Work,
    lease: Lease,
    summary: Summary,
    progress: Progress,
    trace: Trace | None,
) -> None:
    clip = next((branch for branch in graph.branches if branch.modality.kind == "clip"), None)
    texts = clip is not None and not _has_text(objects, clip.modality.path, config.templates)
    if not work.num_videos and not texts:
        return
    plan, since_packed = work.plan, 0
    told: dict[str, Any] = {} if trace is None else {"record": trace.add}
    # Packing looks at every commit, so it is done a bounded number of times a run.
    pack_every = max(PACK_FROM, plan.num_shards // 16)
    write = WriteConfig(objects.url, plan.shard_len, lease)
    with _engine(config, graph, write) as engine, ThreadPoolExecutor(1) as beside:
        text = None
        if texts and clip:
            text = beside.submit(_write_text, objects, config, plan.class_names, engine, clip, lease)
        progress.begin("extracting", work.num_videos)
        for units in work.passes():
            for result in run_lanes(engine, graph, units, work.root, progress.advance, **told):
                summary.add(result.rows, plan)
                if result.retries:
                    summary.retried(result.unit.shard, result.retries)
                    progress.note(f"shard {result.unit.shard}: {'; '.join(result.retries)}")
                since_packed += 1
                if since_packed == pack_every:
                    _pack(objects, graph, plan, lease)
                    since_packed = 0
        if text is not None and (losses := text.result()):
            summary.retried(None, losses)
        progress.end()
        for warning in engine.warnings:
            progress.warn(warning)
        summary.warnings += engine.warnings


def _pack(objects: Objects, graph: Graph, plan: Plan, lease: Lease) -> None:
    for path in graph.modalities():
        pack_commits(lease.guard(objects), path, shard_len=plan.shard_len)


def _write_text(
    objects: Objects, config: ExtractConfig, class_names: Sequence[str], engine: Any, clip: Branch, lease: Lease
) -> list[str]:
    """Class names through the text tower, committed: beside the first units, since it takes seconds. Returns lines that
    say what was done again, and why."""
    from stages.clip.text import text_arrays, text_modality

    text, losses = None, []
    while text is None:
        try:
            text = engine.call(clip, "encode_text", class_names, config.templates)
        except WorkerLostError as loss:
            losses.append(f"began again: {loss}")
            bound_losses("encoding of class names", len(losses), loss)
    modality = text_modality(clip.modality, text)
    with planning(objects) as ours:  # another part may have extended the plan meanwhile
        add_modality(ours, read_plan(ours), modality, config.recipe(), {})
    write_text_set(lease.guard(objects), modality, text_arrays(text))
    return losses


def _has_text(objects: Objects, clip: str, templates: Sequence[str]) -> bool:
    texts = [group for group in read_groups(objects).values() if group.modality.parent == clip]
    return any(
        list(text.modality.record["templates"]) == list(templates) and committed_shards(objects, text.path)
        for text in texts
    )


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
