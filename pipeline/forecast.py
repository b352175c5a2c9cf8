"""What an extraction would do, before it does it: ``extract --dry-run``. Nothing is written into the store."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ExtractConfig
from pipeline.datasets import Dataset, default_root, load_dataset
from pipeline.engines.sizing import Sizing, cpus, machine_memory
from pipeline.extraction import find_work
from pipeline.graph import make_graph
from pipeline.plan import Work, compare, dataset_seed, make_plan, update_plan
from pipeline.probe import Probe, probe, spread, videos_wanted
from stages.types import VideoRef
from store.errors import VideoError
from store.layout import STORE
from store.objects import is_remote, open_objects
from store.plan import read_plan
from store.schema import Modality
from store.sealed import get_sealed
from store.writer import check_place

# The videos to measure are taken from at most so many shards, from all over the work.
_SHARDS = 32


@dataclass(frozen=True)
class GroupForecast:
    """A group that the run would fill: videos that it lacks, and the bytes of their arrays."""

    path: str
    videos: int
    bytes: int


@dataclass(frozen=True)
class Forecast:
    """What an extraction would do.

    planned, missing   videos of the plan; listed videos that are not on the disk
    new, gone          videos that are on the disk and not in the plan of a store that exists, and the other way round
    to_do, shards      videos and shards that have work left, for this part and limit
    bytes              of arrays to write, all groups together; ``free_bytes`` are free where they go, None in a bucket
    lanes              shards that this machine works on at once
    frame_bytes        of decoded frames in flight, at the most, over all lanes
    unit_bytes         of features that a lane holds until it writes
    probe              None where nothing is left to do, or where ``notes`` say why
    seconds            shortest and longest time on this machine alone: with all stages at once, and one after the
                       other, as it is where they share the cores of a CPU
    """

    store: str
    dataset: str
    planned: int
    missing: int
    new: int
    gone: int
    to_do: int
    shards: int
    groups: tuple[GroupForecast, ...]
    bytes: int
    free_bytes: int | None
    lanes: int
    frame_bytes: int
    unit_bytes: int
    probe: Probe | None
    seconds: tuple[float, float] | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def forecast(config: ExtractConfig, *, measure: bool = True) -> Forecast:
    """What ``extract`` would do with this configuration; ``measure`` decodes and encodes a few of its videos.

    Raises what ``extract`` raises for settings that cannot be, and for videos and weights that are not there.
    """
    objects = open_objects(config.store_url)
    with _listed(config, dataset_seed(objects, config.seed)) as (dataset, bring):
        graph = make_graph(config, dataset.root)
        check_place(objects)
        new, gone = 0, np.empty(0, np.int64)
        if get_sealed(objects, STORE) is None:
            plan = make_plan(dataset, config.shard_len, config.recipe())
        else:
            plan = read_plan(objects)
            changes = compare(plan, dataset)
            new, gone = len(changes.added), changes.gone(plan)
            plan = update_plan(plan, dataset, changes) if config.update else plan
        work = find_work(objects, plan, graph, dataset.root, config, gone)
        groups = tuple(
            GroupForecast(path, int(work.left[path].sum()), int(work.left[path].sum()) * _bytes_a_video(modality))
            for path, modality in graph.modalities().items()
        )
        sizing = Sizing.of(config, graph)
        lanes = sizing.lanes(cpus(), machine_memory())
        measured, notes = None, list(sizing.warnings)
        if measure and work.num_videos:
            refs = spread(_candidates(work), videos_wanted(graph))
            try:
                bring(refs)
                measured = probe(graph, refs)
            except VideoError as error:
                notes.append(f"no time can be told: {error}")
        if config.ray_address:
            notes.append("times are those of this machine alone, not of the cluster")
        return Forecast(
            store=objects.url,
            dataset=plan.dataset,
            planned=plan.videos.num_rows,
            missing=len(dataset.missing),
            new=new,
            gone=len(gone),
            to_do=work.num_videos,
            shards=len(work.shards),
            groups=groups,
            bytes=sum(group.bytes for group in groups),
            free_bytes=None if is_remote(objects.url) else free_bytes(Path(objects.url)),
            lanes=lanes,
            frame_bytes=lanes * sizing.lane_bytes,
            unit_bytes=sizing.unit_bytes,
            probe=measured,
            seconds=None if measured is None else _seconds(config, measured, work.num_videos, lanes),
            notes=tuple(notes),
        )


def _candidates(work: Work) -> list[VideoRef]:
    return [ref for unit in work.only(spread(work.shards, _SHARDS)) for ref in unit.refs]


def _bytes_a_video(modality: Modality) -> int:
    return sum(spec.nbytes for spec in modality.arrays.values())


def _seconds(config: ExtractConfig, measured: Probe, videos: int, lanes: int) -> tuple[float, float]:
    """Stages run side by side, but where they compute on the CPU they share its cores."""
    cores = cpus()
    walls = dict(measured.stage_seconds)
    walls["decode"] /= min(lanes, cores)
    longest = sum(walls.values())
    shortest = longest if _on_cpu(config.device) else max(walls.values())
    return (measured.setup_seconds + videos * shortest, measured.setup_seconds + videos * longest)


def _on_cpu(device: str) -> bool:
    import torch

    return device == "cpu" or not torch.cuda.is_available()


def free_bytes(path: Path) -> int:
    """Free bytes where a path is, or would be made."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


@contextlib.contextmanager
def _listed(config: ExtractConfig, seed: int) -> Iterator[tuple[Dataset, Callable[[Collection[VideoRef]], None]]]:
    """The dataset, and a function that makes sure that some of its videos are on the disk. The synthetic set is not
    rendered for a forecast: it is described, and what is measured is rendered into a temporary folder."""
    if config.dataset == "synthetic":
        from pipeline.datasets import synthetic

        root = Path(config.root or default_root("synthetic"))
        if synthetic.read_recipe(root) is None:
            with tempfile.TemporaryDirectory(prefix="vilp-forecast-") as folder:
                yield (
                    synthetic.preview(Path(folder), seed),
                    lambda refs: synthetic.render_sample(
                        Path(folder), seed=seed, video_ids={ref.video_id for ref in refs}
                    ),
                )
            return
    yield load_dataset(config.dataset, config.root, splits_dir=config.splits, seed=seed), lambda refs: None
