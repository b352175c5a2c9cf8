"""The whole path from files to committed features."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Vilp
from extractions import pose_config, small_config
from runs import digest

import stages.clip.encoder
from pipeline.config import ExtractConfig
from pipeline.extraction import extract
from pipeline.progress import Progress
from pipeline.repair import repair
from store import FeatureStore, MissingError, StoreError, UsageError
from store.commits import remove_commit
from store.lease import Part
from store.local import LocalObjects
from store.verify import verify_store


@pytest.fixture(scope="module")
def undisturbed(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    extract(small_config(small_videos, store))
    return store


def test_every_video_gets_features_or_a_reason(small_videos: Path, undisturbed: Path) -> None:
    store = FeatureStore.open(undisturbed)
    features = store.load()
    assert features["cls"].shape == (6, 1, 4, 64)
    assert features["value"].shape == (6, 1, 4, 7, 7, 64)
    assert np.isfinite(features["cls"].numpy()).all()
    status = {row["slot"]: row for row in store.status(store.group("clip")).to_pylist()}
    names = dict(zip(store.videos["slot"].to_pylist(), store.videos["path"].to_pylist(), strict=True))
    by_name = {Path(names[slot]).name: row for slot, row in status.items()}
    assert by_name["broken.mp4"]["status"] == "quarantined"
    assert by_name["broken.mp4"]["error_kind"] == "not-a-video"
    assert by_name["cut.avi"]["status"] == "partial"
    assert by_name["b #2;.mp4"]["status"] == "ok"
    assert (by_name["b #2;.mp4"]["frames"], by_name["c.avi"]["frames"]) == (6, 31)
    assert (by_name["d.mp4"]["width"], by_name["d.mp4"]["height"]) == (96, 64)
    slot = next(slot for slot, path in names.items() if path.endswith("b #2;.mp4"))
    assert store.rows(store.group("frames"), "index", [slot]).tolist() == [[0, 1, 3, 4]]


def test_a_second_run_does_nothing(small_videos: Path, undisturbed: Path) -> None:
    before = digest(undisturbed)
    summary = extract(small_config(small_videos, undisturbed))
    assert summary.executed == 0
    assert digest(undisturbed) == before


def test_ray_writes_the_same_bytes(small_videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    summary = extract(small_config(small_videos, tmp_path / "s", engine="ray"))
    assert (summary.executed, summary.done, summary.partial) == (7, 6, 1)
    assert summary.quarantined == {"not-a-video": 1}
    assert digest(tmp_path / "s") == digest(undisturbed)


def test_limits_parts_and_shards_in_pieces_end_at_the_same_bytes(
    small_videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    config = small_config(small_videos, tmp_path / "s")
    assert extract(dataclasses.replace(config, limit=3)).executed == 3
    assert extract(dataclasses.replace(config, limit=3)).executed == 0
    assert verify_store(LocalObjects(tmp_path / "s")).committed == 3
    assert extract(dataclasses.replace(config, part=Part(0, 2))).executed == 2
    assert extract(dataclasses.replace(config, part=Part(1, 2))).executed == 2
    assert digest(tmp_path / "s") == digest(undisturbed)


def test_small_chunks_change_nothing(small_videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    extract(small_config(small_videos, tmp_path / "s", chunk_bytes=1, memory=3))
    assert digest(tmp_path / "s") == digest(undisturbed)


def test_retrying_the_quarantined_computes_only_those(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    store = tmp_path / "s"
    config = small_config(root, store)
    extract(config)
    again = extract(dataclasses.replace(config, retry_quarantined=True))
    assert (again.executed, again.quarantined) == (1, {"not-a-video": 1})
    before = FeatureStore.open(store).load()
    shutil.copyfile(root / "jump & run" / "d.mp4", root / "jump & run" / "broken.mp4")
    assert extract(dataclasses.replace(config, retry_quarantined=True)).done == 1
    after = FeatureStore.open(store).load()
    kept = [after.video_ids.index(name) for name in before.video_ids]
    np.testing.assert_array_equal(after["cls"][kept].numpy(), before["cls"].numpy())
    assert len(after) == len(before) + 1


def test_a_quarantined_video_may_be_mended(small_videos: Path, tmp_path: Path) -> None:
    """It has another size then, and no features that could be stale."""
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    config = small_config(root, tmp_path / "s")
    assert extract(config).quarantine is not None
    shutil.copyfile(root / "jump & run" / "e.mp4", root / "jump & run" / "broken.mp4")
    again = extract(dataclasses.replace(config, retry_quarantined=True))
    assert (again.executed, again.done, again.quarantine) == (1, 1, None)
    extract(small_config(root, tmp_path / "t"))
    assert digest(tmp_path / "s") == digest(tmp_path / "t")


def test_what_the_lists_say_now_is_taken_over_on_request(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    names = ["jump & run/d.mp4", "jump & run/e.mp4", "wave (left)/a.mp4"]

    def manifest(*splits: str) -> Path:
        rows = [f'"{name}",{name.split()[0]},{split}' for name, split in zip(names, splits, strict=True)]
        (root / "manifest.csv").write_text("\n".join(["path,label,split", *rows, ""]))
        return root / "manifest.csv"

    config = small_config(manifest("train", "train", "test"), tmp_path / "s", dataset="manifest")
    extract(config)
    manifest("train", "test", "test")
    told = extract(config)
    assert "have another label, source or split" in told.warnings[0]
    assert FeatureStore.open(tmp_path / "s").videos["split1"].to_pylist() == ["train", "train", "test"]
    updated = extract(dataclasses.replace(config, update=True))
    assert (updated.executed, updated.warnings) == (0, [])
    assert FeatureStore.open(tmp_path / "s").videos["split1"].to_pylist() == ["train", "test", "test"]


def test_a_namesake_does_not_change_the_id_of_what_was_there(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    config = small_config(root, tmp_path / "s")
    extract(config)
    before = FeatureStore.open(tmp_path / "s").load()
    shutil.copyfile(root / "jump & run" / "d.mp4", root / "jump & run" / "e.avi")
    assert extract(dataclasses.replace(config, update=True)).executed == 1
    after = FeatureStore.open(tmp_path / "s").load()
    assert after.video_ids == (*before.video_ids, "jump & run/e.avi")


def test_a_group_that_is_there_is_not_written_again_for_another(small_videos: Path, tmp_path: Path) -> None:
    """CLIP lacks a video that the frames group has: what the latter holds stays, though its file is no video by now."""
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    config = small_config(root, tmp_path / "s")
    extract(config)
    store = FeatureStore.open(tmp_path / "s")
    remove_commit(LocalObjects(tmp_path / "s"), store.group("clip").path, 1)
    spoiled = root / store.videos["path"][2].as_py()
    spoiled.write_bytes(bytes(spoiled.stat().st_size))
    summary = extract(config)
    assert summary.quarantined == {"not-a-video": 1}
    after = FeatureStore.open(tmp_path / "s")
    assert after.status(after.group("clip"))["error_kind"][2].as_py() == "not-a-video"
    assert after.status(after.group("frames"))["status"][2].as_py() == "ok"


def test_later_videos_are_appended_on_request(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    late = root / "jump & run" / "e.mp4"
    late.rename(tmp_path / "e.mp4")
    config = small_config(root, tmp_path / "s")
    extract(config)
    first = FeatureStore.open(tmp_path / "s").load()
    (tmp_path / "e.mp4").rename(late)
    told = extract(config)
    assert told.executed == 0
    assert "1 videos are new" in told.warnings[0]
    assert "--update" in told.warnings[0]
    assert extract(dataclasses.replace(config, update=True)).executed == 1
    store = FeatureStore.open(tmp_path / "s")
    assert store.videos["slot"].to_pylist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(store.load()) == len(first) + 1
    assert digest(tmp_path / "s")


def test_a_dataset_that_changed_is_refused(small_videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(small_videos, root)
    config = small_config(root, tmp_path / "s", limit=4)
    extract(config)
    (root / "jump & run" / "e.mp4").write_bytes(b"something else")
    with pytest.raises(StoreError, match="another size") as error:
        extract(config)
    assert error.value.kind == "store-mismatch"
    other = tmp_path / "other" / "only"
    other.mkdir(parents=True)
    shutil.copy(small_videos / "wave (left)" / "a.mp4", other)
    with pytest.raises(StoreError, match="name another store"):
        extract(dataclasses.replace(config, root=str(tmp_path / "other")))


@pytest.mark.parametrize(
    "part", ["clip/*/value/c.1.*", "clip/*/text/*/class_embeddings/c.*", "_tables/commits/clip/*/2.parquet"]
)
def test_what_is_damaged_is_computed_again(undisturbed: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(undisturbed, tmp_path / "s")
    objects = LocalObjects(tmp_path / "s")
    victim = next((tmp_path / "s").glob(part))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    report = verify_store(objects)
    assert report.digest is None
    assert repair(objects, report, progress=Progress()).digest == digest(undisturbed)


def test_what_cannot_be_is_said_before_anything_is_written(small_videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    with pytest.raises(UsageError, match="ViT-B-31"):
        extract(small_config(small_videos, store, clip="ViT-B-31"))
    with pytest.raises(MissingError, match="--clip-pretrained"):
        extract(small_config(small_videos, store, clip="ViT-B-32", clip_pretrained=str(tmp_path / "no.safetensors")))
    with pytest.raises(MissingError, match="--det-weights"):
        extract(small_config(small_videos, store, pose="onnx", pose_frames=8))
    with pytest.raises(MissingError, match="nowhere"):
        extract(small_config(tmp_path / "nowhere", store))
    with pytest.raises(UsageError, match="multiple of frames"):
        small_config(small_videos, store, pose="onnx", pose_frames=6)
    assert not store.exists()


@pytest.fixture
def earlier(small_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractConfig:
    """Settings of a store whose CLIP group is of a version that computed the last block whole, and did not say so."""
    config = small_config(small_videos, tmp_path / "s", tokens=())
    with monkeypatch.context() as patched:
        patched.setattr(stages.clip.encoder, "class_token_alone", lambda *_: False)
        extract(config)
    return config


def test_features_of_another_version_stay_and_are_not_gone_on_with(earlier: ExtractConfig, tmp_path: Path) -> None:
    group = FeatureStore.open(tmp_path / "s").group("clip")
    before = FeatureStore.open(tmp_path / "s").load()["cls"].numpy()
    with pytest.raises(StoreError, match=r"another version of vilp-pipe \(last_block\); it stays as it is"):
        extract(dataclasses.replace(earlier, strict=True))
    assert FeatureStore.open(tmp_path / "s").group("clip").path == group.path  # there is no other one
    told = extract(earlier)
    assert told.warnings[0].startswith(f"{group.path} was computed with these settings by another version")
    store = FeatureStore.open(tmp_path / "s")
    np.testing.assert_array_equal(store.load(clip=group.modality.id)["cls"].numpy(), before)
    (new,) = (found for path, found in store.groups.items() if found.modality.kind == "clip" and path != group.path)
    now = store.load(clip=new.modality.id)["cls"].numpy()
    np.testing.assert_allclose(now, before, rtol=2e-3, atol=2e-3 * np.abs(before).max())
    assert extract(earlier).warnings == []


def test_features_of_another_version_are_not_mended(earlier: ExtractConfig, tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "s")
    (damaged,) = (key for key in objects.list("clip") if key.endswith("cls/c.0.0.0.0"))
    objects.put(damaged, b"rotten")
    with pytest.raises(StoreError, match="by other versions of vilp-pipe"):
        repair(objects, verify_store(objects), progress=Progress())
    assert objects.get(damaged) == b"rotten"


def test_strict_refuses_an_environment_that_differs(small_videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "s")
    config = small_config(small_videos, tmp_path / "s", batch_size=16)
    assert "batch_size 8 then, 16 now" in extract(config).warnings[0]
    with pytest.raises(StoreError, match="--strict"):
        extract(dataclasses.replace(config, strict=True))


def test_the_next_command_works(small_videos: Path, tmp_path: Path, vilp: Vilp) -> None:
    """With fewer frames than heads read by default, and where a store has several groups of a kind."""
    store = tmp_path / "a store"
    first = small_config(small_videos, store)
    pose = {"pose": "plain_pose:PlainEstimator", "pose_frames": 8}
    runs = [
        first,
        dataclasses.replace(first, frames=2),
        dataclasses.replace(first, modalities=("text",), templates=("somebody {}",)),
        dataclasses.replace(first, **pose),
        dataclasses.replace(first, **pose, heatmap="joints"),
        dataclasses.replace(first, tokens=(), modalities=("clip", "text")),
        pose_config(small_videos, tmp_path / "poses"),
    ]
    for config in runs:
        words = shlex.split(extract(config).next_command)[1:]
        done = vilp(*words, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run")
        assert done.code == 0, (words, done.err)
