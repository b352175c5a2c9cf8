"""The GPU benchmark on a CPU, on next to no work: that it runs to its end, and its arithmetic, never its times."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pipeline.benchmarks.gpu as gpu
from pipeline.benchmarks.gpu import PARTS, TINY, GpuReport, PartResult, run_part
from pipeline.benchmarks.gpu.base import Bench, GpuConfig, Need, Row, one_line
from pipeline.benchmarks.gpu.ceilings import COPY, PINNED, Ceilings
from pipeline.benchmarks.gpu.clip import COSINE, tower_need, vit_operations
from pipeline.benchmarks.gpu.encoder import InTurn, made_up_clips
from pipeline.benchmarks.gpu.heads import HEADS
from pipeline.benchmarks.gpu.pose import CROP, StandIn, operations
from pipeline.benchmarks.gpu.profiling import OTHER, by_kind, covered, kernels, kind_of
from pipeline.benchmarks.gpu.report import fastest, groups, share_of_ceiling
from pipeline.head.config import HEADS as ALL_HEADS
from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.models import build_model, resolve_model
from stages.transfer import Transfer

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bench(folder: Path, config: GpuConfig = TINY, **options: float) -> tuple[Bench, list[Row]]:
    rows: list[Row] = []
    return Bench(config, CPU, folder, tell=rows.append, **options), rows


@pytest.mark.parametrize("part", [name for name in PARTS if name != "extract"])
def test_a_part_runs_to_its_end(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.benchmarks.gpu.pose.find_spec", lambda name: None)  # mmpose would take a minute
    made, rows = bench(tmp_path)
    import_module(f"pipeline.benchmarks.gpu.{part}").run(made)
    needs_gpu = {row.name for row in rows if row.problem}
    assert all("GPU" in row.problem for row in rows if row.problem), [row for row in rows if row.problem]
    assert all("CUDA graph" in name or "2 epochs" in name for name in needs_gpu)
    assert len(rows) > 2 * len(needs_gpu)
    assert all(row.rate > 0 for row in rows if row.unit and not row.problem)
    assert all(row.columns.get(COSINE, 1) > 0.99 for row in rows)
    if part == "clip":
        assert (tmp_path / "profile-tiny.txt").read_text()
        shares = next(row.columns for row in rows if "goes" in row.group)
        assert sum(value for name, value in shares.items() if name.endswith("%")) == pytest.approx(100)


@pytest.mark.slow
def test_the_script_runs_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path), "--tiny", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["name"] for part in written["parts"]] == list(PARTS)
    assert not any(part["problem"] for part in written["parts"])
    assert all("GPU" in problem for problem in written["problems"])
    assert "nothing else" in written["notes"][0]
    assert done.stdout == (tmp_path / "gpu.txt").read_text()


def test_a_part_needs_neither_ray_nor_mmpose_nor_decord() -> None:
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(ROOT)!r})
absent = {{"ray", "mmpose", "mmdet", "mmengine", "mmcv", "decord", "typer", "rich", "obstore", "zarrs", "onnxruntime"}}
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)
sys.meta_path = [Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
assert importlib.util.find_spec("ray") is None
import pipeline.benchmarks.gpu, pipeline.benchmarks.gpu.__main__
from pipeline.benchmarks.gpu import {", ".join(PARTS)}
print(sorted(absent & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_failing_way_costs_its_row_alone(tmp_path: Path) -> None:
    made, rows = bench(tmp_path)

    def fails(error: BaseException) -> None:
        raise error

    for error in (
        torch.OutOfMemoryError("tried to allocate"),
        ValueError("no\nluck"),
        ModuleNotFoundError(name="av.x"),
    ):
        made.time("g", "n", lambda error=error: fails(error), count=1, unit="things")
    made.figures("g", "n", lambda: {"cosine": float("nan"), "other": 1})
    made.time("g", "n", lambda: lambda: 1, count=6, unit="things", check=lambda found: {"found": found})
    assert [row.problem for row in rows] == [
        "out of memory on cpu",
        "ValueError: no luck",
        "needs av, which is not installed",
        "ValueError: cosine is nan",
        "",
    ]
    assert rows[-1].columns == {"found": 1}
    assert len(rows[-1].seconds) == 1  # longer than the seconds that it may take


def test_repeats_are_three_at_the_least_and_bounded(tmp_path: Path) -> None:
    calls: list[int] = []
    for seconds, repeats, expected in ((100.0, 7, 7), (1e-9, 7, 1)):
        made, rows = bench(tmp_path, dataclasses.replace(TINY, seconds=seconds, repeats=repeats))
        calls.clear()
        made.time("g", "n", lambda: lambda: calls.append(1), count=1, unit="things")
        assert len(rows[0].seconds) == expected
        assert len(calls) == 2 + (expected if expected > 1 else 0)
    made.time("g", "n", lambda: lambda: calls.append(1), count=1, unit="things", once=True)
    assert len(calls) == 3


def test_nothing_begins_after_the_time_of_a_part(tmp_path: Path) -> None:
    made, rows = bench(tmp_path, deadline=time.monotonic() - 1)
    made.time("g", "n", lambda: pytest.fail("began"), count=1, unit="things")
    assert "the time of this part was up" in rows[0].problem


def test_a_part_that_dies_or_hangs_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pipeline" / "benchmarks" / "gpu"
    package.mkdir(parents=True)
    row = Row("g", "n", "things", 2.0, (0.5, 1.0), Need(1.0, 2.0, 3.0), {"x": 1.0})
    script = (
        "import json, os, sys, time\n"
        "task = json.loads(sys.argv[1])\n"
        f"open(task['rows'], 'w').write({json.dumps(row.to_dict())!r} + chr(10))\n"
        "if task['part'] == 'dies': print('illegal access', file=sys.stderr, flush=True); os._exit(9)\n"
        "time.sleep(600)\n"
    )
    (package / "__main__.py").write_text(script)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    dead = run_part("dies", TINY, "cpu", tmp_path, budget=120)
    assert (dead.rows, dead.problem) == ((row,), "ended with exit code 9: illegal access")
    hung = run_part("hangs", TINY, "cpu", tmp_path, budget=5)
    assert (hung.rows, hung.problem) == ((row,), "ended after 5 s, its time")


def test_a_part_that_cannot_begin_says_why(tmp_path: Path) -> None:
    found = run_part("nothing", TINY, "cpu", tmp_path, budget=300)
    assert found.rows == ()
    assert "pipeline" in found.problem
    assert one_line(ModuleNotFoundError("x", name="zarr.codecs")) == "needs zarr, which is not installed"


def test_configurations_survive_the_way_into_a_process() -> None:
    for config in (GpuConfig(), TINY):
        assert GpuConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert sum(PARTS.values()) <= 590
    assert set(HEADS) == set(ALL_HEADS)


# --- floors, shares and the table ---

PRODUCTS = (
    Row("ceilings", "bf16 matrix product, 64 x 64", "operations", 8e12, (2.0, 1.0, 4.0)),
    Row("ceilings", "bf16 matrix product, 96 x 96", "operations", 9e12, (1.0,)),
    Row("ceilings", "fp32 matrix product, 64 x 64", "operations", 1e12, (1.0,)),
    Row("ceilings", COPY, "bytes", 3e12, (1.0,)),
    Row("ceilings", PINNED, "bytes", 5e10, (1.0,)),
)


def test_floors_are_of_the_measured_ceilings() -> None:
    ceilings = Ceilings.of(PRODUCTS)
    assert ceilings == Ceilings({"bf16": 9e12, "fp32": 1e12}, 3e12, 5e10)
    need = Need(operations=4.5e12, memory=1.5e12, upload=1e11)
    assert ceilings.floors(need) == {"operations": 0.5, "memory": 0.5, "upload": 2.0}
    assert ceilings.floors(dataclasses.replace(need, precision="fp32"))["operations"] == 4.5
    assert Ceilings.of([]).floors(need) == {"operations": None, "memory": None, "upload": None}
    assert Ceilings.of(PRODUCTS).floors(Need()) == {"operations": None, "memory": None, "upload": None}


def test_the_report_names_the_fastest_the_share_and_what_is_missing(tmp_path: Path) -> None:
    slow = Row("CLIP ViT-L-14", "bf16", "images", 4.0, (2.0,), Need(operations=4.5e12))
    fast = Row("CLIP ViT-L-14", "bf16, compiled", "images", 4.0, (0.8,), Need(operations=4.5e12))
    none = Row("CLIP ViT-L-14", "fp32", "images", problem="out of memory on cuda")
    study = Row("head pvcs: 30 epochs", "3 splits x 5 seeds in one program, bf16", "videos", 4.0, (12.0,))
    report = GpuReport(
        {"type": "cuda", "name": "a GPU"},
        (
            PartResult("ceilings", PRODUCTS, 1.0, 2.0),
            PartResult("clip", (slow, none, fast), 1.0, 2.0, "ended after 2 s, its time"),
            PartResult("heads", (study,), 1.0, 2.0),
        ),
        3.0,
    )
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    (clip,) = written["parts"][1]["groups"]
    assert clip["fastest"] == "bf16, compiled"
    assert [row.get("share_of_ceiling") for row in clip["rows"]] == [0.25, None, pytest.approx(0.625)]
    assert clip["rows"][0]["floor_seconds"]["operations"] == 0.5
    assert [(aim["found"], aim["met"]) for aim in written["aims"]] == [(pytest.approx(0.625), True), (12.0, False)]
    assert written["problems"] == [
        "CLIP ViT-L-14: fp32: out of memory on cuda", "clip: ended after 2 s, its time",
    ]  # fmt: skip
    table = report.table()
    assert "62% of the ceiling" in table
    assert "missed" in table
    assert not any("a CPU" in note for note in report.notes)
    empty = GpuReport({"type": "cpu"}, (), 0.0)
    assert [aim.found for aim in empty.aims] == [None, None]
    assert "not measured" in empty.table()
    assert "a CPU" in empty.notes[0]


def test_only_ways_of_the_same_work_are_compared() -> None:
    assert fastest(PRODUCTS) is None  # operations and bytes
    assert fastest(PRODUCTS[:2]) is PRODUCTS[1]
    assert fastest(PRODUCTS[:1]) is None
    assert [(name, len(rows)) for name, rows in groups(PRODUCTS)] == [("ceilings", 5)]
    assert share_of_ceiling(PRODUCTS[0], Ceilings.of(PRODUCTS)) is None


# --- what work needs ---


@pytest.mark.parametrize(("name", "billions"), [("ViT-B-32", 8.8), ("ViT-B-16", 35.1), ("ViT-L-14", 162.0)])
def test_operations_are_those_that_are_known(name: str, billions: float) -> None:
    assert vit_operations(open_clip.get_model_config(name), 224) / 1e9 == pytest.approx(billions, rel=0.01)


def test_operations_are_those_that_torch_counts() -> None:
    model = resolve_model("tiny", "none")
    visual = build_model(model, None, 0).visual
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator hides what it does
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it knows no other on a CPU
            visual(torch.randn(3, 3, 224, 224))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert vit_operations(model.config, 224) * 3 == pytest.approx(counter.get_total_flops(), rel=0.01)
    need = tower_need(model, 1000, 3, "bf16")
    assert need == Need(3 * vit_operations(model.config, 224), 1000 + 2 * 3 * (3 * 224**2 + 64), 0, "bf16")


def test_the_stand_in_is_about_as_large_as_rtmpose() -> None:
    assert operations(GpuConfig().pose_width) / 1e9 == pytest.approx(2 * 1.93, rel=0.1)
    x, y = StandIn(2)(torch.zeros(2, 3, CROP.height, CROP.width))
    assert (x.shape, y.shape) == ((2, 17, 2 * CROP.width), (2, 17, 2 * CROP.height))


def test_both_ways_of_sending_frames_give_the_same_features(tmp_path: Path) -> None:
    clips = made_up_clips(bench(tmp_path)[0])
    encoder = ClipEncoder(ClipConfig(model="tiny", pretrained="none", num_frames=TINY.frames, device="cpu"))
    encoder.setup()
    found = []
    for transfer in (InTurn, Transfer):
        encoder.transfer = transfer(CPU)
        found.append(encoder(clips))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


# --- profiles ---


def test_busy_time_counts_once_where_spans_overlap() -> None:
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([(0, 10), (2, 3), (9, 12)]) == 12


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<...>", "normalisation"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", OTHER),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_profile_counts_a_call() -> None:
    a = torch.randn(64, 64)
    found, table = kernels(lambda: (a @ a).relu(), CPU, calls=2)
    assert "aten::mm" in table
    named = {kernel.name: kernel for kernel in found}
    assert named["aten::mm"].launches == 1
    assert by_kind(found)["matrix products"].seconds >= named["aten::mm"].seconds
