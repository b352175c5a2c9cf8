"""A picture of what a store knows of one video: its frames with skeletons, and the heatmap on the token grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import load_dataset
from stages.decode import decode_video
from stages.geometry import crop_of, to_view
from stages.heatmap import render
from stages.pose.base import COCO_LIMBS
from store.errors import UsageError
from store.reader import FeatureStore

COLOURS = ("tab:orange", "tab:cyan", "tab:pink", "tab:olive")


def draw_video(store: FeatureStore, video_id: str, path: Path, *, frames: int = 8, sigma: float = 0.7) -> Path:
    """Write a PNG strip of one video: above, the stored frames with skeletons; below, what the first view shows of
    them, with the heatmap on its token grid. Decodes the video again, so it must still be where the store found it.

    Raises ``UsageError`` for a video that the store has no features of, ``MissingError`` where it has no pose.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = store.videos.to_pylist()
    row = next((row for row in rows if row["video_id"] == video_id), None)
    features = store.load(arrays=("value", "keypoints"), frames=frames, slots=[] if row is None else [row["slot"]])
    if row is None or not len(features):
        raise UsageError(f"video is {video_id!r}, of which the store has no features; see: vilp-pipe status")
    record = store.group("clip").modality.record
    view, size, grid = record["views"][0], int(record["preprocess"]["size"]), features["value"].shape[3]
    pictures = _frames(store, row, int(record["frames"]["num_frames"]), frames)
    assert features.pose_frames is not None
    keypoints = features["keypoints"][0, features.pose_frames]

    figure, axes = plt.subplots(2, frames, figsize=(2 * frames, 4.2), layout="constrained")
    for column, picture in enumerate(pictures):
        above, below = axes[:, column]
        height, width = picture.shape[:2]
        above.imshow(picture)
        _draw_persons(above, keypoints[column].numpy() * (width, height, 1))
        seen = keypoints[column].clone()
        seen[..., :2] = to_view(seen[..., :2], view, width, height, size)
        below.imshow(_view_of(picture, view, size), extent=(0, 1, 1, 0))
        below.imshow(render(seen, grid, sigma=sigma), extent=(0, 1, 1, 0), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        for axis in (above, below):
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("skeleton", fontsize=9)
    axes[1, 0].set_ylabel(f"{view} view, {grid} x {grid} heatmap", fontsize=9)
    figure.suptitle(f"{video_id}  ({row['class_name']})", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _frames(store: FeatureStore, row: dict[str, Any], stored: int, wanted: int) -> list[np.ndarray]:
    source = store.plan.source
    root = load_dataset(source["dataset"], source["root"], splits_dir=source["splits"]).root
    video = decode_video(root / row["path"], stored, start=row["start"], end=row["end"], backend=source["decoder"])
    return [video.frames[position * stored // wanted] for position in range(wanted)]


def _view_of(picture: np.ndarray, view: str, size: int) -> np.ndarray:
    """What a view shows of a frame: uint8 [S, S, 3]."""
    import cv2

    crop = crop_of(view, picture.shape[1], picture.shape[0], size)
    resized = cv2.resize(picture, (crop.width, crop.height), interpolation=cv2.INTER_AREA)
    cut = resized[crop.top : crop.top + size, crop.left : crop.left + size]
    return cut[:, ::-1] if crop.mirrored else cut


def _draw_persons(axis: Any, persons: np.ndarray) -> None:
    """Limbs of persons [P, 17, 3] in pixels; joints without confidence are left out."""
    for person, colour in zip(persons, COLOURS, strict=False):
        for start, end in COCO_LIMBS:
            if person[start, 2] > 0 and person[end, 2] > 0:
                axis.plot(*person[[start, end], :2].T, color=colour, linewidth=1.2)
        seen = person[person[:, 2] > 0]
        axis.scatter(seen[:, 0], seen[:, 1], s=4, color="white", zorder=3)
