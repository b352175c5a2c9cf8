"""Made-up features of a dataset with splits, as a store and as one ``.npy`` a video, with the same numbers in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from store.commits import CommitRow
from store.features import END, NAME, PAD, START, TEMPLATE
from store.lease import Part, hold
from store.local import LocalObjects
from store.plan import MISSING_SCHEMA, Plan, videos_schema
from store.schema import ArraySpec, Modality
from store.writer import add_modality, create_store, write_shard, write_text_set

CLASSES, DIM, POSITIONS, SHARD_LEN = 51, 512, 77, 64
SCALE = 100.0
# Tokens before the class name ("a video of a person"), and the number of the name's own by class, in turn.
TEMPLATE_TOKENS, NAME_TOKENS = 5, (1, 2, 1, 3, 2)
# Length of the random part of a frame, next to a class direction of length 1.
NOISE = 6.0
# As stored by default: side of the token grid, width of ``penult`` tokens, pose frames a frame, persons; the model's
# input in pixels.
GRID, WIDTH, POSE_FRAMES, PERSONS, SIZE = 7, 768, 3, 4, 224


@dataclass(frozen=True)
class MadeUpSplits:
    """``frames`` float16 [N, T, D]; ``labels`` [N]; how many videos each of the ``splits`` trains and tests on, the
    first one on the first rows; the text side of 51 classes: ``classes`` float32 [C, D], ``words`` float32 [C, L, D],
    ``kinds`` int8 [C, L]."""

    frames: np.ndarray
    labels: np.ndarray
    train: int
    test: int
    splits: int
    classes: np.ndarray
    words: np.ndarray
    kinds: np.ndarray


def make_splits(train: int, test: int, num_frames: int, *, splits: int = 1) -> MadeUpSplits:
    """Frames that mean their class under much noise, and words that mean it too. No two splits test on a video."""
    rng = np.random.default_rng(0)
    classes = _units(rng, CLASSES, DIM)
    words = classes[:, None] + _units(rng, CLASSES, POSITIONS, DIM)
    count = max(train + test, splits * test)
    labels = np.arange(count) % CLASSES
    frames = np.empty((count, num_frames, DIM), np.float16)
    for rows in np.array_split(np.arange(count), max(1, count // 256)):
        frames[rows] = classes[labels[rows], None] + NOISE * _units(rng, len(rows), num_frames, DIM)
    kinds = np.full((CLASSES, POSITIONS), PAD, np.int8)
    kinds[:, 0] = START
    for row, tokens in zip(kinds, np.resize(NAME_TOKENS, CLASSES), strict=True):
        row[1 : 1 + TEMPLATE_TOKENS] = TEMPLATE
        end = 1 + TEMPLATE_TOKENS + tokens
        row[1 + TEMPLATE_TOKENS : end] = NAME
        row[end] = END
    return MadeUpSplits(frames, labels, train, test, splits, classes, words.astype(np.float32), kinds)


def write_store(made_up: MadeUpSplits, root: Path, *, whole: bool = False) -> None:
    """A store with the frames as ``cls`` and the text set; if it is to be ``whole``, also with patch tokens and pose,
    the same random ones in each shard, so that every head can be trained."""
    objects = LocalObjects(root)
    num_frames = made_up.frames.shape[1]
    clip, pose = _modalities(num_frames, whole)
    text, arrays = _text(made_up, clip)
    rng = np.random.default_rng(0)
    drawn = {
        modality.kind: {name: _random(rng, spec) for name, spec in modality.arrays.items() if name != "cls"}
        for modality in (clip, pose)
    }
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        plan = create_store(ours, make_plan(made_up.labels, made_up.train, made_up.test, splits=made_up.splits))
        for modality in (clip, text, *([pose] if whole else [])):
            add_modality(ours, plan, modality, {}, {})
        write_text_set(ours, text, arrays)
        for shard in range(plan.num_shards):
            slots = plan.slots_of(shard)
            rows = [CommitRow(slot, "ok", width=320, height=240, frames=num_frames) for slot in slots]
            cls = {"cls": made_up.frames[slots][:, None]}
            others = {kind: {n: v[: len(slots)] for n, v in values.items()} for kind, values in drawn.items()}
            write_shard(ours, clip, shard, SHARD_LEN, cls | others["clip"], rows)
            if whole:
                write_shard(ours, pose, shard, SHARD_LEN, others["pose"], rows)


def whole_store_nbytes(made_up: MadeUpSplits) -> int:
    """Bytes of the arrays that ``write_store`` writes of a whole store."""
    modalities = _modalities(made_up.frames.shape[1], whole=True)
    return len(made_up.labels) * sum(spec.nbytes for modality in modalities for spec in modality.arrays.values())


def _modalities(num_frames: int, whole: bool) -> tuple[Modality, Modality]:
    """CLIP, with its tokens if it is to be ``whole``, and pose."""
    views = {"views": ["center"]}
    grid = (1, num_frames, GRID, GRID)
    axes = ("view", "frame", "row", "column", "embed")
    clip = {"cls": ArraySpec((1, num_frames, DIM), "float16", ("view", "frame", "embed"))}
    if whole:
        clip |= {name: ArraySpec((*grid, n), "float16", axes) for name, n in (("value", DIM), ("penult", WIDTH))}
    times = (POSE_FRAMES * num_frames, PERSONS)
    pose = {
        "keypoints": ArraySpec((*times, 17, 3), "float32", ("pose_frame", "person", "joint", "coordinate")),
        "boxes": ArraySpec((*times, 5), "float32", ("pose_frame", "person", "corner")),
        "heatmap_clip": ArraySpec((1, num_frames, DIM), "float16", ("view", "frame", "embed")),
    }
    facts = {**views, "weights": {"seed": 0}, "preprocess": {"size": SIZE}}
    return Modality("clip", "made up", facts, clip), Modality("pose", "made up", {"heatmap": views}, pose)


def _random(rng: np.random.Generator, spec: ArraySpec) -> np.ndarray:
    """A shard of values between 0 and 1."""
    return rng.random((SHARD_LEN, *spec.shape), np.float32).astype(spec.dtype)


def write_files(made_up: MadeUpSplits, folder: Path) -> None:
    """``<label>-<row>.npy``, one a training video of the first split."""
    folder.mkdir(parents=True)
    for row, (label, frames) in enumerate(zip(made_up.labels[: made_up.train], made_up.frames, strict=False)):
        np.save(folder / f"{label:03d}-{row:05d}.npy", frames)


def make_plan(labels: np.ndarray, train: int, test: int, *, splits: int = 1) -> Plan:
    """A plan of videos with these labels. Split 1 trains on the first ones and tests on those that follow; each further
    one begins ``test`` videos earlier, counted round."""
    names = tuple(f"class {label}" for label in range(CLASSES))
    rows = [
        {
            "slot": row,
            "video_id": f"v{row:05d}",
            "path": f"v{row:05d}.avi",
            "label": int(label),
            "class_name": names[label],
            "source": f"v{row:05d}",
            **{
                f"split{split + 1}": _subset((row + split * test) % len(labels), train, test) for split in range(splits)
            },
            "start": None,
            "end": None,
            "bytes": 1,
            "mtime_ns": 0,
        }
        for row, label in enumerate(labels)
    ]
    videos = pa.Table.from_pylist(rows, schema=videos_schema(splits))
    return Plan("made-up", names, splits, SHARD_LEN, videos, MISSING_SCHEMA.empty_table())


def _subset(place: int, train: int, test: int) -> str | None:
    return "train" if place < train else "test" if place < train + test else None


def _text(made_up: MadeUpSplits, clip: Modality) -> tuple[Modality, dict[str, np.ndarray]]:
    arrays = {
        "class_embeddings": made_up.classes[None],
        "word_embeddings": made_up.words[None],
        "token_kinds": made_up.kinds[None],
    }
    axes = ("template", "class", "position", "embed")
    specs = {name: ArraySpec(array.shape, str(array.dtype), axes[: array.ndim]) for name, array in arrays.items()}
    specs["class_embeddings"] = ArraySpec(made_up.classes[None].shape, "float32", ("template", "class", "embed"))
    names = [f"class {label}" for label in range(CLASSES)]
    record = {"class_names": names, "templates": ["{}"], "logit_scale": SCALE, "logit_bias": 0.0}
    return Modality("text", "made up", record, specs, parent=clip.path), arrays


def _units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.standard_normal(shape, dtype=np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)
