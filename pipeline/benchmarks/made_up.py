"""A made-up split of features, as a store and as one ``.npy`` a video, with the same numbers in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from store.commits import CommitRow
from store.features import END, NAME, PAD, START, TEMPLATE
from store.lease import Part, hold
from store.objects import LocalObjects
from store.plan import MISSING_SCHEMA, Plan, videos_schema
from store.schema import ArraySpec, Modality
from store.writer import add_modality, create_store, write_shard, write_text_set

CLASSES, DIM, POSITIONS, SHARD_LEN = 51, 512, 77, 64
SCALE = 100.0
# Tokens before the class name ("a video of a person"), and the number of the name's own by class, in turn.
TEMPLATE_TOKENS, NAME_TOKENS = 5, (1, 2, 1, 3, 2)
# Length of the random part of a frame, next to a class direction of length 1.
NOISE = 6.0


@dataclass(frozen=True)
class MadeUpSplit:
    """``frames`` float16 [N, T, D], the first ``train`` rows for training; ``labels`` [N]; the text side of 51 classes:
    ``classes`` float32 [C, D], ``words`` float32 [C, L, D], ``kinds`` int8 [C, L]."""

    frames: np.ndarray
    labels: np.ndarray
    train: int
    classes: np.ndarray
    words: np.ndarray
    kinds: np.ndarray


def make_split(train: int, test: int, num_frames: int, seed: int = 0) -> MadeUpSplit:
    """Frames that mean their class under much noise, and words that mean it too."""
    rng = np.random.default_rng(seed)
    classes = _units(rng, CLASSES, DIM)
    words = classes[:, None] + _units(rng, CLASSES, POSITIONS, DIM)
    labels = np.arange(train + test) % CLASSES
    frames = np.empty((train + test, num_frames, DIM), np.float16)
    for rows in np.array_split(np.arange(train + test), max(1, (train + test) // 256)):
        frames[rows] = classes[labels[rows], None] + NOISE * _units(rng, len(rows), num_frames, DIM)
    kinds = np.full((CLASSES, POSITIONS), PAD, np.int8)
    kinds[:, 0] = START
    for row, tokens in zip(kinds, np.resize(NAME_TOKENS, CLASSES), strict=True):
        row[1 : 1 + TEMPLATE_TOKENS] = TEMPLATE
        end = 1 + TEMPLATE_TOKENS + tokens
        row[1 + TEMPLATE_TOKENS : end] = NAME
        row[end] = END
    return MadeUpSplit(frames, labels, train, classes, words.astype(np.float32), kinds)


def write_store(split: MadeUpSplit, root: Path) -> None:
    """A store with the frames as ``cls`` and the text set."""
    objects = LocalObjects(root)
    shape = (1, *split.frames.shape[1:])
    cls = ArraySpec(shape, "float16", ("view", "frame", "embed"))
    clip = Modality("clip", "made up", {"views": ["center"], "weights": {"seed": 0}}, {"cls": cls})
    text, arrays = _text(split, clip)
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)
        plan = create_store(ours, make_plan(split.labels, split.train))
        add_modality(ours, plan, clip, {}, {})
        add_modality(ours, plan, text, {}, {})
        write_text_set(ours, text, arrays)
        for shard in range(plan.num_shards):
            slots = plan.slots_of(shard)
            rows = [CommitRow(slot, "ok", width=320, height=240, frames=len(split.frames[slot])) for slot in slots]
            write_shard(ours, clip, shard, SHARD_LEN, {"cls": split.frames[slots][:, None]}, rows)


def write_files(split: MadeUpSplit, folder: Path) -> None:
    """``<label>-<row>.npy``, one a training video."""
    folder.mkdir(parents=True)
    for row, (label, frames) in enumerate(zip(split.labels[: split.train], split.frames, strict=False)):
        np.save(folder / f"{label:03d}-{row:05d}.npy", frames)


def make_plan(labels: np.ndarray, train: int) -> Plan:
    """A plan of videos with these labels, the first ``train`` of them for training."""
    names = tuple(f"class {label}" for label in range(CLASSES))
    rows = [
        {
            "slot": row,
            "video_id": f"v{row:05d}",
            "path": f"v{row:05d}.avi",
            "label": int(label),
            "class_name": names[label],
            "source": f"v{row:05d}",
            "split1": "train" if row < train else "test",
            "start": None,
            "end": None,
            "bytes": 1,
            "mtime_ns": 0,
        }
        for row, label in enumerate(labels)
    ]
    videos = pa.Table.from_pylist(rows, schema=videos_schema(1))
    return Plan("made-up", names, 1, SHARD_LEN, videos, MISSING_SCHEMA.empty_table())


def _text(split: MadeUpSplit, clip: Modality) -> tuple[Modality, dict[str, np.ndarray]]:
    arrays = {
        "class_embeddings": split.classes[None],
        "word_embeddings": split.words[None],
        "token_kinds": split.kinds[None],
    }
    axes = ("template", "class", "position", "embed")
    specs = {name: ArraySpec(array.shape, str(array.dtype), axes[: array.ndim]) for name, array in arrays.items()}
    specs["class_embeddings"] = ArraySpec(split.classes[None].shape, "float32", ("template", "class", "embed"))
    names = [f"class {label}" for label in range(CLASSES)]
    record = {"class_names": names, "templates": ["{}"], "logit_scale": SCALE, "logit_bias": 0.0}
    return Modality("text", "made up", record, specs, parent=clip.path), arrays


def _units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.standard_normal(shape, dtype=np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)
