"""The clips that the benchmark runs on: real ones where there are some, else rendered ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets import load_dataset
from stages.decode import decode_video
from stages.types import Clip, VideoRef


@dataclass(frozen=True)
class ClipSet:
    """The first videos of a dataset, and single clips beside it that are decoded only."""

    dataset: str
    root: Path
    paths: tuple[Path, ...]
    singles: tuple[Path, ...]
    what: str

    def decoded(self, count: int, frames: int) -> list[Clip]:
        """The first ``count`` videos, ``frames`` frames of each."""
        return [
            Clip(VideoRef(slot, path.stem, str(path)), decode_video(path, frames))
            for slot, path in enumerate(self.paths[:count])
        ]


def find_clips(videos: int, folder: Path) -> ClipSet:
    """At most ``videos`` clips: UCF101 of ``$VILP_SHARED`` or ``../shared``, else a set rendered into ``folder``."""
    shared = Path(os.environ.get("VILP_SHARED", "../shared")).resolve() / "data"
    if (shared / "ucf101-mini").is_dir():
        # XviD with B-frames, as all of HMDB51 is: where seeking decoders go wrong.
        singles = tuple(sorted((shared / "clips" / "hmdb51").glob("*.avi")))
        return _of("ucf101", shared / "ucf101-mini", videos, singles, "real clips of UCF101")
    return render_clips(videos, folder)


def render_clips(videos: int, folder: Path) -> ClipSet:
    """At most ``videos`` clips of people, rendered into ``folder``."""
    from pipeline.datasets.synthetic import CLASSES, SyntheticConfig, render_dataset

    subjects = 3
    config = SyntheticConfig(num_subjects=subjects, clips=-(-videos // (subjects * len(CLASSES))))
    render_dataset(folder, config=config)
    return _of("synthetic", folder, videos, (), "rendered clips")


def _of(name: str, root: Path, videos: int, singles: tuple[Path, ...], what: str) -> ClipSet:
    dataset = load_dataset(name, root)
    paths = tuple(dataset.root / video.path for video in dataset.videos[:videos])
    return ClipSet(name, root, paths, singles, f"{len(paths)} {what}")
