"""Does pose help? Video and text against video, pose and text, and against every placebo, each trained from scratch.

The placebo ``same class`` is trained and shown, and does not decide. It picks poses by the label of the test video, so
it holds all that poses say of a class, which is more than a system may know. Where poses tell the class by themselves,
real ones cannot beat it, however much they help. What it does tell is whether poses must be the video's own: where real
pose beats it they must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.head.config import GUIDED, HeadConfig
from pipeline.head.data import Inputs
from pipeline.studies import STUDIES
from pipeline.studies.base import Note, StudyConfig, as_dict, outcomes, settings_of, warnings_of, without_pose
from pipeline.studies.placebos import SAME, TIME, Placebos
from pipeline.studies.report import Cell, Report, draw_gains, gain_cells, percent
from pipeline.studies.verdict import EQUIVALENT, HELPS, INCONCLUSIVE, Gain, Paired, top1

REAL, OFF = "video + pose + text", "video + text"
ONLY = {"weights": "pose in the weights only", "values": "pose in the values only"}


def study_pose(config: StudyConfig, note: Note) -> Report:
    """Train the head with the true pose, without pose and with every placebo; compare on the same test videos."""
    off = without_pose(config.head)
    job = config.job(config.head)
    found: dict[str, list[np.ndarray]] = {}
    sources = []
    splits = config.splits(job)
    for split in splits:
        placebos = Placebos(job, split)
        train, test = job.inputs(split, "train"), job.inputs(split, "test")
        note(f"split {split}: {len(train)} training and {len(test)} test videos; placebos: {', '.join(placebos.names)}")
        variants: dict[str, tuple[HeadConfig, Inputs, Inputs]] = {
            OFF: (off, train, test),
            REAL: (config.head, train, test),
        }
        fake_train, fake_test = placebos.inputs(train, "train"), placebos.inputs(test, "test")
        variants |= {name: (config.head, fake_train[name], fake_test[name]) for name in placebos.names}
        if config.head.base in GUIDED and config.head.pose_in == "both":
            variants |= {name: (replace(config.head, pose_in=where), train, test) for where, name in ONLY.items()}
        for name, (head, for_training, for_test) in variants.items():
            result = outcomes(head, job.text, for_training, for_test, config.training, config.seeds, split)
            found.setdefault(name, []).append(result)
            note(f"split {split}, {name}: top-1 {result.mean():.1%}")
        sources.append(test.sources)
    paired = Paired(sources)
    gains = {name: paired.gain(found[REAL], result) for name, result in found.items() if name != REAL}
    rivals = {name: found_gain for name, found_gain in gains.items() if name not in (SAME, *ONLY.values())}
    verdict, sentence = judge(rivals)
    rows: list[tuple[Cell, ...]] = [(REAL, percent(top1(found[REAL])), "", "", "")]
    rows += [(name, percent(top1(found[name])), *gain_cells(gains[name])) for name in gains]
    return Report(
        study="pose",
        question=STUDIES["pose"],
        verdict=verdict,
        sentences=(sentence, _own(gains[SAME]), *_where(found)),
        columns=("variant", "top-1", "gain of real pose, points", "95% interval", "verdict"),
        rows=tuple(rows),
        details={
            "gains": {name: g.to_dict() for name, g in gains.items()},
            "top1": {name: as_dict(result) for name, result in found.items()},
            "splits": splits,
        },
        settings=settings_of(config, job),
        warnings=warnings_of(job, splits),
        draw=_picture(gains, verdict, config.head.head),
    )


def judge(rivals: Mapping[str, Gain]) -> tuple[str, str]:
    """The verdict on real pose from its gains over the head without pose (``OFF``) and over every placebo.

    Pose helps only where it beats all of them (the one that knows the label is not among them); where it is equivalent
    to having none, the placebos do not matter.
    """
    losing = [name for name, found in rivals.items() if found.verdict != HELPS]
    plain = rivals[OFF]
    if not losing:
        least = min(rivals, key=lambda name: rivals[name].low)
        return HELPS, (
            f"Real pose beats {OFF} by {plain}, and every placebo that does not know the class; the nearest is "
            f"{least}, by {rivals[least]}."
        )
    if plain.verdict == EQUIVALENT:
        return EQUIVALENT, f"With pose and without it the head does the same: {plain}."
    if plain.verdict == HELPS and losing == [TIME]:
        return INCONCLUSIVE, (
            f"The head with pose beats {OFF} by {plain}, and its own poses at other moments do as well: what helps "
            "is in the video's poses, and when they are does not show."
        )
    if plain.verdict == HELPS:
        named = f"{', '.join(losing[:-1])} and {losing[-1]}" if len(losing) > 1 else losing[0]
        return INCONCLUSIVE, (
            f"The head with pose beats {OFF} by {plain}, but it does not beat {named}: something helps, and that need "
            "not be the pose."
        )
    way = " The difference goes the other way: pose hurts." if plain.high < 0 else ""
    return INCONCLUSIVE, f"These videos do not show that pose helps: {plain} over {OFF}.{way}"


def _own(found: Gain) -> str:
    """What the oracle says, which gives a test video the poses of another one of its class."""
    if found.verdict == HELPS:
        return f"Over poses of other videos of the same class real ones gain {found}: it takes the video's own."
    return (
        f"Over poses of other videos of the same class, which only who knows the class can pick, real ones gain "
        f"{found}: what poses say of a class may be all that counts."
    )


def _where(found: Mapping[str, Sequence[np.ndarray]]) -> tuple[str, ...]:
    """Where the pose acts, of the heads that can tell."""
    parts = [f"{name} {top1(found[name]):.1%}" for name in ONLY.values() if name in found]
    return (f"Where it acts: in both {top1(found[REAL]):.1%}, {', '.join(parts)}.",) if parts else ()


def _picture(gains: Mapping[str, Gain], verdict: str, head: str) -> Callable[[object], None]:
    title = f"{head}: real pose against each alternative (verdict: {verdict})"
    return draw_gains(gains, title, "gain of real pose in top-1, points (95% interval, clustered by source)")
