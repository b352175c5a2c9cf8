"""``DecodeWorker``: chunks, shared memory, and decoders that crash, hang or eat memory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

import stages.decode.process
from stages.decode import DecodeConfig, DecodedChunk, DecodeOutcome, Decoder, DecodeWorker, decode_video, decoder_record
from stages.types import VideoRef
from store.errors import MissingError, RetryError, UsageError

FRAMES = 4
POISON = DecodeConfig(backend="poison:decode", num_frames=FRAMES, cpu_deadline_s=30.0, memory_bytes=300 << 20)
# For decoders that never end. Elsewhere the deadline is far away, so that a slow machine fails no test.
IMPATIENT = dataclasses.replace(POISON, cpu_deadline_s=0.5)


@pytest.fixture
def worker() -> Iterator[DecodeWorker]:
    with DecodeWorker(POISON) as worker:
        yield worker


def write(folder: Path, deeds: Sequence[str]) -> list[VideoRef]:
    """A file for each deed; the grey value of its frames is 10 times its position, plus 10."""
    refs = []
    for i, deed in enumerate(deeds):
        name, _, size = deed.partition(" ")
        path = folder / f"{i}.avi"
        path.write_text(f"{name} {10 * i + 10} {size}")
        refs.append(VideoRef(i, f"video-{i}", str(path)))
    return refs


def kinds(chunk: DecodedChunk) -> list[str | None]:
    return [outcome.failure and outcome.failure.kind for outcome in chunk.results]


def assert_fine(outcome: DecodeOutcome) -> None:
    assert outcome.failure is None
    assert (outcome.video.frames == 10 * outcome.ref.slot + 10).all()


@pytest.mark.parametrize(
    ("deed", "kind"),
    [
        ("crash", "decoder-crash"),
        ("exit", "decoder-crash"),
        ("loop", "decoder-timeout"),
        ("eat", "decoder-memory"),
        ("killed", "out-of-memory"),
        ("no-room", "out-of-memory"),
    ],
)
def test_poison_costs_itself_only(tmp_path: Path, deed: str, kind: str) -> None:
    refs = write(tmp_path, ["fine", deed, "fine", deed, "fine"])
    with DecodeWorker(IMPATIENT if deed == "loop" else POISON) as worker:
        chunk, again = worker(refs), worker(refs[2:3])
    assert kinds(chunk) == [None, kind, None, kind, None]
    assert chunk.remaining == []
    assert [outcome.ref for outcome in chunk.results] == refs
    for i in (0, 2, 4):
        assert_fine(chunk.results[i])
    failed = chunk.results[1]
    assert failed.video is None
    assert refs[1].path in failed.failure.message
    assert "\n" not in failed.failure.message
    assert failed.sha256 == hashlib.sha256(Path(refs[1].path).read_bytes()).hexdigest()
    assert kinds(again) == [None]  # and the worker goes on


@pytest.mark.parametrize("deed", ["crash-once", "killed-once", "eat-once", "loop-once"])
def test_accident_that_does_not_repeat_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    monkeypatch.setenv("POISON_ONCE", str(tmp_path / "done"))
    with DecodeWorker(IMPATIENT if deed == "loop-once" else POISON) as worker:
        chunk = worker(write(tmp_path, ["fine", deed, "fine"]))
    assert kinds(chunk) == [None, None, None]
    for outcome in chunk.results:
        assert_fine(outcome)
    assert (tmp_path / "done").exists()


def test_idle_decoder_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    config = DecodeConfig(backend="poison:decode", num_frames=FRAMES, deadline_s=0.3)
    with DecodeWorker(config) as worker:
        chunk = worker(write(tmp_path, ["fine", "sleep", "fine"]))
    assert kinds(chunk) == [None, "timeout", None]


def test_long_gaps_between_looks_are_not_held_against_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    # As when the machine was suspended: an hour passes between any two looks, and the decoder uses no CPU time.
    hours = iter(range(0, 3600 * 1000, 3600))
    monkeypatch.setattr(stages.decode.process.time, "monotonic", lambda: next(hours))
    watch = stages.decode.process._Watch(DecodeConfig(deadline_s=60, cpu_deadline_s=60))
    usage = stages.decode.process._Usage("S", cpu=1.0)
    monkeypatch.setattr(stages.decode.process, "_usage", lambda pid: usage)
    for _ in range(100):
        watch.check(1)
    watch._idle = 60.0  # but a process that is watched and does nothing is found out
    with pytest.raises(stages.decode.process.DecodeProcessError, match="no progress"):
        watch.check(1)


def test_a_disk_that_gives_a_few_bytes_now_and_then_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = stages.decode.process._Watch(DecodeConfig(deadline_s=60))
    for look in range(100):
        usage = stages.decode.process._Usage("D", cpu=1.0, bytes_read=look)
        monkeypatch.setattr(stages.decode.process, "_usage", lambda pid, usage=usage: usage)
        watch._idle = 59.99
        watch.check(1)
    watch._idle = 60.0
    with pytest.raises(stages.decode.process.DecodeProcessError, match="nothing read or computed"):
        watch.check(1)


def test_a_process_that_somebody_stopped_is_not_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def look(pid: int) -> stages.decode.process._Usage:
        nonlocal looks
        found = usage(pid)
        looks += found.state == "T"
        if looks == 40:  # two seconds
            os.kill(pid, signal.SIGCONT)
        return found

    usage = stages.decode.process._usage
    monkeypatch.setattr(stages.decode.process, "_usage", look)
    config = dataclasses.replace(POISON, deadline_s=0.5)
    with DecodeWorker(config) as worker:
        os.kill(worker._child.pid, signal.SIGSTOP)
        chunk = worker(write(tmp_path, ["fine"]))
    assert kinds(chunk) == [None]
    assert looks >= 40


def test_kinds_of_python_errors(worker: DecodeWorker, tmp_path: Path) -> None:
    chunk = worker(write(tmp_path, ["raise", "missing", "unplugged", "fine"]))
    assert kinds(chunk) == ["decode-failed", "file-missing", "io-error", None]
    assert chunk.results[0].failure.message == "ZeroDivisionError: of the decoder's own"


def test_messages_are_one_printable_line(worker: DecodeWorker, tmp_path: Path) -> None:
    chunk = worker(write(tmp_path, ["ugly"]))
    assert chunk.results[0].failure.message == r"ValueError: \x1b]0;owned\x07 \udcff second line"


def test_environment_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISON_ONCE", str(tmp_path / "done"))
    with DecodeWorker(POISON) as worker:
        chunk = worker(write(tmp_path, ["missing-once", "fine"]))
        gone = worker([VideoRef(7, "gone", str(tmp_path / "gone.avi"))])
    assert kinds(chunk) == [None, None]
    assert kinds(gone) == ["file-missing"]
    assert gone.results[0].sha256 is None


def test_malformed_frames_are_refused(tmp_path: Path) -> None:
    with DecodeWorker(DecodeConfig(backend="poison:malformed", num_frames=FRAMES)) as worker:
        chunk = worker(write(tmp_path, ["fine"]))
    assert kinds(chunk) == ["decode-failed"]
    assert "[1, 8, 8, 3]" in chunk.results[0].failure.message


def test_chunks_are_bounded_in_bytes(tmp_path: Path) -> None:
    size = FRAMES * 8 * 8 * 3
    refs = write(tmp_path, ["fine", "fine", "crash", "fine 64", "fine", "fine", "fine", "fine"])
    config = DecodeConfig(backend="poison:decode", num_frames=FRAMES, chunk_bytes=2 * 4096 + size)
    lengths, seen = [], []
    with DecodeWorker(config) as worker:
        while refs:
            chunk = worker(refs)
            refs = chunk.remaining
            lengths.append(len(chunk.results))
            seen += chunk.results
            for outcome in chunk.results:
                assert outcome.video is None or (outcome.video.frames == 10 * outcome.ref.slot + 10).all()
    assert lengths == [3, 1, 3, 1]  # the large one alone; segments are filled in pages of 4096 bytes
    assert [outcome.ref.slot for outcome in seen] == list(range(8))


def test_views_stay_until_the_second_result_after(worker: DecodeWorker, tmp_path: Path) -> None:
    refs = write(tmp_path, ["fine", "fine 100", "fine 300", "fine 600"])
    first = worker(refs[:1]).results[0]
    with pytest.raises(ValueError, match="read-only"):
        first.video.frames[0] = 0
    worker.submit(refs[1:2])
    second = worker.result().results[0]
    worker.submit(refs[2:3])
    while b'"end"' not in worker._child._connection.recv(1 << 16, socket.MSG_PEEK):
        pass  # until the child has written the third
    assert_fine(first)
    third = worker.result().results[0]
    assert_fine(second)
    fourth = worker(refs[3:]).results[0]
    assert_fine(third)
    worker.close()
    assert_fine(third)
    assert_fine(fourth)


def test_submit_and_result_alternate(worker: DecodeWorker, tmp_path: Path) -> None:
    refs = write(tmp_path, ["fine"])
    with pytest.raises(RuntimeError):
        worker.result()
    with pytest.raises(ValueError, match="at least one"):
        worker.submit([])
    worker.submit(refs)
    with pytest.raises(RuntimeError):
        worker.submit(refs)
    assert kinds(worker.result()) == [None]


def test_death_between_chunks_is_nobodys_fault(worker: DecodeWorker, tmp_path: Path) -> None:
    refs = write(tmp_path, ["fine", "fine"])
    assert kinds(worker(refs)) == [None, None]
    os.kill(worker._child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker._child.pid, os.WEXITED | os.WNOWAIT)
    assert kinds(worker(refs)) == [None, None]


def test_prints_of_decoders_stay_inside(
    worker: DecodeWorker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert kinds(worker(write(tmp_path, ["print"]))) == [None]
    assert capfd.readouterr() == ("", "")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before, others = len(os.listdir("/proc/self/fd")), psutil.Process().children()
    worker = DecodeWorker(POISON)
    worker.setup()
    child = psutil.Process(worker._child.pid)
    assert kinds(worker(write(tmp_path, ["crash", "fine"]))) == ["decoder-crash", None]
    second = psutil.Process(worker._child.pid)
    worker.close()
    worker.close()
    assert not child.is_running()
    assert not second.is_running()
    assert set(psutil.Process().children()) <= set(others)
    assert len(os.listdir("/proc/self/fd")) == before


PARENT = """
import sys, time
from stages.decode import DecodeConfig, DecodeWorker
from stages.types import VideoRef
worker = DecodeWorker(DecodeConfig(backend="poison:decode"))
worker.submit([VideoRef(0, "x", sys.argv[1])])
print(worker._child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("deed", ["loop", "sleep"])
def test_child_dies_with_its_parent(tmp_path: Path, deed: str) -> None:
    refs = write(tmp_path, [deed])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-c", PARENT, refs[0].path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert select.select([child], [], [], 30)[0]
        os.close(child)


def test_backend_that_cannot_be_had_is_an_error_at_setup() -> None:
    with pytest.raises(MissingError, match="no_such_module"):
        DecodeWorker(DecodeConfig(backend="no_such_module:decode")).setup()
    with pytest.raises(UsageError, match="ffmpeg"):
        DecodeConfig(backend="ffmpeg")
    with pytest.raises(UsageError, match="chunk_bytes is 0"):
        DecodeConfig(chunk_bytes=0)


def test_process_that_the_kernel_kills_at_its_start_is_nobodys_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doomed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RetryError, match=r"cannot start.*killed from outside") as caught:
        DecodeWorker(DecodeConfig(backend="doomed:decode")).setup()
    assert caught.value.kind == "out-of-memory"


def test_worker_and_stage_and_function_agree(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "data" / "ucf101-mini").rglob("*.avi"))[:5]
    refs = [VideoRef(i, path.stem, str(path)) for i, path in enumerate(paths)]
    refs[1] = VideoRef(1, "cut", str(paths[1]), 1.0, 2.0)
    refs.append(VideoRef(5, "text", str(Path(__file__))))
    config = DecodeConfig(num_frames=8, max_short_side=100)
    stage = Decoder(config)
    stage.setup()
    with DecodeWorker(config) as worker:
        results = worker(refs).results
    for ref, ours, theirs in zip(refs, results, stage(refs), strict=True):
        assert (ours.sha256, ours.num_bytes, ours.failure) == (theirs.sha256, theirs.num_bytes, theirs.failure)
        assert ours.num_bytes == Path(ref.path).stat().st_size
        if ref.slot == 5:
            assert ours.failure.kind == "not-a-video"
            continue
        expected = decode_video(ref.path, 8, start=ref.start, end=ref.end, max_short_side=100)
        for video in (ours.video, theirs.video):
            for field in ("frames", "indices", "pts"):
                np.testing.assert_array_equal(getattr(video, field), getattr(expected, field))
                assert getattr(video, field).dtype == getattr(expected, field).dtype
            for field in ("num_decodable", "num_claimed", "fps", "width", "height"):
                assert getattr(video, field) == getattr(expected, field)
    assert time.perf_counter() > sum(outcome.seconds for outcome in results) > 0


def test_record_names_what_changes_the_pictures() -> None:
    one, other = decoder_record(DecodeConfig()), decoder_record(DecodeConfig(backend="decord"))
    assert one["decoder_versions"].keys() == {"av"}
    assert other["decoder_versions"].keys() == {"decord", "av"}
    assert decoder_record(DecodeConfig(num_frames=48, chunk_bytes=1, deadline_s=1)) == one
    assert decoder_record(DecodeConfig(max_short_side=None)) != one
