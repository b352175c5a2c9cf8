"""Features of a few videos, computed now with the settings of a store, as a temporary store of their own.

They are computed as ``extract`` does it, by the same decoder, stages and writer, so they are the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ExtractConfig
from pipeline.datasets.base import TEST, Dataset, Video, Videos
from pipeline.engines.work import Encoded, clips_of, encode, without_frames, write_unit
from pipeline.graph import Graph, evenly, make_graph
from pipeline.plan import Unit, make_plan
from stages.decode import DecodeOutcome, DecodeWorker
from stages.types import VideoRef
from stages.write import ShardWriter, WriteConfig
from store.commits import CommitRow
from store.errors import MissingError, StoreError, UsageError
from store.groups import Group
from store.lease import WHOLE, hold
from store.objects import open_objects
from store.reader import FeatureStore
from store.writer import add_modality, create_store

# Settings that may name a file, by kind of group, and the options of the command line that name another.
WEIGHTS = {
    "clip": ("clip_pretrained",),
    "video": ("video_pretrained",),
    "pose": ("det_weights", "pose_weights", "pose_config"),
}


def recorded_graphs(
    store: FeatureStore,
    clip: str | None,
    pose: str | None,
    *,
    encoder: str = "clip",
    weights: Mapping[str, str | None],
    device: str = "auto",
    code: Collection[str] = (),
) -> list[Graph]:
    """What computes the CLIP group ``clip`` and the pose group ``pose`` of a store, as they were computed for it.

    encoder  ``video`` where ``clip`` is the group of a video model
    weights  files in place of those that the store remembers, by setting (see ``WEIGHTS``); the contents must be the
             same
    code     decoders and estimators of the user's own (``module:name``) and configs in Python that may be run: a store
             is data, which a stranger may have written

    Raises ``UsageError`` where the store names code that is not among ``code``, ``MissingError`` where a weight file is
    gone, with its name, and ``StoreError`` (``store-mismatch``) where weights, library versions or hardware of today
    give other features, with what differs.
    """
    graphs = []
    for kind, name in ((encoder, clip), ("pose", pose)):
        if name is not None:
            group = store.group(kind, name)
            config = _config(store, group, weights, device)
            for value in sorted(set(config.code().values()) - {*code, *weights.values()}):
                raise UsageError(
                    f"store {store.url} names code of its own, {value}; where you trust it, add: --code {value}"
                )
            graphs.append(make_graph(config, Path(config.root or ".")))
            _require_same(graphs[-1], group)
    return _joined(graphs)


@dataclass(frozen=True)
class Computed:
    """Features of N videos in slots 0..N-1 of a store of their own, and the commit rows of all groups by slot."""

    store: FeatureStore
    rows: Mapping[int, Sequence[CommitRow]]


class Computer:
    """Stages that are set up once, for as many videos as come."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self._graphs = graphs
        self._stages: dict[str, Any] = {b.modality.path: b.build() for graph in graphs for b in graph.branches}
        for stage in self._stages.values():
            stage.setup()

    @contextlib.contextmanager
    def __call__(self, refs: Sequence[VideoRef], class_names: Sequence[str]) -> Iterator[Computed]:
        """Features of the videos ``refs``, in slots 0, 1, ...; their paths are absolute. A video that fails is
        quarantined in the store; its neighbours do not notice."""
        with tempfile.TemporaryDirectory(prefix="vilp-features-") as folder:
            objects = open_objects(folder)
            plan = create_store(objects, make_plan(_dataset(refs, class_names), len(refs), {"root": "/"}))
            rows: dict[int, list[CommitRow]] = {ref.slot: [] for ref in refs}
            with hold(objects, WHOLE) as lease:
                writer = ShardWriter(WriteConfig(objects.url, plan.shard_len, lease))
                for graph in self._graphs:
                    for modality in graph.modalities().values():
                        add_modality(objects, plan, modality, {}, {})
                    outcomes, encoded = self._encode(graph, refs)
                    unit = Unit.whole(0, refs, tuple(graph.modalities()))
                    for committed in write_unit(writer, graph, unit, outcomes, encoded).values():
                        for row in committed:
                            rows[row.slot].append(row)
            yield Computed(FeatureStore.open(folder), rows)

    def _encode(self, graph: Graph, refs: Sequence[VideoRef]) -> tuple[list[DecodeOutcome], dict[str, list[Encoded]]]:
        outcomes: list[DecodeOutcome] = []
        encoded: dict[str, list[Encoded]] = {branch.modality.path: [] for branch in graph.branches}
        with DecodeWorker(graph.decode) as worker:
            worker.submit(refs)
            while len(outcomes) < len(refs):
                chunk = worker.result()
                if chunk.remaining:
                    worker.submit(chunk.remaining)  # is decoded while these are encoded
                clips = clips_of(chunk.results)
                for branch in graph.branches if clips else ():
                    path = branch.modality.path
                    encoded[path].append(encode(self._stages[path], branch, clips))
                outcomes += without_frames(chunk.results)
        return outcomes, encoded


def _config(store: FeatureStore, group: Group, weights: Mapping[str, str | None], device: str) -> ExtractConfig:
    """The settings that made a group, for this machine."""
    kind, record = group.modality.kind, group.modality.record
    recipe = {**group.recipe, "store": store.url, "modalities": [kind], "device": device}
    if "precision" in record:
        recipe["precision"] = record["precision"]
    for name in WEIGHTS[kind]:
        if weights.get(name):
            recipe[name] = str(weights[name])
        elif recipe[name] and Path(recipe[name]).is_absolute() and not Path(recipe[name]).is_file():
            option = "--" + name.replace("_", "-")
            raise MissingError(
                f"{recipe[name]} is gone, from which the {kind} features of the run were made; put it back, or name "
                f"where the same file is now with {option}",
                kind="missing-weights",
            )
    return ExtractConfig.from_recipe(recipe)


def _require_same(graph: Graph, group: Group) -> None:
    """Raise ``StoreError`` unless a graph computes the very numbers of a group."""
    (found,) = (branch.modality for branch in graph.branches)
    if found.path == group.path:
        return
    differing = sorted(_differences(dict(group.modality.record), dict(found.record)))
    shown = "; ".join(f"{name}: {then} then, {now} now" for name, then, now in differing[:4])
    raise StoreError(
        f"{group.path} cannot be computed here as it was for the run ({shown}); bring that back, or extract again and "
        "train on the new features",
        kind="store-mismatch",
    )


def _differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Names and values of what two records of plain JSON values disagree about."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {*then, *now}:
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif then != now and then != (list(now) if isinstance(now, tuple) else now):
        yield name, str(then)[:24], str(now)[:24]


def _joined(graphs: list[Graph]) -> list[Graph]:
    """One graph where all decode alike and the frames of each are among those of the longest."""
    if len(graphs) == 1:
        return graphs
    longest = max((graph.decode for graph in graphs), key=lambda decode: decode.num_frames)
    for graph in graphs:
        same = dataclasses.replace(graph.decode, num_frames=longest.num_frames, chunk_bytes=longest.chunk_bytes)
        if same != longest or longest.num_frames % graph.decode.num_frames:
            return graphs
    branches = [
        dataclasses.replace(branch, at=evenly(graph.decode.num_frames, longest.num_frames))
        for graph in graphs
        for branch in graph.branches
    ]
    return [Graph(longest, tuple(branches))]


def _dataset(refs: Sequence[VideoRef], class_names: Sequence[str]) -> Dataset:
    """The videos as a dataset below ``/``; their labels mean nothing."""
    videos = (
        Video(
            video_id=ref.video_id,
            path=ref.path.lstrip("/"),
            label=0,
            class_name=class_names[0],
            source=ref.path,
            splits=(TEST,),
            start=ref.start,
            end=ref.end,
            bytes=0,
            mtime_ns=0,
        )
        for ref in refs
    )
    return Dataset(
        name="new videos",
        root=Path("/"),
        class_names=tuple(class_names),
        num_splits=1,
        videos=Videos.of(videos, 1),
        missing=(),
        unlisted=(),
        licence="unknown",
        expected_videos=None,
    )
