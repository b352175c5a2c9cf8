"""A process that reads stores all the time while others write them, and sees to it that it never sees anything but
whole shards with right values.

``python -m watcher UNDISTURBED`` reads a store that nobody disturbed, and then takes from standard input the address of
a store to watch, followed by an empty line when it has been watched enough. It answers each empty line with one JSON
object: how often it looked, how many rows of arrays it saw at last, and what was wrong, if anything.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from store import FeatureStore, StoreError


@dataclass
class Seen:
    """What a watcher saw of one store."""

    looks: int = 0
    opened: bool = False
    rows: int = 0
    failure: str = ""


class Watcher:
    """The other end: a watching process, told what to watch."""

    def __init__(self, undisturbed: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "watcher", str(undisturbed)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    @contextmanager
    def watching(self, url: object) -> Iterator[None]:
        """Watch a store while the block runs; fails where anything but whole shards with right values was seen."""
        self._say(f"{url}\n")
        yield
        self._say("\n")
        seen = Seen(**json.loads(self._answer()))
        assert not seen.failure, seen
        assert seen.looks > 0

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def contents(store: FeatureStore) -> dict[str, dict[str, np.ndarray]]:
    """All that a reader can read: rows by video id, for every array."""
    ids = store.videos["video_id"].to_pylist()
    found = {}
    for path, group in store.groups.items():
        slots = store.usable([group])
        for name in group.modality.arrays:
            rows = store.rows(group, name, slots)
            found[f"{path}/{name}"] = {ids[slot]: row for slot, row in zip(slots, rows, strict=True)}
    return found


def look(url: str, expected: dict[str, dict[str, np.ndarray]], seen: Seen) -> None:
    """Read all that is there. Raises where that is not a number of whole shards with the values of an undisturbed
    store, where fewer videos are there than before, and where a store is gone."""
    seen.looks += 1
    try:
        store = FeatureStore.open(url)
    except StoreError as error:
        if error.kind == "store-missing" and not seen.opened:
            return
        raise
    seen.opened = True
    found = contents(store)
    ids = store.videos["video_id"].to_pylist()
    for array, by_video in found.items():
        for shard in {ids.index(name) // store.plan.shard_len for name in by_video}:
            whole = {ids[slot] for slot in store.plan.slots_of(shard)}
            assert whole <= set(by_video), f"shard {shard} of {array} is there in part: {sorted(by_video)}"
        for name, row in by_video.items():
            np.testing.assert_array_equal(row, expected[array][name])
    rows = sum(len(by_video) for by_video in found.values())
    assert rows >= seen.rows, f"{seen.rows} rows were there, and now {rows}"
    seen.rows = rows


def _main() -> None:
    expected = contents(FeatureStore.open(sys.argv[1]))
    print("ready", flush=True)
    url, seen = "", Seen()
    while True:
        # A look now and then, so that the processes that are watched have a processor to run on.
        if not url or select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            if not line.strip():
                print(json.dumps(asdict(seen)), flush=True)
            url, seen = line.strip(), Seen()
        if url and not seen.failure:
            try:
                look(url, expected, seen)
            except Exception as error:  # whatever it is, the test has to hear of it
                seen.failure = f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    _main()
