"""A power failure at any moment leaves whole shards and a whole plan, and everything that was promised before it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stores
from disk import Recorder, State, Step, materialise, states_after
from runs import digest, make_videos, plain_config

from pipeline.extraction import extract
from store import StoreError
from store.commits import committed_shards
from store.groups import read_groups, write_metadata
from store.lease import Part, hold, planning
from store.local import LocalObjects
from store.plan import read_plan, write_plan
from store.verify import verify_store
from store.writer import add_modality, create_store, write_shard

SEED = 5
STATES_A_MOMENT = 64
CLS = stores.CLIP


def live(recorder: Recorder) -> None:
    """A store is made, filled, extended, and one of its shards written anew; each promise is noted when it is due."""
    objects = LocalObjects(recorder.root / "s")
    plan = create_store(objects, stores.plan(4, 2))
    recorder.note(("videos", 4))
    with hold(objects, Part()) as lease:
        ours = lease.guard(objects)

        def write(shard: int) -> None:
            slots = plan.slots_of(shard)
            write_shard(ours, CLS, shard, 2, stores.values(CLS, slots), stores.rows_of(slots))
            recorder.note(("shard", shard))

        add_modality(objects, plan, CLS, {}, {})
        write(0)
        with planning(objects) as planner:
            plan = stores.plan(6, 2)
            write_plan(planner, plan)
            recorder.note(("videos", 6))
            write_metadata(planner, plan)
        write(2)
        recorder.note(("may be gone", 0))
        write(0)


def promised(steps: list[Step]) -> tuple[int, set[int]]:
    """How many videos the plan has, and which shards are committed, at least, at the end of these steps."""
    videos, shards = 0, set()
    for step in steps:
        if step.call == "note":
            match step.target:
                case ("videos", count):
                    videos = count
                case ("shard", shard):
                    shards.add(shard)
                case ("may be gone", shard):
                    shards.discard(shard)
    return videos, shards


def check(root: Path, videos: int, shards: set[int]) -> None:
    """Fails unless what is there is whole, and what was promised is there."""
    objects = LocalObjects(root)
    try:
        plan = read_plan(objects)
    except StoreError as error:
        if error.kind != "store-missing" or videos:
            raise
        return
    assert plan.videos.num_rows >= videos
    damaged = [problem for problem in verify_store(objects).problems if problem.shard is not None]
    assert not damaged
    committed = {shard for group in read_groups(objects) for shard in committed_shards(objects, group)}
    assert shards <= committed, f"{shards - committed} were committed, and are gone"


def moments(steps: list[Step]) -> Iterator[tuple[int, State]]:
    """Every different state that a failure after any number of steps may leave, with that number."""
    seen = set()
    for number in range(len(steps) + 1):
        for state in states_after(steps[:number], limit=STATES_A_MOMENT, seed=SEED + number):
            key = (frozenset(state.items()), promised(steps[:number])[0], frozenset(promised(steps[:number])[1]))
            if key not in seen:
                seen.add(key)
                yield number, state


def check_all(steps: list[Step], root: Path) -> int:
    """Check every state; returns how many there were."""
    count = 0
    for number, state in moments(steps):
        shutil.rmtree(root, ignore_errors=True)
        materialise(state, root)
        check(root / "s", *promised(steps[:number]))
        count += 1
    return count


def record(root: Path, act: Callable[[Recorder], None], without: frozenset[str] = frozenset()) -> list[Step]:
    root.mkdir()
    with Recorder(root, without).recording() as recorder:
        act(recorder)
    return recorder.steps


def test_a_store_survives_a_power_failure_at_any_moment(tmp_path: Path) -> None:
    steps = record(tmp_path / "disk", live)
    assert {step.call for step in steps} == {"note", "write", "fsync", "move", "remove", "folder", "fsync-folder"}
    count = check_all(steps, tmp_path / "after")
    print(f"\n{len(steps)} steps, {count} states")
    assert count > len(steps) / 2


@pytest.mark.parametrize("forgotten", ["fsync", "fsync-folder"])
def test_a_store_that_forgets_to_flush_is_caught(tmp_path: Path, forgotten: str) -> None:
    steps = record(tmp_path / "disk", live, frozenset({forgotten}))
    with pytest.raises((AssertionError, StoreError)):
        check_all(steps, tmp_path / "after")


@pytest.mark.parametrize("resumed", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_an_extraction_goes_on_after_a_power_failure(tmp_path: Path, resumed: int) -> None:
    """Whole shards at any moment of a real run, whose lanes write side by side; run again after some of those failures,
    drawn with a seed, it ends with the digest of an undisturbed run."""
    videos = make_videos(tmp_path / "videos", each=2)
    steps = record(tmp_path / "disk", lambda recorder: extract(plain_config(videos, recorder.root / "s")) and None)
    undisturbed = digest(tmp_path / "disk" / "s")
    states = list(moments(steps))
    picked = random.Random(SEED).sample(states, resumed)
    print(f"\n{len(steps)} steps, {len(states)} states, {resumed} of them resumed; seed {SEED}")
    for number, state in picked if resumed < 10 else states:
        shutil.rmtree(tmp_path / "after", ignore_errors=True)
        materialise(state, tmp_path / "after")
        check(tmp_path / "after" / "s", *promised(steps[:number]))
        if (number, state) in picked:
            extract(plain_config(videos, tmp_path / "after" / "s"))
            assert digest(tmp_path / "after" / "s") == undisturbed, f"after {number} steps"
