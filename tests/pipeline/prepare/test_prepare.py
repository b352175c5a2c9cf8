"""A dataset from its archives: nested ones, cut short anywhere, with what is wrong told in the end."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile

import fileserver
import pytest
import rars
from videos import numbered_frames, write_video

from pipeline.datasets import load_dataset
from pipeline.datasets import prepare as preparing
from pipeline.datasets.prepare import RECIPES, prepare
from store.errors import MissingError, UsageError

CLASSES = ("brush_hair", "sword", "sword_exercise")


@pytest.fixture(autouse=True)
def only_fake(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATH", str(rars.install_unrar(tmp_path_factory.mktemp("bin"))))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    path = write_video(tmp_path_factory.mktemp("video") / "a.avi", numbered_frames(12, 64, 48), codec="mpeg4")
    return path.read_bytes()


def clip(name: str, number: int) -> str:
    return f"#A_(b)_&_[c];@!+_{name}_u_nm_np1_fr_med_{number}.avi"


@pytest.fixture
def hmdb(tmp_path, video):
    """A recipe of three classes with two videos each, and its archives in ``tmp_path/archives``."""
    folder = tmp_path / "archives"
    lists, nested = {}, {}
    for name in CLASSES:
        made = rars.rar4(tmp_path / f"{name}.rar", {f"{name}/{clip(name, k)}": video for k in (0, 1)})
        nested[f"{name}.rar"] = made.read_bytes()
        for split in (1, 2, 3):
            lines = f"{clip(name, 0)} 1 \n{clip(name, 1)} 2 \n"
            lists[f"testTrainMulti_7030_splits/{name}_test_split{split}.txt"] = lines.encode()
    rars.rar4(folder / "test_train_splits.rar", lists)
    rars.rar4(folder / "hmdb51_org.rar", nested)
    archives = tuple(dataclasses.replace(archive, digest=None) for archive in RECIPES["hmdb51"].archives)
    official = dataclasses.replace(RECIPES["hmdb51"].official, num_videos=6, num_classes=3, splits=((3, 3),) * 3)
    return dataclasses.replace(RECIPES["hmdb51"], archives=archives, official=official)


def test_hmdb51_from_archives_that_are_there(hmdb, tmp_path):
    root = tmp_path / "root"
    made = prepare(hmdb, root, archives=tmp_path / "archives")
    assert (made.videos, made.classes, made.splits) == (6, 3, ((3, 3),) * 3)
    assert (made.wrong, made.unreadable) == ((), ())
    assert sorted(entry.name for entry in root.iterdir()) == [*CLASSES, "testTrainMulti_7030_splits"]
    assert (root / "sword" / clip("sword", 1)).is_file()
    assert len(load_dataset("hmdb51", root).videos) == 6
    shutil.rmtree(tmp_path / "archives")
    again = prepare(hmdb, root)  # complete: needs no archive, no network and no tool
    assert again == made


def test_ucf101_by_http(tmp_path, video):
    lists = {"classInd.txt": b"1 Archery\n2 HandstandPushups\n"}
    for split in (1, 2, 3):
        lists[f"trainlist{split:02d}.txt"] = b"Archery/v_Archery_g08_c01.avi 1\n"
        lists[f"testlist{split:02d}.txt"] = b"HandstandPushups/v_HandStandPushups_g01_c01.avi\n"
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as out:
        for name, data in lists.items():
            out.writestr(f"ucfTrainTestlist/{name}", data)
    members = {
        "UCF-101/Archery/v_Archery_g08_c01.avi": video,
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi": video[: len(video) // 2],
    }
    rars.rar4(tmp_path / "videos.rar", members)
    recipe = RECIPES["ucf101"]
    with fileserver.serve() as server:
        archives = tuple(
            dataclasses.replace(archive, url=f"{server.url}/{archive.name}", size=None, digest=None)
            for archive in recipe.archives
        )
        server.files = {
            f"/{archives[0].name}": (tmp_path / "lists.zip").read_bytes(),
            f"/{archives[1].name}": (tmp_path / "videos.rar").read_bytes(),
        }
        official = dataclasses.replace(recipe.official, num_videos=2, num_classes=2, splits=((1, 1),) * 3)
        small = dataclasses.replace(recipe, archives=archives, official=official)
        made = prepare(small, tmp_path / "root")
    assert made.wrong == ()
    assert len(made.unreadable) == 1
    assert "v_HandStandPushups_g01_c01.avi" in made.unreadable[0]
    assert not (tmp_path / "root" / ".prepare").exists()


class Stopped(BaseException):
    pass


@pytest.mark.parametrize(
    "fatal", [pytest.param(step, marks=[] if step in (3, 13, 26) else pytest.mark.slow) for step in range(1, 31)]
)
def test_a_run_that_is_cut_short_anywhere_goes_on(hmdb, tmp_path, monkeypatch, fatal):
    """5 archives to unpack, 15 files to move, 10 lists to write: stopped before each, and run again to the end."""
    monkeypatch.setattr(preparing, "_unreadable", lambda dataset, progress: ())
    calls: list[str] = []
    limit = fatal

    def counted(name):
        original = getattr(preparing, name)

        def step(*arguments):
            calls.append(name)
            if len(calls) == limit:
                raise Stopped
            original(*arguments)

        return step

    for name in ("unpack", "_move", "_write"):
        monkeypatch.setattr(preparing, name, counted(name))
    with pytest.raises(Stopped):
        prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")
    limit = 0
    made = prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")
    assert (made.wrong, made.videos) == ((), 6)
    assert calls.count("unpack") == 5 + (calls[fatal - 1] == "unpack")  # what was unpacked once stays so
    assert not (tmp_path / "root" / ".prepare").exists()


def test_an_interrupted_archive_is_known_by_all_its_files(hmdb, tmp_path, monkeypatch):
    """Also by those that were moved before the interruption: one that is lost later is unpacked again."""
    monkeypatch.setattr(preparing, "_unreadable", lambda dataset, progress: ())
    root, moved = tmp_path / "root", []
    move = preparing._move

    def stop_at_the_fourth(source, target):
        if len(moved) == 3:
            raise Stopped
        move(source, target)
        moved.append(target)

    def stop_at_the_second(archive, folder):
        raise Stopped

    for name, step in (("_move", stop_at_the_fourth), ("unpack", stop_at_the_second)):
        with monkeypatch.context() as this_time:
            this_time.setattr(preparing, name, step)
            with pytest.raises(Stopped):
                prepare(hmdb, root, archives=tmp_path / "archives")
    assert [path.name for path in (root / ".prepare" / "done").iterdir()] == ["test_train_splits.rar.json"]
    moved[0].unlink()
    made = prepare(hmdb, root, archives=tmp_path / "archives")
    assert (made.wrong, made.videos) == ((), 6)


def test_what_is_missing_is_counted(hmdb, tmp_path):
    rars.rar4(tmp_path / "archives" / "hmdb51_org.rar", {"sword.rar": (tmp_path / "sword.rar").read_bytes()})
    made = prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")
    assert made.wrong[0].startswith("2 videos of 6; 4 are missing, such as brush_hair/#A")
    assert "split 1: 1 to train and 1 to test, of 3 and 3" in made.wrong


def test_a_file_of_the_user_is_not_replaced(hmdb, tmp_path):
    mine = tmp_path / "root" / "sword" / clip("sword", 0)
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="another size"):
        prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")
    assert mine.read_bytes() == b"mine"


def test_an_archive_that_is_not_in_the_folder(hmdb, tmp_path):
    (tmp_path / "archives" / "hmdb51_org.rar").unlink()
    with pytest.raises(MissingError, match=r"no hmdb51_org.rar in .*serre-lab"):
        prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")


def test_an_evil_archive_inside_is_refused(hmdb, tmp_path):
    evil = rars.rar4(tmp_path / "evil.rar", {"../../../../evil.avi": b"x"}).read_bytes()
    rars.rar4(tmp_path / "archives" / "hmdb51_org.rar", {"sword.rar": evil})
    with pytest.raises(UsageError, match="leads out of its folder"):
        prepare(hmdb, tmp_path / "root", archives=tmp_path / "archives")
    assert not list(tmp_path.rglob("evil.avi"))


@pytest.mark.parametrize("name", ["hmdb51", "ucf101"])
def test_recipes_agree_with_the_official_lists(shared, name):
    """Counts of the recipes against the lists themselves."""
    from collections import Counter

    from pipeline.datasets import hmdb51, ucf101

    module, lists = {
        "hmdb51": (hmdb51, "splits/hmdb51/testTrainMulti_7030_splits"),
        "ucf101": (ucf101, "ucf101-mini/ucfTrainTestlist"),
    }[name]
    classes, listed = module.read_lists(shared / "data" / lists)
    recipe = RECIPES[name]
    assert (len(listed), len(classes)) == (recipe.official.num_videos, recipe.official.num_classes)
    for split, sizes in enumerate(recipe.official.splits):
        counts = Counter(item.splits[split] for item in listed)
        assert (counts["train"], counts["test"]) == sizes
