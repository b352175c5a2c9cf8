"""What a head is trained and tested on, checked before any work: a store as it is, or as a run knows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from pipeline.head import data
from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.results import RunResult
from pipeline.head.selection import Selection, load_side, open_store, recorded_texts, select, text_sets, usable_slots
from pipeline.head.text import TextSide
from pipeline.head.train import TrainConfig
from stages.device import resolve_device
from store.errors import MissingError, StoreError, UsageError, one_of
from store.groups import of_kind
from store.printable import command
from store.reader import SUBSETS, FeatureStore


@dataclass(frozen=True)
class Job:
    """What a head is trained and tested on: a store, the head's settings, the features it reads, a device."""

    store: FeatureStore
    config: HeadConfig
    selection: Selection
    device: str

    @cached_property
    def text(self) -> TextSide:
        """The class names, through the text tower. Trained heads hold their own, so that testing one reads none."""
        return load_side(self.store, self.selection, self.config)

    def inputs(
        self,
        split: int | None,
        subset: str | None,
        *,
        every_frame: bool = False,
        slots: Sequence[int] | None = None,
    ) -> Inputs:
        """What the head reads of one subset of a split, or of all videos: see ``pipeline.head.data.load_inputs``."""
        return data.load_inputs(
            self.store,
            self.selection,
            self.config,
            split=split,
            subset=subset,
            device=self.device,
            every_frame=every_frame,
            slots=slots,
        )


def make_job(
    store: FeatureStore | str | os.PathLike[str],
    head: str | HeadConfig,
    *,
    frames: int = 8,
    device: str = "auto",
    clip: str | None = None,
    pose: str | None = None,
    text: str | None = None,
    video: str | None = None,
) -> Job:
    """Check that a head can be trained on a store; see ``train_head`` for the arguments and what is raised."""
    opened = open_store(store)
    config = head if isinstance(head, HeadConfig) else HeadConfig(head=head)
    if video is not None:
        if clip is not None:
            raise UsageError(f"clip is {clip!r} and video is {video!r}; a head reads one encoder: give one of them")
        config = replace(config, encoder="video")
    where = str(resolve_device(device))
    if len(opened.class_names) < 2:
        raise UsageError(
            f"{opened.url} has one class, {opened.class_names[0]!r}; a head needs two or more to tell apart"
        )
    selection = select(opened, config, frames=frames, clip=clip if video is None else video, pose=pose, text=text)
    job = Job(opened, config, selection, where)
    job.text  # noqa: B018 (raises where it cannot be read)
    return job


def run_job(
    run: RunResult,
    store: FeatureStore | str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    config: HeadConfig | None = None,
    views: Sequence[str] | None = None,
    allow_mismatch: bool = False,
    other_videos: bool = False,
) -> Job:
    """What the heads of a run read, with the same groups, in the store that it was trained from or in ``store``.

    config          another head than that of the run
    views           stored views, those of the run unless given
    allow_mismatch  take whatever groups the store has
    other_videos    the store is one of another dataset, so its numbers differ

    Raises ``MissingError`` where the store is gone, ``StoreError`` (``store-mismatch``) where it has other features.
    """
    opened, config = store_of(run, store), config or run.config
    selection = _matching_selection(run, opened, config, allow_mismatch, views=views, other_videos=other_videos)
    return Job(opened, config, selection, str(resolve_device(device)))


def store_of(run: RunResult, store: FeatureStore | str | os.PathLike[str] | None = None) -> FeatureStore:
    """The store that a run was trained from: where it was then, unless ``store`` says where it is now. Raises
    ``MissingError`` where there is none."""
    place = run.selection.store if store is None else store
    try:
        return open_store(place)
    except StoreError as error:
        if error.kind != "store-missing":
            raise
        raise MissingError(
            f"no store at {place}, from which the run was trained; where it moved, name its place with --store to "
            "evaluate and predict, or put it back",
            kind="missing-data",
        ) from None


def check_epochs(config: HeadConfig, training: TrainConfig) -> None:
    """Raise ``UsageError`` for zero-shot with a head in which no words meet frames."""
    if training.epochs == 0 and not config.zero_shot:
        raise UsageError(
            f"epochs is 0 (zero-shot) and head {config.head!r} compares no frames with words; "
            "give --epochs 1 or more, or --head vcs"
        )
    if training.loss == "in-batch" and not config.reads_text:
        raise UsageError(f"loss is in-batch, which needs class names, and head {config.head!r} reads none")


def chosen_splits(store: FeatureStore, split: int | str) -> list[int]:
    """The numbers that ``split`` names: one, or those of ``"all"``."""
    if store.num_splits == 0:
        raise MissingError(f"{store.url} has no splits; extract with --splits or a manifest with a split column")
    if split == "all":
        return list(range(1, store.num_splits + 1))
    allowed: tuple[object, ...] = (*range(1, store.num_splits + 1), "all")
    number = int(split) if isinstance(split, str) and split.isdecimal() else split
    one_of("split", number, allowed)
    return [int(number)]


def check_videos(job: Job, splits: Sequence[int]) -> None:
    """Raise ``MissingError`` where a split has no videos to train or to test on: before hours of work, not after."""
    store, usable = job.store, set(usable_slots(job.store, job.selection))
    for split, subset in product(splits, SUBSETS):
        slots = store.selected(split, subset)
        if not slots:
            what = "training" if subset == "train" else "test"
            raise MissingError(
                f"split {split} of {store.url} has no {what} videos; name another --split, or list some for it and run "
                f"{command('extract', '--store', store.url, '--update')}"
            )
        if usable.isdisjoint(slots):
            raise data.no_features(store, f"{subset} of split {split}")


def _matching_selection(
    run: RunResult,
    store: FeatureStore,
    config: HeadConfig,
    allow_mismatch: bool,
    *,
    views: Sequence[str] | None,
    other_videos: bool,
) -> Selection:
    """What ``config`` reads in ``store``: see ``run_job``."""
    wanted = run.selection
    clips, poses = ([g.modality.id for g in of_kind(store.groups, kind)] for kind in (wanted.encoder, "pose"))
    if wanted.clip is not None and wanted.clip not in clips and not allow_mismatch:
        raise StoreError(
            f"the run was trained on features of {wanted.clip} and {store.url} has {', '.join(clips) or 'none'}; "
            "evaluate on the store it was trained from, or train again",
            kind="store-mismatch",
        )
    there = wanted.clip in (None, *clips) and wanted.pose in (None, *poses)
    texts = recorded_texts(store, wanted) if there and not other_videos else None
    if texts is None and not other_videos and not allow_mismatch:
        raise StoreError(
            f"the features in {store.url} are not those that the run was trained on (fingerprint "
            f"{wanted.fingerprint[:12]}); train again, or give --allow-mismatch to evaluate",
            kind="store-mismatch",
        )
    if wanted.text is None:
        text = texts[0] if texts else None
    else:
        text = wanted.text if there and not other_videos and wanted.text in text_sets(store, wanted) else None
    selection = select(
        store,
        config,
        frames=wanted.frames,
        clip=wanted.clip if wanted.clip in clips else None,
        pose=wanted.pose if wanted.pose in poses else None,
        text=text,
        views=views or (None if other_videos else wanted.views),
    )
    return selection if texts is None else replace(selection, fingerprint=wanted.fingerprint)


def check_sizes(run: RunResult, test: Inputs, store: FeatureStore) -> None:
    """Raise ``UsageError`` where the head cannot read the inputs; possible only where a mismatch is allowed."""
    expected = {"frames": run.sizes.dim, "tokens": run.sizes.width}
    for name, size in expected.items():
        found = test.tensors[name].shape[-1] if name in test.tensors else size
        if found != size:
            raise UsageError(
                f"the run's head reads {name} {size} wide and {store.url} has them {found} wide; evaluate on features "
                f"of {run.selection.clip}"
            )
