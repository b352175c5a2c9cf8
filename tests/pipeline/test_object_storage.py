"""A whole store in a bucket: the same values as on a disk, under faults of the service and of the runs."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path

import pytest
import torch
from commands import Vilp
from extractions import small_config
from gate import OPTIONS, gate_of
from runs import arguments, digest, make_videos, plain_config, run, start
from s3server import S3Server

from pipeline.extraction import extract
from store import FeatureStore
from store.commits import committed_shards
from store.groups import read_groups
from store.objects import open_objects
from store.verify import verify_store

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("bucket") / "videos")


@pytest.fixture(scope="module")
def on_disk(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("disk") / "s"
    extract(plain_config(videos, store))
    return store


@pytest.fixture
def url(s3: S3Server) -> str:
    return s3.url(f"stores/number {next(_NUMBERS)}")


def test_every_command_takes_a_bucket(videos: Path, on_disk: Path, url: str, vilp: Vilp) -> None:
    extracted = vilp(*arguments(videos, url, "--json"))
    assert extracted.code == 0, extracted.err
    summary = json.loads(extracted.out)
    assert (summary["store"], summary["executed"]) == (url, 6)
    assert f"--store '{url}'" in summary["next_command"]
    status = json.loads(vilp("status", "--store", url, "--json").out)
    assert [group["committed"] for group in status["groups"]] == [6, 6]
    verified = json.loads(vilp("verify", "--store", url, "--sources", "--json").out)
    assert (verified["digest"], verified["ok"]) == (digest(on_disk), True)
    mine, theirs = FeatureStore.open(url).load(), FeatureStore.open(on_disk).load()
    assert mine.video_ids == theirs.video_ids
    assert torch.equal(mine["keypoints"], theirs["keypoints"])
    assert vilp("extract", "--store", url, "--modality", "pose", "--pose", "plain_pose:PlainEstimator").code == 0


@pytest.mark.parametrize("head", ["mean", "vcs"])
def test_heads_train_on_a_bucket(
    small_videos: Path, url: str, vilp: Vilp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.chdir(tmp_path)
    extract(small_config(small_videos, url))  # type: ignore[arg-type]
    trained = vilp("train-head", "--store", url, "--head", head, "--frames", "4", "--epochs", "1", "--json")
    assert trained.code == 0, trained.err
    result = json.loads(trained.out)
    assert result["features"]["store"] == url
    evaluated = json.loads(vilp("evaluate", "--run", result["directory"], "--json").out)
    assert evaluated["reproduced"] is True


STEPS = ("plan-copy", "plan", "plan-table-copy", "plan-table", "group-copy", "group", "metadata", "array", "checksums")
POINTS = [f"{step}-{when}" for step in (*STEPS, "commit", "lease", "heartbeat") for when in ("written", "renamed")]
QUICK = {"commit-written", "array-renamed"}


@pytest.mark.parametrize("point", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in POINTS])
def test_killed_at_a_step_and_run_again(videos: Path, on_disk: Path, url: str, vilp: Vilp, point: str) -> None:
    killed = run(*arguments(videos, url), VILP_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
    again = vilp(*arguments(videos, url))
    assert again.code == 0, again.err
    assert verify_store(open_objects(url)).digest == digest(on_disk)


@pytest.mark.parametrize(
    ("fault", "every"),
    [
        ("500", 29),
        ("cut-after", 31),
        *(pytest.param(fault, 3, marks=pytest.mark.slow) for fault in ("500", "cut", "cut-after", "slow")),
    ],
)
def test_a_service_with_faults(videos: Path, on_disk: Path, url: str, s3: S3Server, fault: str, every: int) -> None:
    before = len(s3.injected)
    s3.faults = lambda method, path, number: fault if number % every == 1 else None
    extract(plain_config(videos, url))
    found = verify_store(open_objects(url)).digest
    assert len(s3.injected) - before > 5
    assert found == digest(on_disk)


def test_a_second_run_and_a_dead_one(tmp_path: Path, url: str, vilp: Vilp) -> None:
    gated = make_videos(tmp_path / "videos")
    gate_of(gated).touch()
    command = arguments(gated, url, *OPTIONS)
    first = start(*command)
    objects = open_objects(url)
    while not any(committed_shards(objects, group) for group in read_groups(objects)):
        assert first.poll() is None, first.communicate()
    second = vilp(*command)
    assert (second.code, f"in use by process {first.pid} on " in second.line) == (1, True)
    first.kill()
    first.wait()
    gate_of(gated).unlink()
    assert vilp(*command).code == 0
    extract(plain_config(gated, tmp_path / "s", decoder="gate:decode"))
    assert verify_store(objects).digest == digest(tmp_path / "s")


def test_a_flipped_byte_in_a_bucket_is_named_and_mended(videos: Path, on_disk: Path, url: str, vilp: Vilp) -> None:
    extract(plain_config(videos, url))
    objects = open_objects(url)
    kinds = ("/keypoints/c.1", "/1.parquet", "/group.json", "/videos.parquet", "pose/zarr.json", "/lease.json")
    for kind in kinds:
        key = next(key for key in objects.list() if kind in f"/{key}" and "frames" not in key)
        data = objects.get(key) or b""
        objects.put(key, data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :])
        damaged = vilp("verify", "--store", url)
        assert (damaged.code, key in damaged.out, "--repair" in damaged.err) == (1, True, True)
    mended = vilp("verify", "--store", url, "--repair", "--code", "plain_pose:PlainEstimator")
    assert mended.code == 0, mended.err
    assert verify_store(objects).digest == digest(on_disk)


@pytest.mark.slow
def test_ray_writes_the_same_into_a_bucket(videos: Path, on_disk: Path, url: str) -> None:
    done = run(*arguments(videos, url, "--engine", "ray"))
    assert done.returncode == 0, done.stderr
    assert verify_store(open_objects(url)).digest == digest(on_disk)
