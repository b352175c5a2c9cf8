"""Does pose help on a dataset that the head was not trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.head.data import load_inputs
from pipeline.head.job import Job, chosen_splits
from pipeline.head.metrics import hits
from pipeline.head.protocols import retarget
from pipeline.head.selection import encoder_record, load_side, open_store, select
from pipeline.head.train import Run, fit_runs, new_head, predict
from pipeline.studies import STUDIES
from pipeline.studies.base import CAVEAT, Note, StudyConfig, as_dict, settings_of, warnings_of, without_pose
from pipeline.studies.report import Cell, Report, draw_gains, gain_cells, percent
from pipeline.studies.verdict import gain, top1
from store.errors import StoreError, UsageError
from store.groups import of_kind
from store.reader import FeatureStore


def study_transfer(config: StudyConfig, note: Note) -> Report:
    """Train on splits of one dataset, take the text stream to the classes of another, and test on all its videos."""
    if config.to is None:
        raise UsageError("to is not given; name the store of another dataset with --to")
    off = without_pose(config.head)
    if not config.head.zero_shot:
        raise UsageError(f"head is {config.head.head!r}, which cannot go to other classes; give --head pvcs or fuse")
    job, target = config.job(config.head), open_store(config.to)
    if target.class_names == job.store.class_names:
        raise UsageError(f"to is {target.url}, which has the same classes; name a store of another dataset")
    stream = config.head.text_stream
    selection = select(target, stream, frames=config.frames, clip=_same_model(job, target), pose=config.pose)
    text = load_side(target, selection, config.head)
    test = load_inputs(target, selection, stream, split=None, subset=None, device=job.device)
    labels = test.labels.cpu().numpy()
    splits = chosen_splits(job.store, config.split)  # which may have no test videos: others are tested
    plain = new_head(off.text_stream, test.only(off.text_stream.inputs), text)
    untrained = np.stack([hits(predict(plain, test.only(off.text_stream.inputs)).numpy(), labels)] * config.seeds)
    results: dict[str, list[np.ndarray]] = {"untrained, video + text": [untrained] * len(splits)}
    for split in splits:
        train = job.inputs(split, "train")
        note(f"split {split}: training on {len(train)} videos of {job.store.dataset_name}")
        for name, head in (("video + text", off), ("video + pose + text", config.head)):
            inputs, every = train.only(head.inputs), torch.arange(len(train))
            runs = [
                Run(new_head(head, inputs, job.text, seed=seed), every, split, seed) for seed in range(config.seeds)
            ]
            fit_runs(runs, inputs, config.training)
            moved = [retarget(run.head, text).to(job.device) for run in runs]
            tests = test.only(head.text_stream.inputs)
            found = np.stack([hits(predict(one, tests).numpy(), labels) for one in moved])
            results.setdefault(name, []).append(found)
            note(f"split {split}, {name}: top-1 {found.mean():.1%} on {len(test)} videos of {target.dataset_name}")
    # Every split's heads are tested on the same videos, so a source is drawn for all of them at once.
    real, sources = results["video + pose + text"], [test.sources] * len(splits)
    gains = {name: gain(real, other, sources) for name, other in results.items() if other is not real}
    plain_gain = gains["video + text"]
    rows: list[tuple[Cell, ...]] = [("video + pose + text", percent(top1(real)), "", "", "")]
    rows += [(name, percent(top1(results[name])), *gain_cells(found_gain)) for name, found_gain in gains.items()]
    return Report(
        study="transfer",
        question=STUDIES["transfer"],
        verdict=plain_gain.verdict,
        sentences=(
            f"Trained on {job.store.dataset_name}, tested on {target.dataset_name} without training there: pose gives "
            f"{plain_gain}.",
            CAVEAT,
        ),
        columns=("head", f"top-1 on {target.dataset_name}", "gain of pose, points", "95% interval", "verdict"),
        rows=tuple(rows),
        details={
            "gains": {name: g.to_dict() for name, g in gains.items()},
            "top1": {name: as_dict(result) for name, result in results.items()},
        },
        settings=settings_of(config, job, target=selection.to_dict()),
        warnings=warnings_of(job, splits),
        draw=draw_gains(
            gains,
            f"{config.head.head}, {job.store.dataset_name} to {target.dataset_name} (verdict: {plain_gain.verdict})",
            "gain of pose in top-1, points",
        ),
    )


def _same_model(job: Job, target: FeatureStore) -> str:
    """The id of the CLIP group of ``target`` that was made as the job's was: the same one where both stores have it."""
    clips, own = of_kind(target.groups, "clip"), job.selection.clip
    wanted = _model(encoder_record(job.store, job.selection))
    alike = [group.modality.id for group in clips if _model(group.modality.record) == wanted]
    if not alike:
        listed = ", ".join(group.modality.id for group in clips) or "none"
        raise StoreError(
            f"{job.store.url} has features of {own} and {target.url} has {listed}; "
            "extract both with the same CLIP model and settings",
            kind="store-mismatch",
        )
    return own if own in alike else alike[0]


def _model(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a CLIP group says of its model, its input and its precision: all but which tokens it keeps besides, and
    what of the last block is therefore left out."""
    kept = ("tokens", "last_block", "grid", "penult_norm")
    return {name: value for name, value in record.items() if name not in kept}
