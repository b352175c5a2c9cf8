"""Made-up features: as resident inputs with a known truth, and as a small store on the disk."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.head.config import HeadConfig
from pipeline.head.data import Inputs
from pipeline.head.functional import unit, word_bank
from pipeline.head.skeleton import skeletons
from pipeline.head.text import TextSide
from pipeline.head.train import TrainConfig, fit, new_head, predict
from store.commits import CommitRow
from store.features import END, NAME, PAD, START, TEMPLATE
from store.lease import Part, hold
from store.local import LocalObjects
from store.plan import MISSING_SCHEMA, Plan, videos_schema
from store.reader import FeatureStore
from store.schema import ArraySpec, Modality
from store.writer import add_modality, create_store, write_shard, write_text_set

torch.set_num_threads(1)

SHARD_LEN, FRAMES, POSE_FRAMES, GRID, DIM, WIDTH, POSITIONS = 16, 4, 8, 3, 16, 24, 7
CLIPS = 3


SHORT = TrainConfig(epochs=5, batch_size=64)


def only(inputs, name):
    """Inputs without what a head does not read."""
    return inputs.only(HeadConfig(head=name).inputs)


def trained(name, train, text, config=SHORT, seed=0):
    head = new_head(HeadConfig(head=name, bottleneck=32), train, text, seed=seed)
    fit(head, train, config, seed=seed)
    return head


def accuracy(head, inputs):
    return float((predict(head, inputs).argmax(dim=1) == inputs.labels).float().mean())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))


class World:
    """Classes of which class, words and frames point the same way, and inputs that are drawn from them."""

    def __init__(self, classes=20, dim=128, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.classes = unit(self.noise(classes, dim))
        words = unit(self.classes[:, None] + 0.5 * unit(self.noise(classes, 3, dim)))
        self.text = TextSide(word_bank(words, self.classes), self.classes, 50.0)

    def noise(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def labels(self, videos):
        return torch.arange(videos) % len(self.classes)

    def directions(self, labels, *shape, noise):
        """Frames or tokens [N, *shape, D] that mean their label."""
        means = self.classes[labels].view(len(labels), *[1] * len(shape), -1)
        return unit(means + noise * unit(self.noise(len(labels), *shape, means.shape[-1])))

    def inputs(self, labels, **tensors):
        return Inputs(
            tensors={name: tensor.unsqueeze(1).half() for name, tensor in tensors.items()},
            labels=labels,
            slots=torch.arange(len(labels)),
            video_ids=tuple(f"video{i}" for i in range(len(labels))),
            sources=tuple(f"source{i // 3}" for i in range(len(labels))),
        )

    def strong_frame(self, videos, frames=8):
        """One frame of each video means its class; the others mean nothing, and are many."""
        labels = self.labels(videos)
        values = unit(self.noise(videos, frames, self.classes.shape[1]))
        place = torch.randint(frames, (videos,), generator=self.generator)
        values[torch.arange(videos), place] = self.directions(labels, noise=1.8)
        return self.inputs(labels, frames=values)

    def weak_frames(self, videos, frames=8):
        """Every frame of a video hints at its class, under noise of its own."""
        labels = self.labels(videos)
        return self.inputs(labels, frames=self.directions(labels, frames, noise=6.5))

    def persons_in_cells(self, videos, frames=4, grid=3):
        """A grid of tokens in which the person's cell means the class and all others one other class; the person moves
        about. The frame embedding is between; ``elsewhere`` is pooled where another video's person is."""
        labels = self.labels(videos)
        other = (labels + torch.randint(1, len(self.classes), (videos,), generator=self.generator)) % len(self.classes)
        place = torch.randint(grid * grid, (videos, frames), generator=self.generator)
        tokens = self.directions(other, frames, grid * grid, noise=0.7)
        persons = self.directions(labels, frames, noise=0.7)
        rows, times = torch.arange(videos)[:, None], torch.arange(frames)
        tokens[rows, times, place] = persons
        return self.inputs(
            labels,
            frames=unit(persons + 1.1 * tokens.mean(dim=2)),
            tokens=tokens.unflatten(2, (grid, grid)),
            pooled=persons,
            elsewhere=tokens[rows, times, place.roll(1, 0)],
            presence=torch.full((videos, frames), 0.9),
        )

    def standing(self, videos, steps=12):
        """Keypoints [N, Tp, 1, 17, 3] of somebody who stands about, by and large still."""
        body = torch.stack([0.4 + 0.2 * (torch.arange(17) % 2), 0.2 + 0.035 * torch.arange(17)], -1)
        places = 0.05 * self.noise(videos, 1, 1, 2) + 0.004 * self.noise(videos, steps, 17, 2)
        return torch.cat([body + places, torch.ones(videos, steps, 17, 1)], dim=-1).unsqueeze(2)

    def postures(self, videos, frames=4):
        """Each class holds its arms and legs in another way; the frames mean nothing."""
        labels = self.labels(videos)
        keypoints = self.standing(videos)
        poses = torch.randn(len(self.classes), 8, 2, generator=torch.Generator().manual_seed(5))
        keypoints[:, :, 0, 9:, :2] += 0.08 * poses[labels][:, None]
        frames = unit(self.noise(videos, frames, self.classes.shape[1]))
        return self.inputs(labels, frames=frames, skeleton=skeletons(keypoints, torch.ones(videos)))

    def persons_and_background(self, videos, frames=4):
        """Tokens under persons mean the class, those around them another one; the frame embedding is between."""
        labels = self.labels(videos)
        other = (labels + torch.randint(1, len(self.classes), (videos,), generator=self.generator)) % len(self.classes)
        persons = self.directions(labels, frames, noise=0.7)
        background = self.directions(other, frames, noise=0.7)
        return self.inputs(
            labels,
            frames=unit(persons + 1.1 * background),
            pooled=persons,
            presence=torch.full((videos, frames), 0.9),
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def make_world():
    return World


class MadeUpStore:
    """A store of 60 videos of 4 classes (eight videos a source), 2 splits, with CLIP tokens, text and pose."""

    def __init__(
        self,
        root,
        *,
        seed=0,
        dataset="made-up",
        clip=True,
        tokens=("value", "penult"),
        pose=True,
        heatmap_clip=False,
        train_classes=4,
        videos=60,
        sources=8,
        views=("center",),
        noise=1.0,
        class_names=("archery", "brush hair", "climb", "dive"),
        order=(0, 1, 2, 3),
        quarantined_class=None,
        persons=False,
        misled=1.0,
        marked_boxes=None,
        movements=False,
        files=None,
        second_clip=False,
        second_pose=False,
        video=False,
    ):
        self.root, self.rng, self.train_classes = root, np.random.default_rng(seed), train_classes
        self.videos, self.sources, self.views, self.noise = videos, sources, views, noise
        self.class_names, self.order, self.quarantined_class = class_names, list(order), quarantined_class
        self.heatmap_clip, self.persons, self.marked_boxes = heatmap_clip, persons, marked_boxes
        self.movements, self.files = movements, files or {}
        self.labels = np.arange(self.videos) % 4
        # Where ``persons`` carry the class: their cell, by video and frame; another class that all around them carries.
        self.places = self.rng.integers(GRID, size=(self.videos, FRAMES, 2))
        self.others = (self.labels + self.rng.integers(1, 4, size=self.videos)) % 4
        if misled < 1:  # in the other videos all cells carry the class
            kept = self.rng.random(self.videos) >= misled
            self.others[kept] = self.labels[kept]
        self.objects = LocalObjects(root)
        self.plan = create_store(self.objects, self._plan(dataset))
        self.clip = self._clip(tokens) if clip else None
        self.second_clip = self._clip(tokens) if second_clip else None
        self.pose = self._pose() if pose else None
        self.second_pose = self._pose(estimator="other") if second_pose else None
        self.video = self._video() if video else None
        with hold(self.objects, Part()) as lease:
            self._write(lease.guard(self.objects))

    def open(self):
        return FeatureStore.open(self.root)

    def _plan(self, dataset):
        rows = []
        for slot, label in enumerate(self.labels):
            row = {"slot": slot, "video_id": f"v{slot}", "path": f"v{slot}.mp4", "label": int(label), "bytes": 1}
            row |= {"class_name": self.class_names[label], "source": f"s{slot // self.sources}", "mtime_ns": 0}
            for split in (1, 2):
                train = (slot // 8 + split) % 3 != 0 and label < self.train_classes
                if self.videos < 16:
                    train = slot < 4
                row[f"split{split}"] = "train" if train else "test"
            rows.append({"start": None, "end": None, **row})
        videos = pa.Table.from_pylist(rows, schema=videos_schema(2))
        missing = MISSING_SCHEMA.empty_table()
        return Plan(dataset, self.class_names, 2, SHARD_LEN, videos, missing)

    def _clip(self, tokens):
        views = len(self.views)
        arrays = {"cls": ArraySpec((views, FRAMES, DIM), "float16", ("view", "frame", "dim"))}
        for name, width in (("value", DIM), ("penult", WIDTH), ("last", DIM)):
            if name in tokens:
                dims = ("view", "frame", "row", "column", "dim")
                arrays[name] = ArraySpec((views, FRAMES, GRID, GRID, width), "float16", dims)
        weights = {"seed": int(self.rng.integers(1000))}
        record = {"views": list(self.views), "preprocess": {"size": 224}, "weights": weights, "tokens": list(tokens)}
        return Modality("clip", "tiny", record, arrays)

    def _video(self):
        arrays = {"video_embedding": ArraySpec((CLIPS, WIDTH), "float16", ("clip", "embed"))}
        return Modality("video", "small net", {"views": ["center"], "weights": {"seed": 0}}, arrays)

    def _video_rows(self, classes, slots):
        """Clips mean the class in a space of their own, in which no word lies."""
        means = np.pad(classes, [(0, 0), (WIDTH - DIM, 0)])[self.labels[slots]][:, None]
        rows = means + self.noise * self.rng.normal(size=(len(slots), CLIPS, WIDTH))
        return {"video_embedding": rows.astype(np.float16)}

    def _pose(self, **record):
        arrays = {
            "keypoints": ArraySpec((POSE_FRAMES, 2, 17, 3), "float32", ("pose_frame", "person", "joint", "xyc")),
            "boxes": ArraySpec((POSE_FRAMES, 2, 5), "float32", ("pose_frame", "person", "box")),
        }
        if self.heatmap_clip is True or (self.heatmap_clip == "second" and record):
            dims = ("view", "frame", "dim")
            arrays["heatmap_clip"] = ArraySpec((len(self.views), FRAMES, DIM), "float16", dims)
        return Modality("pose", "made-up", record, arrays)

    def _write(self, objects):
        # A class means the same whatever number it has: ``order`` says which meaning each has.
        classes = self.rng.normal(size=(4, DIM))[self.order]
        for modality in (self.clip, self.second_clip, self.pose, self.second_pose, self.video):
            if modality is None:
                continue
            make = {"clip": self._clip_rows, "pose": self._pose_rows, "video": self._video_rows}[modality.kind]
            if modality.kind == "clip":
                self._text(objects, modality, classes)
            add_modality(self.objects, self.plan, modality, {}, {})
            for shard in range(self.plan.num_shards):
                slots = self.plan.slots_of(shard)
                lost = self.labels[slots] == self.quarantined_class
                rows = [
                    CommitRow(
                        slot,
                        "quarantined" if gone else "ok",
                        source_sha256=self.files.get(slot, f"hash{slot}"),
                        width=320,
                        height=240,
                        frames=FRAMES,
                    )
                    for slot, gone in zip(slots, lost, strict=True)
                ]
                arrays = {n: a for n, a in make(classes, np.array(slots)).items() if n in modality.arrays}
                for array in arrays.values():
                    array[lost] = np.nan
                write_shard(objects, modality, shard, SHARD_LEN, arrays, rows)

    def add_text(self, *templates):
        """Give CLIP one more text set, with words of its own; its id."""
        store = self.open()
        first = next(g for g in store.groups.values() if g.modality.parent == self.clip.path)
        record = {**first.modality.record, "templates": list(templates)}
        text = replace(first.modality, record=record)
        arrays = {name: store.whole(first, name) for name in text.arrays}
        arrays["class_embeddings"] = np.roll(arrays["class_embeddings"], 1, axis=1)
        with hold(self.objects, Part()) as lease:
            add_modality(self.objects, self.plan, text, {}, {})
            write_text_set(lease.guard(self.objects), text, arrays)
        return text.id

    def _text(self, objects, clip, classes):
        kinds = np.tile([START, TEMPLATE, NAME, END, PAD, PAD, PAD], (1, 4, 1)).astype(np.int8)
        words = classes[None, :, None] + self.rng.normal(size=(1, 4, POSITIONS, DIM))
        arrays = {"class_embeddings": classes[None], "word_embeddings": words, "token_kinds": kinds}
        specs = {
            name: ArraySpec(a.shape, "int8" if name == "token_kinds" else "float32", tuple("kcld"[: a.ndim]))
            for name, a in arrays.items()
        }
        record = {"class_names": list(self.class_names), "templates": ["{}"], "logit_scale": 20.0, "logit_bias": 0.0}
        text = Modality("text", "plain", record, specs, parent=clip.path)
        add_modality(self.objects, self.plan, clip, {}, {})
        add_modality(self.objects, self.plan, text, {}, {})
        write_text_set(objects, text, arrays)

    def _clip_rows(self, classes, slots):
        means, views, noise = classes[self.labels[slots]], len(self.views), self.noise
        frames = np.broadcast_to(means[:, None, None], (len(slots), views, FRAMES, DIM))
        tokens = np.broadcast_to(frames[:, :, :, None, None], (len(slots), views, FRAMES, GRID, GRID, DIM))
        if self.persons:
            other = classes[self.others[slots]]
            frames = 0.5 * frames + other[:, None, None]
            rows, columns = (self.places[slots][:, None, :, axis, None, None] for axis in (0, 1))
            grid = np.arange(GRID)
            here = (grid[:, None] == rows) & (grid == columns)
            tokens = np.where(here[..., None], tokens, other[:, None, None, None, None])
        if self.marked_boxes is not None:
            tokens = tokens.copy()
            tokens[..., 0, 0] += self.marked_boxes * noise
        made = {"cls": frames, "value": tokens, "penult": np.pad(tokens, [(0, 0)] * 5 + [(0, WIDTH - DIM)])}
        if "last" in self.clip.arrays:
            made["last"] = tokens
        made = {name: array + noise * self.rng.normal(size=array.shape) for name, array in made.items()}
        return {name: made[name].astype(np.float16) for name in self.clip.arrays}

    def _pose_rows(self, classes, slots):
        count = len(slots)
        keypoints = self.rng.uniform(size=(count, POSE_FRAMES, 2, 17, 3)).astype(np.float32)
        keypoints[::5] = 0  # nobody
        if self.persons:
            row, column = (
                (self.places[slots].repeat(POSE_FRAMES // FRAMES, 1)[..., axis] + 0.5) / GRID for axis in (0, 1)
            )
            # Frames of 320 x 240 become 298 x 224, of which the view starts at column 37.
            place = np.stack([(224 * column + 37) / 298, row], -1)[:, :, None]
            keypoints[:, :, 0] = np.concatenate(
                [place + 0.02 * self.rng.normal(size=(*place.shape[:2], 17, 2)), np.ones((*place.shape[:2], 17, 1))], -1
            )
            keypoints[:, :, 1] = 0
        if self.movements:  # each class moves its joints in a way of its own; every second one is another's reverse
            body, way = 0.1 * np.random.default_rng(4).normal(size=(2, 2, 17, 2))
            rise = np.linspace(-1, 1, POSE_FRAMES) * np.where(self.labels[slots] % 2, 1, -1)[:, None]
            moved = (
                body[self.labels[slots] // 2][:, None] + rise[..., None, None] * way[self.labels[slots] // 2][:, None]
            )
            stands = self.rng.uniform(0.3, 0.6, size=(count, 1, 1, 2))
            keypoints[:, :, 0, :, :2] = moved + stands + 0.02 * self.rng.normal(size=moved.shape)
            keypoints[:, :, 0, :, 2], keypoints[:, :, 1] = 1, 0
        low, high = (edge(keypoints[..., :2], axis=3) for edge in (np.min, np.max))
        if self.persons:  # a box says nothing about where in the frame the person's joints are
            low[:, :, 0], high[:, :, 0] = 0, 1
        if self.marked_boxes is not None:  # they cover the first column of the view
            low[:], high[:] = (0.0, 0.0), ((224 / GRID + 37) / 298, 1.0)
            keypoints[..., 2] = 1
        made = {"keypoints": keypoints, "boxes": np.concatenate([low, high, keypoints[..., :1, 2]], axis=-1)}
        if self.heatmap_clip:
            made["heatmap_clip"] = self.rng.normal(size=(count, len(self.views), FRAMES, DIM)).astype(np.float16)
        return made


@pytest.fixture
def make_store(tmp_path):
    return lambda name="store", **options: MadeUpStore(tmp_path / name, **options)
