"""The benchmark, on next to no work: its structure and its arithmetic, never its times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
import videos

import pipeline.benchmarks.decode as decode_part
import pipeline.benchmarks.head as head_part
import pipeline.benchmarks.store as store_part
from pipeline.benchmarks import PARTS, BenchmarkConfig, Comparison, growth, run_benchmarks
from pipeline.benchmarks.base import Row, compare, make_row
from pipeline.benchmarks.clip import lowest_cosine
from pipeline.benchmarks.clips import ClipSet
from pipeline.benchmarks.codecs import RAW, SIZE
from pipeline.benchmarks.decode import count_right
from pipeline.benchmarks.extract import (
    EFFICIENCY,
    FIRST,
    PLAIN,
    START,
    Kernels,
    Times,
    _all_done,
    _call,
    _steady,
    copies,
)
from pipeline.benchmarks.formats import MadeUp, NpyFiles
from pipeline.benchmarks.head import TIMED, trimmed_words
from pipeline.benchmarks.kernels import run_kernels
from pipeline.benchmarks.made_up import make_splits, write_files, write_store
from pipeline.benchmarks.plain import decode_naive
from pipeline.benchmarks.plain_head import PlainVcs, train
from pipeline.benchmarks.scale import CPU, WALL, measure
from pipeline.head.functional import vcs_logits
from pipeline.head.text import text_side
from pipeline.head.train import EpochReport
from pipeline.progress import Progress
from store.errors import UsageError
from store.reader import FeatureStore

torch.set_num_threads(1)

TINY = BenchmarkConfig(
    videos=3,
    clip_videos=2,
    rounds=2,
    models=("tiny",),
    engines=("inline",),
    train=102,
    test=51,
    epochs=2,
    units=3,
    steady_clips=24,
    growth_clips=24,
    growth_videos=70,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    root = tmp_path_factory.mktemp("clips")
    paths = []
    for number, name in enumerate(("dive", "jump", "run")):
        (root / name).mkdir()
        frames = videos.numbered_frames(20 + 5 * number, 96, 72)
        paths.append(videos.write_video(root / name / "clip.mp4", frames, bf=2))
    return ClipSet("folder", root, tuple(paths), (), "3 made-up clips")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILP_CACHE", str(tmp_path / "cache"))


def check(comparison: Comparison, *, count: int, rounds: int) -> None:
    """Ratios and rates are those of the seconds, and the plain way is the measure."""
    plain = comparison[comparison.plain]
    assert plain.ratio == 1
    assert plain.ratio_range == (1, 1)
    for row in comparison.rows:
        assert len(row.rounds) == rounds
        assert all(seconds > 0 for seconds in row.rounds)
        assert row.seconds == median(row.rounds)
        assert row.ratio == pytest.approx(plain.seconds / row.seconds)
        assert row.count == count
        assert row.rate == pytest.approx(count / row.seconds)
        by_round = [theirs / ours for theirs, ours in zip(plain.rounds, row.rounds, strict=True)]
        assert row.ratio_range == (min(by_round), max(by_round))


def test_ways_are_timed_in_turns() -> None:
    calls = []
    ways = {name: lambda name=name: calls.append(name) or {"calls": len(calls)} for name in "ab"}
    found = compare("p", "t", ways, plain="b", count=6, unit="things", rounds=3, progress=Progress(),
                    columns={"a": {"known": 7}})  # fmt: skip
    assert calls == list("ababab")
    check(found, count=6, rounds=3)
    assert found["a"].columns == {"known": 7, "calls": 3}  # of the calls 1, 3 and 5
    assert found["b"].columns == {"calls": 4}


def test_seconds_of_a_part_of_the_work_are_scaled_up() -> None:
    ways = {"whole": lambda: None, "part": lambda: None}
    clock = iter([0.0, 1.0, 10.0, 12.0])  # one second, then two
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(clock))
        found = compare("p", "t", ways, plain="part", count=10, unit="things", rounds=1, progress=Progress(),
                        scale={"part": 5})  # fmt: skip
    assert found["whole"].seconds == 1
    assert found["part"].seconds == 10
    assert found["whole"].ratio == 10


def test_ratio_is_how_many_times_faster() -> None:
    row = make_row("fast", [1.0, 2.0, 4.0], [8.0, 8.0, 8.0], 10, "things", {})
    assert row == Row("fast", (1.0, 2.0, 4.0), 10, "things", 4.0, (2.0, 8.0), {})
    assert row.rate == 5


def test_decode_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["decode"], out=tmp_path, config=TINY, clips=clips)
    (comparison,) = report.comparisons
    check(comparison, count=3, rounds=2)
    assert {"ours", "PyAV, every frame"} <= {row.name for row in comparison.rows}
    for name in ("ours", "PyAV, every frame"):
        assert comparison[name].columns["right frames"] == comparison[name].columns["wanted frames"] == 48


def test_wrong_frames_are_counted(clips: ClipSet) -> None:
    def late(path: Path, wanted: int) -> np.ndarray:
        frames = decode_naive(path, wanted)
        return np.concatenate([frames[:3], frames[4:], frames[-1:]])

    # Every frame from the fourth on is the one after, but for the last.
    assert count_right({"late": late, "exact": decode_naive}, clips.paths, 10) == {"late": 12, "exact": 30}


def test_clip_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["clip"], out=tmp_path, config=TINY, clips=clips)
    (comparison,) = report.comparisons
    check(comparison, count=32, rounds=2)
    assert comparison.title == "CLIP tiny"
    assert comparison["ours, fp32"].columns["lowest cosine"] > 0.9999


def test_lowest_cosine() -> None:
    a = np.array([[1.0, 0.0], [2.0, 0.0]])
    b = np.array([[3.0, 0.0], [1.0, 1.0]])
    assert lowest_cosine(a, b) == pytest.approx(0.5**0.5)


@pytest.mark.slow
def test_pose_part(clips: ClipSet, tmp_path: Path) -> None:
    pytest.importorskip("mmpose")
    report = run_benchmarks(["pose"], out=tmp_path, config=replace(TINY, frames=4), clips=clips)
    (comparison,) = report.comparisons
    check(comparison, count=8, rounds=2)
    assert {row.name: row.columns["persons"] for row in comparison.rows} == {"mmpose's inferencer": 16, "ours": 16}


@pytest.mark.slow
def test_extract_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["extract"], out=tmp_path, config=TINY, clips=clips)
    whole, steady = report.comparisons
    check(whole, count=3, rounds=1)
    check(steady, count=24, rounds=1)
    assert [row.name for row in whole.rows] == [
        "plain script, fp32", "ours, inline", "ours, inline, with tokens",
    ]  # fmt: skip
    for row in whole.rows:
        assert 0 < row.columns[FIRST] <= row.seconds
    assert [row.name for row in steady.rows] == ["plain script, fp32", "ours, inline"]
    assert all(0 < row.columns[EFFICIENCY] < 100 for row in whole.rows[1:])
    assert steady["ours, inline"].columns[EFFICIENCY] > 0


def test_efficiency_is_what_the_kernels_need_of_what_the_cores_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    kernels = Kernels({"": 0.5, "value": 0.75})
    assert kernels.efficiency(40, 20.0, "") == {EFFICIENCY: 50}
    assert kernels.efficiency(40, 20.0, "value") == {EFFICIENCY: 75}
    assert kernels.efficiency(40, 20.0, None) == {}  # the plain script has other kernels


def test_steady_state_leaves_out_what_came_before_the_first_results() -> None:
    times = Times(40.0, ((12.0, 8), (16.0, 8), (20.0, 8), (24.0, 2)), lanes=2)
    assert times.steady == pytest.approx(8 / 10)
    found = {PLAIN: Times(30.0, ((10.0, 1), (14.0, 1)), lanes=1), "ours, inline": times}
    steady = _steady(found, TINY, 20, Kernels({"": 1.0}), ())
    check(steady, count=20, rounds=1)
    assert steady[PLAIN].seconds == pytest.approx(80)
    assert steady["ours, inline"].seconds == pytest.approx(16)
    assert steady["ours, inline"].columns[START] == 12


def test_copies_have_names_of_their_own(clips: ClipSet, tmp_path: Path) -> None:
    many = copies(clips, 25, tmp_path / "copies")
    assert len(many.paths) == len({path.name for path in many.paths}) == 27
    assert {path.parent.name for path in many.paths} == {"dive", "jump", "run"}
    assert [path.read_bytes() for path in many.paths[3:6]] == [path.read_bytes() for path in clips.paths]


def test_kernels_are_measured(clips: ClipSet) -> None:
    found = run_kernels(clips.paths, "tiny", 4, ["value"])
    assert set(found) == {"decode", "clip"}
    assert min(found.values()) > 0


def test_a_failing_command_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match="exit code 1: no luck"):
        _call([sys.executable, "-c", "import sys; sys.exit('no luck')"])
    with pytest.raises(RuntimeError, match="2 of 3 clips"):
        _all_done("a script", 2, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_store_part(clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_part, "BATCH", 8)
    config = replace(TINY, store_videos=70, batches=2)
    *reading, codecs = store_part.run(config, clips, tmp_path, Progress())
    assert [(len(part.rows), part.plain) for part in reading] == 2 * [(5, NpyFiles.name), (4, NpyFiles.name)]
    for whole, batches in (reading[:2], reading[2:]):
        check(whole, count=70, rounds=2)
        check(batches, count=16, rounds=2)
        sizes = [row.columns[store_part.SIZE] for row in whole.rows]
        assert max(sizes) < 1.5 * min(sizes)
    assert codecs[RAW].columns[SIZE] == pytest.approx(100, abs=0.1)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_way_that_gives_other_rows_is_not_timed(tmp_path: Path) -> None:
    way = NpyFiles(tmp_path / "npy", MadeUp(6, {"cls": (2, 3)}))
    way.write()
    store_part._check(way, way.batch(None, np.array([4, 1])), np.array([4, 1]))
    with pytest.raises(RuntimeError, match="other rows of cls"):
        store_part._check(way, way.batch(None, np.array([4, 1])), np.array([1, 4]))


def test_head_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["head"], out=tmp_path, config=replace(TINY, seeds=2, head_seconds=1e9), clips=clips)
    against, every, *many = report.comparisons
    check(against, count=204, rounds=2)
    assert [row.name for row in against.rows] == ["plain loop, vcs, 1 of 2 epochs", "ours, vcs"]
    check(every, count=204, rounds=1)
    assert [row.name for row in every.rows] == list(TINY.heads)
    assert all(row.columns[TIMED] == 2 for row in every.rows)
    for comparison in many:
        check(comparison, count=6, rounds=1)
    written = json.loads(report.table.read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["machine"]["cores"] > 0
    assert "random weights" in written["notes"][0]
    assert report.picture.read_bytes().startswith(b"\x89PNG")


def test_head_part_needs_room(clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_part, "whole_store_nbytes", lambda _: 10**18)
    with pytest.raises(UsageError, match=r"writes 1000000000\.0 GB into .*, where \d+\.\d GB are free; give"):
        head_part.run(TINY, clips, tmp_path, Progress())
    assert not list(tmp_path.iterdir())


def test_parts_that_are_done_are_kept(clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Comparison("decode", "t", "a", (make_row("a", [1.0], [1.0], 1, "things", {}),))
    monkeypatch.setattr(decode_part, "run", lambda *_: [done])
    monkeypatch.setattr(head_part, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_benchmarks(["decode", "head"], out=tmp_path, config=TINY, clips=clips)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["comparisons"] == [json.loads(json.dumps(done.to_dict()))]


@pytest.mark.parametrize(("allowed", "timed", "training"), [(29.0, 2, 30.0), (31.0, 10, 21.0)])
def test_a_head_that_is_slow_is_timed_for_two_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: float, timed: int, training: float
) -> None:
    """Its first epoch takes five seconds and the second three; all ten take 21, and everything else one."""
    seconds = {2: (5.0, 8.0), 10: (5.0, *np.linspace(7, 21, 9))}
    now = 0.0

    def train_head(store: Path, *, epochs: int, progress: Callable[[EpochReport], None], **_: object) -> None:
        nonlocal now
        for number, end in enumerate(seconds[epochs]):
            progress(EpochReport(1, 0, number + 1, epochs, 0.0, end))
        now += 1 + seconds[epochs][-1]

    monkeypatch.setattr(head_part, "train_head", train_head)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    found = head_part.time_head("fuse", tmp_path, replace(TINY, epochs=10, head_seconds=allowed), tmp_path / "run")
    assert found == head_part.HeadTimes(training, 1.0, timed)
    assert found.seconds == training + 1


def test_splits_that_are_made_up_share_no_test_video(tmp_path: Path) -> None:
    write_store(make_splits(102, 51, 2, splits=3), tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    tested = [set(store.selected(split, "test")) for split in (1, 2, 3)]
    assert [len(slots) for slots in tested] == [51, 51, 51]
    assert len(set.union(*tested)) == 153
    for split, slots in zip((1, 2, 3), tested, strict=True):
        trained = set(store.selected(split, "train"))
        assert (len(trained), len(trained & slots)) == (102, 0)


def test_plain_head_computes_vcs_on_the_same_words(tmp_path: Path) -> None:
    split = make_splits(51, 51, 8)
    write_store(split, tmp_path / "store")
    text = FeatureStore.open(tmp_path / "store").text()
    words, mask = trimmed_words(split)
    frames = torch.from_numpy(split.frames[:5]).float()
    plain = PlainVcs(torch.from_numpy(words), torch.from_numpy(mask), torch.from_numpy(split.classes), 10.0)
    side = text_side(text)
    assert int(mask.sum()) == len(side.bank.units)
    expected = vcs_logits(frames, torch.from_numpy(words), side.classes, word_mask=torch.from_numpy(mask))
    torch.testing.assert_close(plain(frames), 10 * expected, rtol=1e-4, atol=1e-4)


def test_plain_head_learns(tmp_path: Path) -> None:
    split = make_splits(510, 51, 4)
    write_files(split, tmp_path / "files")
    words, mask = trimmed_words(split)
    # Class embeddings that mean nothing: what is learnt is learnt from the files.
    head = PlainVcs(torch.from_numpy(words), torch.from_numpy(mask), torch.randn(51, 512), 10.0)
    frames, labels = torch.from_numpy(split.frames[:510]).float(), torch.from_numpy(split.labels[:510])
    before = torch.nn.functional.cross_entropy(head(frames), labels)
    train(head, tmp_path / "files", epochs=2, device="cpu")
    assert torch.nn.functional.cross_entropy(head(frames), labels) < before


def test_scale_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["scale"], out=tmp_path, config=TINY, clips=clips)
    (comparison,) = report.comparisons
    check(comparison, count=3, rounds=1)
    assert [row.name for row in comparison.rows] == ["ours, 3 units", "ours, 12 units", "ours, 48 units"]
    assert all(row.columns[CPU] > 0 and row.columns[WALL] > 0 for row in comparison.rows)


@pytest.mark.slow
def test_scale_part_with_ray() -> None:
    figures = measure("ray", 5)
    assert figures["seconds"] > 0
    assert figures[WALL] == pytest.approx(1000 * figures["seconds"] / 4)  # the first unit is start-up


def test_growth_of_reading_and_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for prepare in (growth._opening, growth._loading, growth._planning):
        assert growth._repeated(prepare, 1, tmp_path, 70) > 0
        assert not list(tmp_path.iterdir())
    assert len(growth._loading(tmp_path / "s", 70)().tensors["cls"]) == 70
    assert growth._planning(tmp_path / "f", 70)().num_videos == 70


def test_growth_is_of_the_cost_a_video() -> None:
    found = growth._grown("loading", 10, lambda videos: videos**2 / 100)
    check(found, count=10, rounds=1)
    assert [row.ratio for row in found.rows] == [1, 1 / 4, 1 / 16]


@pytest.mark.slow
def test_growth_part(clips: ClipSet, tmp_path: Path) -> None:
    report = run_benchmarks(["growth"], out=tmp_path, config=TINY, clips=clips)
    assert len(report.comparisons) == 4
    assert [row.name for row in report.comparisons[0].rows] == [
        "ours, 24 videos",
        "ours, 96 videos",
        "ours, 384 videos",
    ]


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="benchmark is 'sound'; allowed: decode, clip, pose, extract, store, head, scale, growth"
    ):
        run_benchmarks(["sound"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="videos is 0"):
        BenchmarkConfig(videos=0)


def test_importing_the_benchmark_is_cheap() -> None:
    code = (
        "import sys, cli.main, pipeline.benchmarks; cli.main.add_commands();"
        "print({'torch', 'av', 'decord', 'matplotlib', 'ray', 'rich.table'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert PARTS == ("decode", "clip", "pose", "extract", "store", "head", "scale", "growth")
