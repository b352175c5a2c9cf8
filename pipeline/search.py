"""Finding videos and frames by words, and by another video: cosines of stored CLIP embeddings.

Features are read a shard at a time and only the best hits are kept, so a store of any size can be searched.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.config import ExtractConfig
from pipeline.files import put_file
from pipeline.graph import make_graph
from pipeline.head.functional import unit
from pipeline.head.selection import stored_frames
from pipeline.inspection import refused_decoder, video_root
from pipeline.report.markup import escape
from stages.decode import DecodeConfig, DecodeWorker
from stages.types import VideoRef
from store.errors import StoreError, UsageError, nearest, one_of
from store.groups import Group
from store.printable import command
from store.reader import FeatureStore

UNITS = ("video", "frame")
THUMBNAIL = 240


@dataclass(frozen=True)
class Hit:
    """One result. ``score`` is a cosine: of the mean of the video's unit frame embeddings, or of one frame; ``frame``
    is the position of that frame, or of the video's best one, among the stored T."""

    video_id: str
    class_name: str
    path: str
    score: float
    frame: int


@dataclass(frozen=True)
class Found:
    """Hits from the best on. ``warning`` says where they mean nothing; ``frames`` is T, and ``clip`` the id of the CLIP
    group that was searched."""

    query: str
    hits: tuple[Hit, ...]
    searched: int
    frames: int
    clip: str
    warning: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def search(
    store: FeatureStore,
    text: str | None = None,
    *,
    like: str | None = None,
    top: int = 10,
    by: str = "video",
    clip: str | None = None,
) -> Found:
    """The ``top`` videos, or frames with ``by="frame"``, that are nearest to a text, or to the video ``like``.

    A text goes through the text tower of the CLIP model that made the features as it stands, punctuation included, with
    no words around it. Equal scores come in the order of slots.

    Raises ``UsageError`` unless exactly one of ``text`` and ``like`` is given, for a text without a word or longer than
    the tower reads, and for a video without features;
    ``MissingError`` where the model's weights are not there any more, ``StoreError`` where they are others.
    """
    one_of("by", by, UNITS)
    if top < 1:
        raise UsageError(f"top is {top}; allowed: 1 or more")
    if (text is None) == (like is None):
        raise UsageError("give a text, or a video with --like, and not both")
    group = store.group("clip", clip)
    query = _of_text(group, text) if text is not None else _of_video(store, group, str(like))
    own = _slot_of(store, like)
    best: list[tuple[float, int, int]] = []
    searched = 0
    for slots, scores, frames in _scored(store, group, query, by):
        searched += len(set(slots))
        rows = zip(scores, slots, frames, strict=True)
        best = heapq.nsmallest(
            top,
            [*best, *((-score, slot, frame) for score, slot, frame in rows if own != slot)],
        )
    videos = {row["slot"]: row for row in store.videos.select(["slot", "video_id", "class_name", "path"]).to_pylist()}
    hits = [
        Hit(videos[slot]["video_id"], videos[slot]["class_name"], videos[slot]["path"], -negative, frame)
        for negative, slot, frame in best
    ]
    random = "seed" in group.modality.record.get("weights", {})
    warning = "CLIP has random weights in this store: the ranking means nothing" if random else ""
    return Found(
        text if text is not None else f"like {like}",
        tuple(hits),
        searched,
        stored_frames(group),
        group.modality.id,
        warning,
    )


def _scored(
    store: FeatureStore, group: Group, query: Tensor, by: str
) -> Iterator[tuple[list[int], list[float], list[int]]]:
    """Slots, scores and frames of a shard: one of each a video, or a frame. Views are averaged."""
    for features in store.iter_shards(arrays=("cls",), clip=group.modality.id):
        frames = unit(unit(features["cls"].float()).mean(dim=1))  # [B, T, D]
        cosines = frames @ query
        slots = features.slots.tolist()
        if by == "video":
            scores = unit(frames.mean(dim=1)) @ query
            yield slots, scores.tolist(), cosines.argmax(dim=1).tolist()
        else:
            length = cosines.shape[1]
            yield (
                [slot for slot in slots for _ in range(length)],
                cosines.flatten().tolist(),
                list(range(length)) * len(slots),
            )


def _slot_of(store: FeatureStore, video_id: str | None) -> int | None:
    if video_id is None:
        return None
    position = store.videos["video_id"].index(video_id).as_py()
    return None if position < 0 else int(store.videos["slot"][position].as_py())


def _of_video(store: FeatureStore, group: Group, video_id: str) -> Tensor:
    slot = _slot_of(store, video_id)
    if slot is None:
        near = nearest(video_id, store.videos["video_id"].to_pylist())
        raise UsageError(f"video is {video_id!r}, which {store.url} does not have{near}")
    features = store.load(arrays=("cls",), clip=group.modality.id, slots=[slot])
    if not len(features):
        see = command("status", "--store", store.url)
        raise UsageError(f"video is {video_id!r}, of which the store has no features; see: {see}")
    frames = unit(unit(features["cls"].float()).mean(dim=1))
    return unit(frames.mean(dim=1))[0]


def _of_text(group: Group, text: str) -> Tensor:
    config = ExtractConfig.from_recipe({**group.recipe, "modalities": ["clip"], "device": "auto"})
    branch = make_graph(config, Path(config.root or ".")).branches[0]
    if branch.modality.record["weights"] != group.modality.record["weights"]:
        raise StoreError(
            f"the weights of {config.clip} are others than those that made {group.path}; restore the file, or extract "
            "again with --clip-pretrained",
            kind="store-mismatch",
        )
    stage: Any = branch.build()
    return unit(stage.encode_prompts([text])[0])


def write_page(store: FeatureStore, found: Found, path: Path, *, code: Collection[str] = ()) -> Path:
    """A page of its own, with a thumbnail of every hit inside it and nothing else to load. Decodes the hits again; one
    whose video is gone says so instead of a picture, and so do all where the store's decoder is code that ``code`` does
    not name."""
    pictures = _thumbnails(store, found, code)
    cards = "\n".join(_card(found, rank, hit, picture) for rank, (hit, picture) in enumerate(pictures, start=1))
    warning = f'<p class="warning">{escape(found.warning)}</p>' if found.warning else ""
    page = _PAGE.format(
        query=escape(found.query),
        store=escape(store.dataset_name),
        searched=f"{found.searched:,}",
        warning=warning,
        cards=cards,
    )
    put_file(path, lambda fresh: fresh.write_text(page, encoding="utf-8"))
    return path


def _card(found: Found, rank: int, hit: Hit, picture: bytes | str) -> str:
    """A hit with a JPEG, or with the reason why there is none."""
    if isinstance(picture, str):
        shown = f'<p class="gone">{escape(picture)}</p>'
    else:
        shown = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    name, video_id = escape(hit.class_name), escape(hit.video_id)
    return (
        f"<li>{shown}<p><b>{rank}. {hit.score:.3f}</b> frame {hit.frame + 1} of {found.frames}</p>"
        f'<p class="name" title="{name}"><bdi>{name}</bdi></p>'
        f'<p class="name id" title="{video_id}"><bdi>{video_id}</bdi></p></li>'
    )


def _thumbnails(store: FeatureStore, found: Found, code: Collection[str]) -> Iterator[tuple[Hit, bytes | str]]:
    """Every hit with its frame as a JPEG, or with the reason why there is none; decoded one video at a time, as it was
    for the store but small."""
    import cv2

    record = store.group("clip", found.clip).modality.record["frames"]
    if reason := refused_decoder(record, code):
        yield from ((hit, reason) for hit in found.hits)
        return
    rows = {row["video_id"]: row for row in store.videos.to_pylist()}
    with DecodeWorker(DecodeConfig(record["decoder"], found.frames, THUMBNAIL)) as worker:
        for hit in found.hits:
            (outcome,) = worker([VideoRef.of(rows[hit.video_id], video_root(store))]).results
            if outcome.video is None:
                yield hit, outcome.failure.message if outcome.failure else "no frames"
                continue
            picture = np.ascontiguousarray(outcome.video.frames[hit.frame][..., ::-1])
            _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
            yield hit, data.tobytes()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{query}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
ol {{ display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); padding: 0 }}
li {{ list-style: none; overflow-wrap: anywhere; break-inside: avoid }}
li p {{ margin: .2rem 0 0 }} img {{ border-radius: 6px; display: block; width: 100% }}
.name {{ display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden }}
.id {{ color: #666; font-size: 12px }} h1 {{ overflow-wrap: anywhere }}
.warning, .gone {{ background: #fff3d6; border-radius: 6px; padding: .6rem .8rem }}
</style></head><body>
<h1><bdi>{query}</bdi></h1><p>{searched} videos of {store} searched; scores are cosines.</p>{warning}
<ol>
{cards}
</ol></body></html>
"""
