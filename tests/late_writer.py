"""A run and its writer, which is a process of its own, as on Ray; the writer stops itself in the middle of a write.

``python -m late_writer STORE POINT RESULT`` makes a store, takes its lease and starts the writer, which stops (SIGSTOP)
when it reaches the failpoint. What became of it stands in the file RESULT in the end: ``committed``, or the kind of the
error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import stores

import store.local
from store import StoreError
from store.lease import Lease, Part, hold
from store.local import LocalObjects
from store.writer import add_modality, create_store, write_shard

SHARD, SHARD_LEN = 0, 4


def write(lease: Lease, root: Path, factor: float) -> None:
    """Commit the shard, with the made-up features times ``factor``."""
    slots = stores.plan().slots_of(SHARD)
    arrays = {
        name: (values * factor).astype(values.dtype) for name, values in stores.values(stores.CLIP, slots).items()
    }
    write_shard(lease.guard(LocalObjects(root)), stores.CLIP, SHARD, SHARD_LEN, arrays, stores.rows_of(slots))


def _run(root: Path, point: str, result: str) -> None:
    objects = LocalObjects(root)
    add_modality(objects, create_store(objects, stores.plan()), stores.CLIP, {}, {})
    with hold(objects, Part()) as lease:
        words = [json.dumps(dataclasses.asdict(lease)), str(root), point, result]
        writer = subprocess.Popen([sys.executable, "-m", "late_writer", *words], stdout=subprocess.DEVNULL)
        print(writer.pid, flush=True)
        writer.wait()


def _write(lease: Lease, root: Path, point: str, result: Path) -> None:
    left = [point]

    def reach(name: str) -> None:
        if name in left:
            left.remove(name)
            os.kill(os.getpid(), signal.SIGSTOP)

    store.local.reach = reach
    try:
        write(lease, root, 2.0)
        result.write_text("committed")
    except StoreError as error:
        result.write_text(error.kind)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _run(Path(sys.argv[1]), *sys.argv[2:])
    else:
        _write(Lease(**json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
