"""Pose-stream features: what a skeleton network says of every video, kept in the store as a group ``posefeat/<id>``.

    features  float32 [N, D], what the network's classifier reads (of a network that was trained here)
    scores    float32 [N, C], log-probabilities of the classes
    seen      int8 [N], 0 where the network was not trained on the video; where it was, 1 if the scores are its own, 2
              if they are of a network that was trained without the video

A network learns from the training videos of one split, which are test videos of others. So a group is of one network,
its record names the split and a hash of those videos, and ``seen`` marks them one by one: late fusion refuses the group
where a test video was seen.

Weights of a fusion are chosen on the training videos. A network that was trained on them is too sure of them, so a
run's head is trained again without each fold of them, and the scores of that fold are of the network that has not seen
it (``features`` are all of the first network: two networks have two spaces).

No video is decoded, so this runs in the process that asks, on whatever engine the store was made. Shards are written
and committed as everywhere else.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import ExtractConfig
from pipeline.groups import add_groups
from pipeline.head.checkpoint import Held, load_head, read_held, read_run, weights_digest, write_held
from pipeline.head.config import SKELETON_HEADS
from pipeline.head.data import Inputs, load_skeletons
from pipeline.head.inner import inner_folds
from pipeline.head.models import Head
from pipeline.head.other_scores import (
    HELD_OUT,
    RunScores,
    as_logarithms,
    check_scores,
    last_part,
    log_probabilities,
)
from pipeline.head.results import RunResult
from pipeline.head.sides import flips
from pipeline.head.train import predict
from pipeline.progress import Progress
from pipeline.settings import as_toml
from pipeline.summary import Summary
from stages.batching import one_thread
from stages.pose.imports.scores import ClassScores, read_scores
from stages.precision import torch_environment
from store.commits import OK, QUARANTINED, CommitRow
from store.derived import refresh
from store.errors import MissingError, StoreError, UsageError, one_of
from store.groups import Group
from store.kept import keep_config
from store.lease import Lease, hold, planning
from store.objects import Objects, open_objects
from store.plan import Plan, read_plan, settle_plan
from store.printable import command
from store.reader import FeatureStore
from store.schema import ArraySpec, Modality
from store.sealed import canonical
from store.writer import write_shard

# Videos of one forward pass: always so many, the last ones repeated, on one thread, so that neighbours change nothing.
BATCH = 32


class Source(Protocol):
    """What fills one group."""

    @property
    def modality(self) -> Modality: ...

    def known(self) -> dict[int, CommitRow]:
        """Commit rows of the videos of which something can be said, by slot; quarantined ones say why there is
        nothing."""

    def arrays(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        """Rows of some videos that are known and not quarantined."""


def extract_posefeat(
    config: ExtractConfig, *, progress: Progress | None = None, only_shards: Collection[int] | None = None
) -> Summary:
    """Add the groups that ``config.posefeat`` names to a store, or what they lack: see ``pipeline.extraction.extract``.

    Raises ``UsageError`` and ``MissingError`` for a run or for scores that do not fit the store.
    """
    progress, began = progress or Progress(), time.monotonic()
    objects = open_objects(config.store_url)
    read_plan(objects)  # no lease is made where there is no store
    with hold(objects, config.part) as lease:
        settle_plan(lease.guard(objects))
        store = FeatureStore.open(objects.url)
        sources = posefeat_sources(config, store, progress)
        modalities = {source.modality.path: source.modality for source in sources}
        with planning(objects) as ours:
            warnings = add_groups(ours, config, read_plan(ours), modalities, dict.fromkeys(modalities, environment()))
            if only_shards is None:  # a repair makes nothing new
                keep_config(ours, as_toml("extract", config.options()))
        if warnings and config.strict:
            raise StoreError(f"{warnings[0]} (--strict)", kind="store-mismatch")
        for warning in warnings:
            progress.warn(warning)
        store = FeatureStore.open(objects.url)
        summary = _summary(objects, store.plan, list(modalities))
        summary.warnings = warnings
        filled = {s.modality.path: _fill(s, store, lease, config, only_shards, summary, progress) for s in sources}
        summary.add(filled, store.plan)
        summary.note_quarantine(objects, *refresh(lease.guard(objects)))
    summary.seconds = time.monotonic() - began
    return summary


def posefeat_sources(config: ExtractConfig, store: FeatureStore, progress: Progress | None = None) -> list[Source]:
    """What the groups of a configuration are made from: every split of a run is one, and so are files of scores."""
    paths = [Path(path) for path in config.posefeat]
    for path in paths:
        if not path.exists():
            raise MissingError(
                f"no run and no file of scores at {path}; put it back, or name where it is with --posefeat",
                kind="missing-data",
            )
    if len(paths) == 1 and paths[0].is_dir():
        if config.posefeat_split is not None or config.posefeat_annotations is not None:
            raise UsageError(f"posefeat is the run {paths[0]}, which tells its own splits; leave --posefeat-split out")
        return list(_run_sources(read_run(paths[0]), store, config, progress or Progress()))
    return [_Files(paths, store, config)]


def environment() -> dict[str, Any]:
    """What can change the last bits of the numbers and is not in the record."""
    return {**torch_environment(torch.device("cpu")), "batch_size": BATCH}


def _summary(objects: Objects, plan: Plan, paths: list[str]) -> Summary:
    late = command("evaluate", "--run", "RUN", "--late", paths[0] if len(paths) == 1 else "posefeat")
    return Summary(
        objects.url, plan.dataset, plan.videos.num_rows, plan.num_missing, plan.num_unlisted, paths, next_command=late
    )


def _fill(
    source: Source,
    store: FeatureStore,
    lease: Lease,
    config: ExtractConfig,
    only_shards: Collection[int] | None,
    summary: Summary,
    progress: Progress,
) -> list[CommitRow]:
    """Commit what a group lacks: videos that have no row, and those whose poses came since they were quarantined."""
    plan, modality = store.plan, source.modality
    objects, group = lease.guard(open_objects(store.url)), store.group("posefeat", modality.id)
    commits, known = store.commits(group), source.known()
    kept, without = set(commits.slots.tolist()), set(commits.slots[commits.mask("status", QUARANTINED)].tolist())
    wanted = plan.slots.tolist()[: config.limit]
    left = [
        slot
        for slot in wanted
        if slot in known
        and slot // plan.shard_len in config.part
        and (only_shards is None or slot // plan.shard_len in only_shards)
        and (slot not in kept or (slot in without and known[slot].status != QUARANTINED))
    ]
    if absent := len(set(wanted) - set(known) - kept):
        summary.warnings.append(f"{modality.path}: nothing is known of {absent} videos, which stay left")
        progress.warn(summary.warnings[-1])
    filled: list[CommitRow] = []
    progress.begin(f"extracting {modality.id}", len(left))
    for shard in sorted({slot // plan.shard_len for slot in left}):
        slots = [slot for slot in left if slot // plan.shard_len == shard]
        began = time.monotonic()
        good = [position for position, slot in enumerate(slots) if known[slot].status != QUARANTINED]
        made = source.arrays([slots[position] for position in good]) if good else {}
        each = (time.monotonic() - began) / max(1, len(good))
        arrays = {}
        for name, spec in modality.arrays.items():
            arrays[name] = np.full((len(slots), *spec.shape), spec.fill, spec.dtype)
            if good:
                arrays[name][good] = made[name]
        rows = [replace(known[slot], decode_seconds=0.0, stage_seconds=each) for slot in slots]
        inside = {slot for slot in kept if slot // plan.shard_len == shard}
        filled += write_shard(objects, modality, shard, plan.shard_len, arrays, rows, lease.stamp(), expected=inside)
        progress.advance(len(slots))
    progress.end()
    return filled


def _run_sources(run: RunResult, store: FeatureStore, config: ExtractConfig, progress: Progress) -> Iterator[Source]:
    if run.config.head not in SKELETON_HEADS:
        raise UsageError(
            f"posefeat is {run.directory}, a run of head {run.config.head!r}; allowed: runs of "
            f"{' and '.join(SKELETON_HEADS)}, which read poses alone"
        )
    if (run.selection.dataset, run.class_names) != (store.dataset_name, store.class_names):
        raise UsageError(
            f"posefeat is {run.directory}, a run on {len(run.class_names)} classes of {run.selection.dataset}, and "
            f"{store.url} holds {len(store.class_names)} of {store.dataset_name}; train one on it"
        )
    store.group("pose", run.selection.pose)  # raises where it is not there
    videos, asked = set(store.videos["video_id"].to_pylist()), None
    for split in run.splits:
        held = read_held(run, split, run.seeds[0])
        if held is None:
            asked = asked or RunScores(replace(run, selection=replace(run.selection, store=store.url)), config.device)
            progress.note(f"training without each fold of the training videos of split {split}")
            _train_held(asked, split)
            held = read_held(run, split, run.seeds[0])
            assert held is not None
        if strange := set(held[1].training) - videos:
            raise UsageError(
                f"posefeat is {run.directory}, which was trained on {len(strange)} videos that {store.url} does not "
                f"have, the first {min(strange)!r}; train one on it"
            )
        yield _Network(run, split, *held, store)


def _train_held(asked: RunScores, split: int) -> None:
    """Train the head of a split again without each fold of its training videos, and keep all beside the run."""
    train, seed = asked.train(split), asked.run.seeds[0]
    folds = inner_folds(train.labels.cpu().numpy(), train.sources)
    fitting, held = (
        tuple(tuple(train.video_ids[row] for row in rows) for rows in part) for part in zip(*folds, strict=True)
    )
    facts = Held(weights_digest(asked.run, split, seed), train.video_ids, held)
    write_held(asked.run, split, seed, asked.trained_on(split, fitting), facts)


class _Network:
    """One split of a run: its head, and those that were trained without a fold each."""

    def __init__(
        self, run: RunResult, split: int, held: Sequence[Head], facts: Held, digest: str, store: FeatureStore
    ) -> None:
        self._run, self._split, self._held, self._facts, self._store = run, split, held, facts, store
        self._head = load_head(run, split, run.seeds[0])
        pose = store.group("pose", run.selection.pose)
        width = int(self._head.classifier.in_features)  # type: ignore[union-attr,arg-type]
        record = {
            "network": run.config.head,
            "pose": pose.modality.id,
            "frames": pose.modality.record.get("frames"),
            "views": list(run.selection.views),
            "weights": {"sha256": facts.of},
            "weights_of_held_out": {"sha256": digest},
            "trained_on": {
                "dataset": store.dataset_name,
                "split": split,
                "videos": len(facts.training),
                "held_out": sum(map(len, facts.held_out)),
                "folds": len(facts.held_out),
                "sha256": hashlib.sha256(canonical(sorted(facts.training)).encode()).hexdigest(),
            },
        }
        arrays = {"features": ArraySpec((width,), "float32", ("channel",)), **_score_arrays(len(store.class_names))}
        self.modality = Modality("posefeat", f"{run.config.head} split{split}", record, arrays)

    @cached_property
    def _pose(self) -> Group:
        return self._store.group("pose", self._run.selection.pose)

    def known(self) -> dict[int, CommitRow]:
        return {row["slot"]: CommitRow(**row) for row in self._store.status(self._pose).to_pylist()}

    def arrays(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        names = self._store.plan.at(np.asarray(slots, np.int64), "video_id")["video_id"].to_pylist()
        inputs = self._inputs(slots, tuple(names))
        scores, seen = outputs(self._head, inputs), np.isin(names, self._facts.training).astype(np.int8)
        for head, held_out in zip(self._held, self._facts.held_out, strict=True):
            rows = np.flatnonzero(np.isin(names, held_out))
            if len(rows):
                scores[rows], seen[rows] = outputs(head, inputs.rows(torch.from_numpy(rows))), HELD_OUT
        return {
            "features": outputs(_Features(self._head), replace(inputs, flips=None)),
            "scores": log_probabilities(scores).astype(np.float32),
            "seen": seen,
        }

    def _inputs(self, slots: Sequence[int], names: tuple[str, ...]) -> Inputs:
        selection = self._run.selection
        return Inputs(
            tensors={"skeleton": load_skeletons(self._store, selection, slots)},
            labels=torch.zeros(len(slots), dtype=torch.int64),
            slots=torch.tensor(slots),
            video_ids=names,
            sources=names,
            flips=flips(self._store.class_names, selection.views),
        )


class _Files:
    """Scores that mmaction2 dumped, of a network that was trained on the training videos of the split that is named."""

    def __init__(self, paths: Sequence[Path], store: FeatureStore, config: ExtractConfig) -> None:
        split, annotations = config.posefeat_split, config.posefeat_annotations
        if split is None:
            raise UsageError(
                f"posefeat is {paths[0]}; say with --posefeat-split on the training videos of which split its network "
                f"was trained: 1 to {store.num_splits}"
            )
        one_of("posefeat-split", split, tuple(range(1, store.num_splits + 1)))
        self._scores: dict[str, ClassScores] = {}
        for path in paths:
            self._scores |= read_scores(path, None if annotations is None else Path(annotations))
        self._store, self._training = store, frozenset(store.selected(split, "train"))
        labels = store.plan.lookup("video_id", "label")
        check_scores(", ".join(path.name for path in paths), self._scores, labels, len(store.class_names))
        record = {
            "network": "mmaction2",
            "files": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
            "trained_on": {"dataset": store.dataset_name, "split": split, "videos": None, "held_out": 0},
        }
        self.modality = Modality("posefeat", f"imported split{split}", record, _score_arrays(len(store.class_names)))

    def known(self) -> dict[int, CommitRow]:
        ids = self._store.plan.lookup("slot", "video_id")
        return {slot: CommitRow(slot, OK) for slot, name in ids.items() if last_part(name) in self._scores}

    def arrays(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        names = self._store.plan.at(np.asarray(slots, np.int64), "video_id")["video_id"].to_pylist()
        scores = np.stack([as_logarithms(self._scores[last_part(name)].values) for name in names])
        seen = np.array([slot in self._training for slot in slots], np.int8)
        return {"scores": scores.astype(np.float32), "seen": seen}


def _score_arrays(classes: int) -> dict[str, ArraySpec]:
    return {"scores": ArraySpec((classes,), "float32", ("class",)), "seen": ArraySpec((), "int8", ())}


class _Features(nn.Module):
    """A skeleton head that gives the features in place of the logits."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.head.features(batch),)  # type: ignore[operator]


def outputs(head: nn.Module, inputs: Inputs) -> np.ndarray:
    """What a skeleton head gives for N videos, float32 [N, C], the same bytes whatever their neighbours."""
    count = len(inputs)
    padded = inputs.rows(torch.arange(-(-count // BATCH) * BATCH).clamp(max=count - 1))
    with one_thread():
        return predict(head, padded, batch_size=BATCH)[:count].numpy()  # type: ignore[arg-type]
