"""Only one run writes a shard, and workers that outlive their run write nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import stores

from store import StoreError
from store.commits import committed_shards
from store.layout import LEASE
from store.lease import Part, hold, living, planning
from store.local import LocalObjects
from store.sealed import seal, unseal
from store.writer import add_modality, create_store, write_shard


def test_a_second_run_is_told_who_holds_the_store(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    with hold(objects, Part()):
        assert [holder["part"] for holder in living(objects)] == ["0-of-1"]
        with pytest.raises(StoreError, match=r"in use by process \d+ on .* since") as error, hold(objects, Part()):
            pass
        assert error.value.kind == "store-locked"
    assert living(objects) == []
    with hold(objects, Part()) as lease:
        assert lease.epoch == 2


def test_parts_share_a_store_but_not_with_a_whole_run(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    with hold(objects, Part(0, 2)), hold(objects, Part(1, 2)):
        for other in (Part(), Part(1, 2), Part(2, 3)):
            with pytest.raises(StoreError, match="in use"), hold(objects, other):
                pass


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, sys; from store.lease import *; from store.local import LocalObjects\n"
        "hold(LocalObjects(sys.argv[1]), Part()).__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    objects = LocalObjects(tmp_path)
    assert living(objects) == []
    with hold(objects, Part()) as lease:
        assert lease.epoch == 2


def test_another_process_keeps_its_lease_while_it_lives(tmp_path: Path) -> None:
    """Whoever comes later with the number of a process that is gone, and began at another time, is another one."""
    code = (
        "import sys; from store.lease import *; from store.local import LocalObjects\n"
        "with hold(LocalObjects(sys.argv[1]), Part()): print(flush=True); sys.stdin.read()"
    )
    objects = LocalObjects(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert [holder["pid"] for holder in living(objects)] == [other.pid]
        with pytest.raises(StoreError, match=f"in use by process {other.pid} on"), hold(objects, Part()):
            pass
        state = unseal(objects.get(LEASE) or b"")
        state["holders"]["0-of-1"]["started"] += "0"
        objects.put(LEASE, seal(state))
        assert living(objects) == []


def test_who_changes_the_plan_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, entered = LocalObjects(tmp_path), threading.Event()

    def plan() -> None:
        with planning(objects):
            entered.set()

    with planning(objects):
        thread = threading.Thread(target=plan)
        thread.start()
        assert not entered.wait(0.2)
        monkeypatch.setattr("store.lease.PLANNING_SECONDS", 0.1)
        with pytest.raises(StoreError, match="in use by process"), planning(objects):
            pass
    assert entered.wait(10)
    thread.join()


@pytest.mark.parametrize("count", [1, 3])
def test_every_shard_is_of_one_part(count: int) -> None:
    parts = [Part(index, count) for index in range(count)]
    assert [[part.index for part in parts if shard in part] for shard in range(7)] == [[s % count] for s in range(7)]


def test_a_stale_writer_is_refused(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "s")
    plan = create_store(objects, stores.plan())
    add_modality(objects, plan, stores.CLIP, {}, {})
    with hold(objects, Part()) as lease:
        late = lease.guard(objects)
    with hold(objects, Part()):
        slots = plan.slots_of(0)
        with pytest.raises(StoreError) as error:
            write_shard(late, stores.CLIP, 0, 4, stores.values(stores.CLIP, slots), stores.rows_of(slots))
        assert error.value.kind == "stale-lease"
    assert committed_shards(objects, stores.CLIP.path) == []
