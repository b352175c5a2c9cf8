"""The synthetic set onto disk: videos, the truth about them, and the recipe that says it is complete."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.synthetic import truth
from pipeline.datasets.synthetic.config import NUM_SPLITS, RENDERER, SyntheticConfig
from pipeline.datasets.synthetic.draw import frames
from pipeline.datasets.synthetic.encode import write_video
from pipeline.datasets.synthetic.script import COLOURS, Script, splits_of, write_scripts
from store.errors import RetryError, UsageError

RECIPE, UNFINISHED = "synthetic.json", "synthetic.unfinished.json"
TRUTH, ANNOTATIONS = "truth.parquet", "annotations.parquet"
Progress = Callable[[int, int], None]

NOBODY = -1  # the person of a row that says that nobody is in view

_VIDEOS_A_WORKER = 24  # below that, starting another process takes longer than it saves

TRUTH_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame", pa.int32()),
        ("person", pa.int32()),
        ("keypoints", pa.list_(pa.float32(), 51)),
        ("box", pa.list_(pa.float32(), 5)),
    ]
)


def render_dataset(
    root: str | Path, *, seed: int = 0, config: SyntheticConfig | None = None, progress: Progress | None = None
) -> None:
    """Render the synthetic set into ``root``; the same seed and config give the same bytes on the same machine.

    ``truth.parquet`` has one row a video, frame and person in view: keypoints as 17 times x, y and visibility (1, or
    0.5 behind a part of the same person, 0 behind something else or off screen), and a box. Person 0 is the actor; a
    frame that shows nobody has one row of zeros with person -1. ``annotations.parquet`` has one row a video; frames
    [start_frame, end_frame) hold the action, phase says how far it has got in every frame, view which side of the
    screen the actor faces. ``synthetic.json``, written last, has the recipe and a digest of all files. A complete set
    is left as it is, an interrupted one is completed. ``progress`` is called with the numbers of videos done and in
    all.

    Raises ``UsageError`` where ``root`` holds a set of another recipe, or other files.
    """
    root, config = Path(root), config or SyntheticConfig()
    recipe = {"renderer": RENDERER, "seed": seed, "config": asdict(config)}
    if _claim(root, recipe):
        return
    scripts = list(write_scripts(seed, config))
    todo = [number for number, script in enumerate(scripts) if not (root / script.path).is_file()]
    workers = min(len(os.sched_getaffinity(0)), math.ceil(len(todo) / _VIDEOS_A_WORKER))
    done = len(scripts) - len(todo)
    if workers > 1:
        _render_in_processes(root, recipe, workers, done, len(scripts), progress)
    else:
        for count, number in enumerate(todo, done + 1):
            render_video(root, scripts[number])
            if progress is not None:
                progress(count, len(scripts))
    _write_table(root / TRUTH, _truth_table(scripts))
    _write_table(root / ANNOTATIONS, _annotations(scripts, config))
    paths = [TRUTH, ANNOTATIONS, *(script.path for script in scripts)]
    hashes = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in sorted(paths)}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    _write_json(root / RECIPE, recipe | {"videos": len(scripts), "digest": digest})
    (root / UNFINISHED).unlink(missing_ok=True)


def render_sample(
    root: Path, *, seed: int = 0, config: SyntheticConfig | None = None, video_ids: Collection[str] = ()
) -> None:
    """The tables of the whole set, and some of its videos. What comes of it is no complete set, and is not marked as
    one."""
    config = config or SyntheticConfig()
    scripts = list(write_scripts(seed, config))
    if not (root / ANNOTATIONS).is_file():
        _write_table(root / TRUTH, _truth_table(scripts))
        _write_table(root / ANNOTATIONS, _annotations(scripts, config))
    for script in scripts:
        if script.video_id in video_ids:
            render_video(root, script)


def read_recipe(root: Path) -> dict[str, Any] | None:
    """The recipe of the complete set in ``root``, or None where there is no such set."""
    return _read_json(root / RECIPE)


def render_video(root: Path, script: Script) -> None:
    """One video, put in place when it is whole."""
    path = root / script.path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_video(unfinished, frames(script), (script.width, script.height), script.fps, script.codec)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _claim(root: Path, recipe: dict[str, Any]) -> bool:
    """True where the set is complete; otherwise mark ``root`` as being rendered by this recipe."""
    for name in (RECIPE, UNFINISHED):
        found = _read_json(root / name)
        if found is None:
            continue
        if {key: found.get(key) for key in recipe} != json.loads(json.dumps(recipe)):
            raise UsageError(
                f"{root} holds a synthetic set of another recipe (seed {found.get('seed')}, see {name}; asked for seed "
                f"{recipe['seed']}); give another folder, or delete it first"
            )
        return name == RECIPE
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} holds something else and no {RECIPE}; give an empty or a new folder to render into")
    root.mkdir(parents=True, exist_ok=True)
    _write_json(root / UNFINISHED, recipe)
    return False


def _render_in_processes(
    root: Path, recipe: dict[str, Any], workers: int, done: int, total: int, progress: Progress | None
) -> None:
    """Each worker renders every n-th video that is not there, and writes a line to a shared pipe when one is done.

    Plain child processes, since a fork would copy the threads of whatever is loaded here, and ``multiprocessing``'s
    spawn would import the caller's main module again.
    """
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    reading, writing = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with os.fdopen(writing, "wb") as pipe:
            for part in range(workers):
                job = json.dumps({"root": str(root.resolve()), **recipe, "part": part, "parts": workers})
                command = [sys.executable, "-m", "pipeline.datasets.synthetic.worker", job]
                processes.append(
                    subprocess.Popen(
                        command, stdout=pipe, env=os.environ | {"PYTHONPATH": path}, start_new_session=True
                    )
                )
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while lines := pipe.read(4096):
                done += lines.count(b"\n")
                if progress is not None:
                    progress(done, total)
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise RetryError(
            f"a rendering process ended with status {max(codes, key=abs)}; run again, what is done is kept"
        )


def _truth_table(scripts: list[Script]) -> pa.Table:
    columns: dict[str, list[Any]] = {"video_id": [], "frame": [], "person": []}
    points, boxes = [], []
    for script in scripts:
        tracks = [
            (truth.keypoints(script, person), truth.boxes(script, person)) for person in range(len(script.figures))
        ]
        for frame in range(script.num_frames):
            seen = [(person, k[frame], b[frame]) for person, (k, b) in enumerate(tracks) if b[frame, 4] > 0]
            for person, keypoints, box in seen or [(NOBODY, np.zeros(51, np.float32), np.zeros(5, np.float32))]:
                columns["video_id"].append(script.video_id)
                columns["frame"].append(frame)
                columns["person"].append(person)
                points.append(keypoints.ravel())
                boxes.append(box)
    lists = [pa.FixedSizeListArray.from_arrays(np.concatenate(rows), size) for rows, size in ((points, 51), (boxes, 5))]
    return pa.Table.from_arrays([pa.array(columns[name]) for name in columns] + lists, names=TRUTH_SCHEMA.names).cast(
        TRUTH_SCHEMA
    )


def _annotations(scripts: list[Script], config: SyntheticConfig) -> pa.Table:
    labels = {name: label for label, name in enumerate(config.classes)}
    rows = []
    for script in scripts:
        person = script.figures[0].look if script.figures else None
        rows.append(
            {
                "video_id": script.video_id,
                "path": script.path,
                "label": labels[script.class_name],
                "class_name": script.class_name,
                "subject": script.subject,
                **{f"split{number}": subset for number, subset in enumerate(splits_of(script.subject), 1)},
                "num_frames": script.num_frames,
                "fps": script.fps,
                "width": script.width,
                "height": script.height,
                "codec": script.codec,
                "start_frame": script.start,
                "end_frame": script.end,
                "phase": script.phase.astype(np.float32).tolist(),
                "num_persons": len(script.figures),
                "occluded": script.occluder is not None,
                "scene": script.scene,
                "object": script.prop.kind if script.prop else None,
                "object_colour": script.prop.colour if script.prop else None,
                "yaw": script.yaw,
                "view": script.view,
                "person_height": script.person_height,
                "hair": person.hair if person else None,
                "shirt": person.shirt if person else None,
                "trousers": person.trousers if person else None,
                "long_sleeves": person.long_sleeves if person else None,
                "long_trousers": person.long_trousers if person else None,
                "skin_rgb": list(person.skin) if person else None,
                "shirt_rgb": list(COLOURS[person.shirt]) if person else None,
                "trousers_rgb": list(COLOURS[person.trousers]) if person else None,
            }
        )
    return pa.Table.from_pylist(rows, ANNOTATIONS_SCHEMA)


ANNOTATIONS_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("subject", pa.int32()),
        *((f"split{number}", pa.string()) for number in range(1, NUM_SPLITS + 1)),
        ("num_frames", pa.int32()),
        ("fps", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("start_frame", pa.int32()),
        ("end_frame", pa.int32()),
        ("phase", pa.list_(pa.float32())),
        ("num_persons", pa.int32()),
        ("occluded", pa.bool_()),
        ("scene", pa.string()),
        ("object", pa.string()),
        ("object_colour", pa.string()),
        ("yaw", pa.float64()),
        ("view", pa.string()),
        ("person_height", pa.float64()),
        ("hair", pa.string()),
        ("shirt", pa.string()),
        ("trousers", pa.string()),
        ("long_sleeves", pa.bool_()),
        ("long_trousers", pa.bool_()),
        *((f"{name}_rgb", pa.list_(pa.int32())) for name in ("skin", "shirt", "trousers")),
    ]
)


def _write_table(path: Path, table: pa.Table) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, unfinished, compression="zstd")
    os.replace(unfinished, path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not the recipe of a synthetic set; delete the folder to render it anew")
    return value
