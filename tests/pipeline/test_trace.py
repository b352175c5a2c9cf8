"""The trace of an extraction: a file that viewers open, and busy seconds that agree with it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from extractions import small_config

from pipeline.extraction import extract
from pipeline.trace import Span, Trace
from store.errors import UsageError

OWN_POSE = {"pose": "plain_pose:PlainEstimator", "pose_frames": 4}


def rows(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Complete events by the name of their row, in order of time."""
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[names[event["tid"]]].append(event)
    return {name: sorted(row, key=lambda event: event["ts"]) for name, row in found.items()}


def check_format(events: object) -> None:
    """What Perfetto's importer takes of the Trace Event Format's JSON array; anything else it drops and only counts
    among its errors. Times are in microseconds."""
    assert isinstance(events, list)
    known = {"M": {"name", "ph", "pid", "args"}, "X": {"name", "ph", "pid", "tid", "ts", "dur", "args"}}
    named = set()
    for event in events:
        assert known[event["ph"]] <= set(event), event
        assert isinstance(event["name"], str)
        assert all(type(event.get(key, 0)) is int for key in ("pid", "tid", "ts", "dur"))
        assert event.get("dur", 0) >= 0
        assert event.get("tid") != event["pid"]  # Perfetto would call it the main thread
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert list(event["args"]) == ["name"]
            assert event["args"]["name"]
            assert ("tid" in event) == (event["name"] == "thread_name")
            named.add((event["pid"], event.get("tid")))
        else:  # a row is named before its first event, and the process before all
            assert {(event["pid"], None), (event["pid"], event["tid"])} <= named


def test_an_event_that_perfetto_would_drop_is_noticed() -> None:
    process = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "p"}}
    thread = {"name": "thread_name", "ph": "M", "pid": 0, "tid": 1, "args": {"name": "t"}}
    call = {"name": "clip", "ph": "X", "pid": 0, "tid": 1, "ts": 0, "dur": 3, "args": {}}
    check_format([process, thread, call])
    broken = [
        {"traceEvents": [process, thread, call]},
        [process, call, thread],
        [process, thread, {**call, "ts": 1.5}],
        [process, thread, {**call, "ph": "B"}],
        [process, {**thread, "tid": 0}, {**call, "tid": 0}],
        [process, thread, {key: value for key, value in call.items() if key != "dur"}],
    ]
    for events in broken:
        with pytest.raises((AssertionError, KeyError)):
            check_format(events)


@pytest.mark.usefixtures("workers_find_the_tests")
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_every_stage_call_is_an_event_on_the_row_of_its_worker(small_videos: Path, tmp_path: Path, engine: str) -> None:
    config = small_config(small_videos, tmp_path / "s", engine=engine, **OWN_POSE)
    began = time.time()
    with Trace(tmp_path / "trace.json") as trace:
        summary = extract(config, trace=trace)
    elapsed = time.time() - began
    events = json.loads((tmp_path / "trace.json").read_text())
    check_format(events)
    found = rows(events)
    wall = summary.profile["seconds"]  # type: ignore[index]
    assert wall <= elapsed
    for name, row in found.items():
        assert all(before["ts"] + before["dur"] <= after["ts"] for before, after in itertools.pairwise(row)), name
        assert row[0]["ts"] >= 0
        assert row[-1]["ts"] + row[-1]["dur"] <= wall * 1e6, name
    calls = [event for row in found.values() for event in row]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert {event["name"] for event in calls} == {"decode", "clip", "pose", "write"}
    assert {event["args"]["shard"] for event in calls} == {0, 1, 2, 3}
    for stage in ("decode", "write"):
        videos = [video for event in calls if event["name"] == stage for video in event["args"]["videos"]]
        assert len(videos) == len(set(videos)) == summary.executed == 7
    # Of two threads of an encoder each has a row; a lane's thread decodes and writes, where actors do one thing.
    told = summary.profile["stages"]  # type: ignore[index]
    for stage, figures in told.items():
        own = [event for event in calls if event["name"] == stage]
        assert figures["calls"] == len(own)
        assert figures["workers"] == sum(any(event["name"] == stage for event in row) for row in found.values())
        assert abs(figures["busy"] - sum(event["dur"] for event in own) / 1e6) <= 1e-6 * len(own)
        assert 0 < figures["busy"] <= wall * figures["workers"]
        assert figures["busy"] + figures["idle"] == pytest.approx(wall * figures["workers"])
    assert any({"decode", "write"} <= {event["name"] for event in row} for row in found.values()) == (
        engine == "inline"
    )


def test_nobody_is_told_of_a_profile_that_was_not_asked_for(small_videos: Path, tmp_path: Path) -> None:
    assert extract(small_config(small_videos, tmp_path / "s", limit=1)).profile is None


def test_events_from_many_threads_make_one_file(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for at in range(200):
            trace.add(Span("clip", f"clip_{number}", at * 1500, at * 1500 + 1499), number, ['\udcff\n"'])

    with Trace(tmp_path / "trace.json") as trace:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = json.loads((tmp_path / "trace.json").read_text())
    check_format(events)
    found = rows(events)
    assert {name: len(row) for name, row in found.items()} == {f"clip_{number}": 200 for number in range(4)}
    assert found["clip_0"][0]["args"]["videos"] == ['\udcff\n"']
    for row in found.values():
        assert all(before["ts"] + before["dur"] <= after["ts"] for before, after in itertools.pairwise(row))


def test_a_run_that_fails_leaves_a_whole_file(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    trace.add(Span("decode", "lane_0", 0, 1), 0, ["v"])
    with pytest.raises(KeyboardInterrupt), trace:
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "trace.json").read_text())) == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"profile .*none/trace.json cannot be written: No such file"):
        Trace(tmp_path / "none" / "trace.json")
