"""Does pose help with every image encoder (``backbone``), or with every pose estimator (``estimators``), of a store?"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.head.config import ENCODERS, LATE_POSE, VIDEO_HEADS
from pipeline.head.selection import open_store
from pipeline.studies import STUDIES
from pipeline.studies.base import CAVEAT, Note, StudyConfig, as_dict, outcomes, settings_of, warnings_of, without_pose
from pipeline.studies.report import Cell, Report, draw_gains, gain_cells, percent
from pipeline.studies.seen import compare, look
from pipeline.studies.verdict import EQUIVALENT, HELPS, INCONCLUSIVE, Gain, gain, top1
from store.errors import MissingError, UsageError
from store.groups import of_kind
from store.printable import command
from store.reader import FeatureStore


def study_backbone(config: StudyConfig, note: Note) -> Report:
    """With every CLIP model and, where the head can do without words and patch tokens, every video model."""
    able, store = config.head.base in VIDEO_HEADS, open_store(config.store)
    left_out = ", ".join([] if able else _ids(store, ("video",)))
    why = f"head {config.head.head} reads words or patch tokens, which video models do not give"
    other = f"--head {VIDEO_HEADS[0]}{LATE_POSE}"
    if left_out and len(_ids(store, ("clip",))) < 2:
        raise UsageError(f"{why}, so {left_out} of {store.url} has no rival there; give {other}")
    report = _study("backbone", ENCODERS if able else ("clip",), "encoder", config, note)
    if not left_out:
        return report
    sentence = f"Left out: {left_out}; {why}. Compare them with {other}."
    return dataclasses.replace(report, sentences=(*report.sentences, sentence))


def study_estimators(config: StudyConfig, note: Note) -> Report:
    """With what each estimator sees in the videos that all of them have, and how far they agree."""
    report = _study("estimators", ("pose",), "pose estimator", config, note)
    store = open_store(config.store)
    groups = [store.group("pose", str(row[0])) for row in report.rows]
    slots = store.usable([store.group("clip", config.clip), *groups])
    if not slots:
        raise MissingError(f"no video of {store.url} has poses in all of its groups; finish the extraction")
    seen = {group.modality.id: look(store, group, slots, clip=config.clip) for group in groups}
    agreement = {
        f"{a.modality.id} / {b.modality.id}": compare(store, a, b, slots) for a, b in itertools.combinations(groups, 2)
    }
    views = next(iter(seen.values())).inside
    facts = [
        (
            f"{found.detection_rate:.1%}",
            f"{found.persons:.2f}",
            *(f"{found.inside[view]:.1%}" for view in views),
            f"{1000 * found.frame_seconds:.1f}",
        )
        for found in seen.values()
    ]
    agreeing = "; ".join(f"{pair}: {value:.2f}" for pair, value in agreement.items())
    return dataclasses.replace(
        report,
        sentences=(*report.sentences, f"Agreement of the persons found, by object keypoint similarity: {agreeing}."),
        columns=(
            *report.columns,
            "frames with a person",
            "persons a frame",
            *(f"joints in {view}" for view in views),
            "ms a frame",
        ),
        rows=tuple((*row, *more) for row, more in zip(report.rows, facts, strict=True)),
        details={
            **report.details,
            "seen": {name: dataclasses.asdict(found) for name, found in seen.items()},
            "agreement": agreement,
        },
    )


def _study(name: str, kinds: Sequence[str], what: str, config: StudyConfig, note: Note) -> Report:
    """The gain of the head over itself without pose, with each group of some kinds in turn."""
    without_pose(config.head)  # raises where there is no such head
    ids = _groups(config, kinds, what)
    rows: list[tuple[Cell, ...]] = []
    gains: dict[str, Gain] = {}
    details: dict[str, Any] = {}
    warnings: list[str] = []
    for group, kind in ids.items():
        job = config.job(config.head, **{kind: group})
        splits = config.splits(job)
        real: list[np.ndarray] = []
        plain: list[np.ndarray] = []
        sources = []
        for split in splits:
            train, test = job.inputs(split, "train"), job.inputs(split, "test")
            for head, results in ((job.config, real), (without_pose(job.config), plain)):
                results.append(outcomes(head, job.text, train, test, config.training, config.seeds, split))
            sources.append(test.sources)
            note(f"{group}, split {split}: {plain[-1].mean():.1%} without pose, {real[-1].mean():.1%} with it")
        gains[group] = gain(real, plain, sources)
        details[group] = {"with pose": as_dict(real), "without": as_dict(plain), **gains[group].to_dict()}
        warnings += warnings_of(job, splits)
        rows.append((group, percent(top1(plain)), percent(top1(real)), *gain_cells(gains[group])))
    verdict = common_verdict(list(gains.values()))
    each = ", ".join(f"{group}: {found}" for group, found in gains.items())
    return Report(
        study=name,
        question=STUDIES[name],
        verdict=verdict,
        sentences=(f"With {len(ids)} {what}s: {each}.", CAVEAT),
        columns=(what, "without pose", "with pose", "gain, points", "95% interval", "verdict"),
        rows=tuple(rows),
        details=details,
        settings=settings_of(config, job, groups=list(ids)),
        warnings=tuple(dict.fromkeys(warnings)),
        draw=draw_gains(
            gains, f"{config.head.head}: gain of pose by {what} (verdict: {verdict})", "gain in top-1, points"
        ),
    )


def common_verdict(gains: Sequence[Gain]) -> str:
    """What holds for all of several gains."""
    verdicts = {found.verdict for found in gains}
    return verdicts.pop() if verdicts in ({HELPS}, {EQUIVALENT}) else INCONCLUSIVE


def _ids(store: FeatureStore, kinds: Sequence[str]) -> dict[str, str]:
    """The groups of some kinds: the kind of each by its id."""
    return {group.modality.id: kind for kind in kinds for group in of_kind(store.groups, kind)}


def _groups(config: StudyConfig, kinds: Sequence[str], what: str) -> dict[str, str]:
    store = open_store(config.store)
    ids = _ids(store, kinds)
    if len(ids) < 2:
        kind = kinds[-1]
        flag = {"clip": "--clip MODEL", "video": "--video MODEL", "pose": "--pose BACKEND"}[kind]
        raise MissingError(
            f"{store.url} has {len(ids)} {what}s and this study compares several; add one with: "
            f"{command('extract', '--store', store.url, '--modality', kind)} {flag}",
            kind="missing-modality",
        )
    return ids
