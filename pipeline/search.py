"""Finding videos and frames by words, and by another video: cosines of stored CLIP embeddings.

Features are read a shard at a time and only the best hits are kept, so a store of any size can be searched.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import ExtractConfig
from pipeline.datasets import load_dataset
from pipeline.graph import make_graph
from pipeline.head.functional import unit
from pipeline.report.markup import escape
from stages.decode import decode_video
from store.errors import StoreError, UsageError, VilpError, nearest, one_of
from store.groups import Group
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
    """Hits from the best on. ``warning`` says where they mean nothing; ``frames`` is T."""

    query: str
    hits: tuple[Hit, ...]
    searched: int
    frames: int
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

    A text goes through the text tower of the CLIP model that made the features, with no words around it. Equal scores
    come in the order of slots.

    Raises ``UsageError`` unless exactly one of ``text`` and ``like`` is given, and for a video without features;
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
    return Found(text if text is not None else f"like {like}", tuple(hits), searched, _length(group), warning)


def _length(group: Group) -> int:
    spec = group.modality.arrays["cls"]
    return spec.shape[spec.dims.index("frame")]


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
        raise UsageError(f"video is {video_id!r}, of which the store has no features; see: vilp-pipe status")
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
    return unit(torch.as_tensor(stage.encode_text([text], ("{}",)).class_embeddings)[0, 0].float())


def write_page(store: FeatureStore, found: Found, path: Path) -> Path:
    """A page of its own, with a thumbnail of every hit inside it and nothing else to load. Decodes the hits again; one
    whose video is gone says so instead of a picture."""
    cards = "\n".join(_card(store, found, rank, hit) for rank, hit in enumerate(found.hits, start=1))
    warning = f'<p class="warning">{escape(found.warning)}</p>' if found.warning else ""
    page = _PAGE.format(
        query=escape(found.query),
        store=escape(store.dataset_name),
        searched=f"{found.searched:,}",
        warning=warning,
        cards=cards,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(page, encoding="utf-8")
    fresh.replace(path)
    return path


def _card(store: FeatureStore, found: Found, rank: int, hit: Hit) -> str:
    try:
        picture = f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(store, hit, found.frames)}">'
    except VilpError as error:
        picture = f'<p class="gone">{escape(str(error))}</p>'
    name, video_id = escape(hit.class_name), escape(hit.video_id)
    return (
        f"<li>{picture}<p><b>{rank}. {hit.score:.3f}</b> frame {hit.frame + 1} of {found.frames}</p>"
        f'<p class="name" title="{name}"><bdi>{name}</bdi></p>'
        f'<p class="name id" title="{video_id}"><bdi>{video_id}</bdi></p></li>'
    )


def _thumbnail(store: FeatureStore, hit: Hit, frames: int) -> str:
    """The hit's frame as a JPEG in base64."""
    import cv2

    source = store.plan.source
    root = load_dataset(source["dataset"], source["root"], splits_dir=source["splits"]).root
    row = store.videos.slice(store.videos["video_id"].index(hit.video_id).as_py(), 1).to_pylist()[0]
    video = decode_video(
        root / row["path"],
        frames,
        start=row["start"],
        end=row["end"],
        backend=source["decoder"],
        max_short_side=THUMBNAIL,
    )
    _, data = cv2.imencode(".jpg", video.frames[hit.frame][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(data.tobytes()).decode()


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
