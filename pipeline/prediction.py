"""From video files to classes: the features that ``extract`` would give, and the heads of a run on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compute import Computer, recorded_graphs
from pipeline.datasets.base import scan_videos
from pipeline.figure import MAX_STRIPS, Strip, draw_strips
from pipeline.graph import Graph
from pipeline.head.checkpoint import open_run
from pipeline.head.fused import FusedRun, is_fused, read_fused
from pipeline.head.job import store_of
from pipeline.head.results import RunResult
from pipeline.head.selection import Selection, needs_encoder
from pipeline.inspection import best_classes, matching, strips, video_root, with_verdicts
from pipeline.judging import Judgement, heads_of, judge, judge_together
from pipeline.progress import Progress
from stages.device import resolve_device
from stages.types import VideoRef
from store.commits import PARTIAL, QUARANTINED, CommitRow
from store.errors import UnwrittenError, UsageError
from store.reader import FeatureStore

# Videos whose features are held at once: 135 MB of them with ViT-B/16 and 16 frames.
BATCH = 64
NOT_CALIBRATED = "scores are the softmax of the head's logits, which nothing has calibrated: they rank classes"


@dataclass(frozen=True)
class Predicted:
    """What is said of one video: the best classes with scores in [0, 1], best first; or, where ``error_kind`` is not
    empty, why nothing can be said (see ``store.errors``). ``partial``: far fewer frames decode than the file claims."""

    path: str
    classes: tuple[tuple[str, float], ...] = ()
    partial: bool = False
    error_kind: str = ""
    error_message: str = ""


@dataclass(frozen=True)
class Predictions:
    """What the heads of a run say of videos, in the order in which those were given.

    scores    float32 [N, C], NaN for a video that failed
    warnings  what a reader of the scores has to know
    """

    run: str
    head: str
    class_names: tuple[str, ...]
    videos: tuple[Predicted, ...]
    scores: np.ndarray
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        videos = [{**asdict(v), "classes": [{"name": n, "score": s} for n, s in v.classes]} for v in self.videos]
        return {"run": self.run, "head": self.head, "warnings": list(self.warnings), "videos": videos}


def predict(
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    run: str | os.PathLike[str] | RunResult,
    store: str | os.PathLike[str] | None = None,
    split: int | None = None,
    top: int = 5,
    device: str = "auto",
    weights: dict[str, str | None] | None = None,
    figure: str | os.PathLike[str] | None = None,
    code: Collection[str] = (),
    progress: Progress | None = None,
) -> Predictions:
    """Classify video files.

    videos   files, and folders, which stand for all videos below them
    run      directory of a training run, or its record, or of a late fusion (see ``pipeline.head.fused``); everything
             else follows from it
    store    where the store of the run (or of both) is now; it tells how features are computed, and none of its
             features are read
    split    whose heads to ask, those of all its seeds; the first of the run unless given
    top      how many classes to name
    device   ``auto`` takes a GPU if there is one
    weights  files in place of those that the store remembers, by setting: ``clip_pretrained``, ``video_pretrained``,
             ``det_weights``, ``pose_weights``, ``pose_config``
    figure   a PNG with a strip a video, for the first 48 at most of those that did not fail
    code     decoders and estimators (``module:name``) that the store names and that may be run

    A video that cannot be used costs itself. CLIP is computed where a head reads more than skeletons, and for a figure,
    which draws its frames. Raises ``UsageError`` where no file is named or the store names code that
    ``code`` does not, ``MissingError`` where run, store or weights are gone (and says which file), ``StoreError`` where
    this machine gives other features than those that the heads were trained on.
    """
    progress = progress or Progress()
    if top < 1:
        raise UsageError(f"top is {top}; allowed: 1 or more classes")
    fused = read_fused(run) if not isinstance(run, RunResult) and is_fused(run) else None
    runs = list(fused.runs) if fused else [open_run(run)]
    recorded, places = runs[0], [store_of(of, store) for of in runs]
    files = find_files([videos] if isinstance(videos, str | os.PathLike) else list(videos))
    selections = [matching(of, place) for of, place in zip(runs, places, strict=True)]
    if figure is not None and selections[0].clip_id is None and selections[0].pose is None:
        raise UsageError("figure draws the frames of CLIP or of poses, and the run's head reads neither; leave it out")
    if figure is None and not any(needs_encoder(of.config) for of in runs):
        # Heads that read skeletons alone; what CLIP says of the same videos would be computed for nothing.
        runs = [replace(of, selection=replace(of.selection, clip=None)) for of in runs]
        selections = [replace(one, clip=None) for one in selections]
    graphs = _graphs(places, selections, weights=weights or {}, device=device, code=code)
    ask = _asker(fused, runs, split, str(resolve_device(device)))
    known = _known_ids(places[0])
    computer = Computer(graphs)
    said: list[Predicted] = []
    scores: list[np.ndarray] = []
    drawn: list[Strip] = []
    progress.begin("predicting", len(files))
    for first in range(0, len(files), BATCH):
        batch = files[first : first + BATCH]
        paths = [os.path.abspath(path) for path in batch]
        refs = [VideoRef(slot, known.get(path, batch[slot]), path) for slot, path in enumerate(paths)]
        with computer(refs, recorded.class_names) as computed:
            judgement = ask(computed.store)
            if figure is not None and len(drawn) < MAX_STRIPS:
                drawn += _strips(computed.store, judgement, recorded, top, code)
        by_slot = np.full((len(batch), len(recorded.class_names)), np.nan, np.float32)
        by_slot[judgement.slots] = judgement.scores
        scores.append(by_slot)
        said += [_predicted(path, by_slot[slot], computed.rows[slot], recorded, top) for slot, path in enumerate(batch)]
        progress.advance(len(batch))
    progress.end()
    result = Predictions(
        run=str((fused or recorded).directory or ""),
        head=" with ".join(of.config.head for of in runs),
        class_names=recorded.class_names,
        videos=tuple(said),
        scores=np.concatenate(scores),
        warnings=(NOT_CALIBRATED, *(line for line in recorded.warnings if "random weights" in line)),
    )
    if figure is not None and drawn:
        try:
            draw_strips(drawn[:MAX_STRIPS], Path(figure))
        except UnwrittenError as error:
            error.result = result
            raise
    return result


def _asker(
    fused: FusedRun | None, runs: Sequence[RunResult], split: int | None, device: str
) -> Callable[[FeatureStore], Judgement]:
    """Asks the heads of a split of a run, or of the two runs of a fusion, about the videos of a store."""
    if fused is None:
        (run,), heads = runs, heads_of(runs[0], split)
        return lambda store: judge(store, matching(run, store), run, heads, device=device)
    pairs, weight = fused.heads(split)
    return lambda store: judge_together(
        store, [matching(run, store) for run in runs], runs, pairs, weight, device=device
    )


def _graphs(places: Sequence[FeatureStore], selections: Sequence[Selection], **how: Any) -> list[Graph]:
    """What computes all that some runs read, each group once."""
    graphs: list[Graph] = []
    both = sorted(zip(places, selections, strict=True), key=lambda pair: pair[1].pose is None)  # most first
    for place, selection in both:
        made = {path for graph in graphs for path in graph.modalities()}
        found = recorded_graphs(place, selection.clip, selection.pose, encoder=selection.encoder, **how)
        graphs += [graph for graph in found if not set(graph.modalities()) <= made]
    return graphs


def find_files(given: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that are named, and the videos below the folders that are named, each once, in order.

    A file need not exist: it costs itself later. Raises ``UsageError`` where nothing is left, and for a name that is
    not UTF-8.
    """
    files: list[str] = []
    for item in (os.fspath(path) for path in given):
        if os.path.isdir(item):
            files += [os.path.join(item, path) for path in scan_videos(Path(item))]
            continue
        try:
            item.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the name of {item!r} is not UTF-8; rename the file") from None
        files.append(item)
    if not files:
        named = ", ".join(map(repr, given)) or "nothing"
        raise UsageError(f"no video to predict: {named} holds no video file; name files, or folders with videos")
    return list(dict.fromkeys(files))


def _predicted(path: str, scores: np.ndarray, rows: Sequence[CommitRow], run: RunResult, top: int) -> Predicted:
    failed = next((row for row in rows if row.status == QUARANTINED), None)
    if failed is not None:
        return Predicted(path, error_kind=failed.error_kind, error_message=failed.error_message)
    partial = any(row.status == PARTIAL for row in rows)
    return Predicted(path, best_classes(scores, run.class_names, top), partial)


def _strips(store: FeatureStore, judgement: Judgement, run: RunResult, top: int, code: Collection[str]) -> list[Strip]:
    if not len(judgement):
        return []
    slots = [int(slot) for slot in judgement.slots]
    made = strips(store, slots, frames=run.selection.frames, config=run.config, code=code)
    named = [
        replace(strip, title=os.path.basename(path)) for strip, path in zip(made, _paths(store, slots), strict=True)
    ]
    return with_verdicts(named, slots, run, judgement, None, top)


def _paths(store: FeatureStore, slots: Sequence[int]) -> list[str]:
    paths = store.videos["path"].to_pylist()
    return [paths[slot] for slot in slots]


def _known_ids(store: FeatureStore) -> dict[str, str]:
    """Ids of the store's own videos by absolute path: poses that were computed elsewhere are found by id. A clip that
    was cut out of a longer file is not that file."""
    root = os.path.abspath(video_root(store))
    rows = store.videos.select(["path", "video_id", "start", "end"]).to_pylist()
    whole = [row for row in rows if row["start"] is None and row["end"] is None]
    return {os.path.join(root, row["path"]): row["video_id"] for row in whole}
