"""Adapters: official lists and layouts, what is missing and what no list names, and words for what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.datasets import default_root, hmdb51, load_dataset, ucf101
from pipeline.datasets.base import scan_videos
from store.errors import MissingError, UsageError

UCF_LISTS = "ucf101-mini/ucfTrainTestlist"
HMDB_LISTS = "splits/hmdb51/testTrainMulti_7030_splits"


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def sizes(videos, split: int) -> tuple[int, int]:
    count = Counter(video.splits[split] for video in videos)
    return count["train"], count["test"]


def ucf_tree(root: Path) -> Path:
    """Two classes with the official layout in small, one listed video absent."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Archery\n2 HandstandPushups\n")
    train = "Archery/v_Archery_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g01_c01.avi 2\n"
    test = "Archery/v_Archery_g01_c01.avi\r\n\n"
    for split in (1, 2, 3):
        (lists / f"trainlist{split:02d}.txt").write_text(train)
        (lists / f"testlist{split:02d}.txt").write_text(test)
    touch(
        root / "UCF-101",
        "Archery/v_Archery_g08_c01.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "HandstandPushups/extra.avi",
        "HandstandPushups/.hidden.avi",
        "Archery/notes.txt",
    )
    return root


# --- ucf101


def test_ucf101_present_missing_and_unlisted(tmp_path):
    dataset = load_dataset("ucf101", ucf_tree(tmp_path))
    assert [(v.video_id, v.path, v.label, v.source, v.splits) for v in dataset.videos] == [
        ("v_Archery_g08_c01", "UCF-101/Archery/v_Archery_g08_c01.avi", 0, "Archery_g08", ("train",) * 3),
        (
            "v_HandStandPushups_g01_c01",
            "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi",
            1,
            "HandstandPushups_g01",
            ("train",) * 3,
        ),
    ]
    assert dataset.missing == ("UCF-101/Archery/v_Archery_g01_c01.avi",)
    assert dataset.unlisted == ("UCF-101/HandstandPushups/extra.avi",)
    assert dataset.class_names == ("Archery", "HandstandPushups")


def test_ucf101_root_may_be_the_class_folders_with_lists_elsewhere(tmp_path):
    ucf_tree(tmp_path / "a")
    lists = (tmp_path / "a/ucfTrainTestlist").rename(tmp_path / "lists")
    dataset = load_dataset("ucf101", tmp_path / "a/UCF-101", splits_dir=lists)
    assert dataset.videos[0].path == "Archery/v_Archery_g08_c01.avi"
    with pytest.raises(MissingError, match=r"classInd\.txt.*looked in .*--splits DIR"):
        load_dataset("ucf101", tmp_path / "a/UCF-101")


def test_ucf101_matches_other_case_and_other_container(tmp_path):
    ucf_tree(tmp_path)
    (tmp_path / "UCF-101/HandstandPushups").rename(tmp_path / "UCF-101/HandStandPushups")
    (tmp_path / "UCF-101/Archery/v_Archery_g08_c01.avi").rename(tmp_path / "UCF-101/Archery/v_Archery_g08_c01.mp4")
    dataset = load_dataset("ucf101", tmp_path)
    assert [v.path.split("/", 1)[1] for v in dataset.videos] == [
        "Archery/v_Archery_g08_c01.mp4",
        "HandStandPushups/v_HandStandPushups_g01_c01.avi",
    ]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("classInd.txt", "0 Archery\n", r"classInd\.txt, line 1: '0 Archery'"),
        ("trainlist02.txt", "Archery/v_Archery_g01_c02.avi 2\n", r"trainlist02\.txt, line 1: .* class index"),
        ("testlist01.txt", "Archery/v_Archery_g08_c01.avi\n", r"testlist01\.txt, line 1: .* both train and test"),
        ("testlist03.txt", "Juggling/v_Juggling_g01_c02.avi\n", r"testlist03\.txt, line 1"),
        ("testlist03.txt", "Archery/archery.avi\n", r"no group"),
    ],
)
def test_ucf101_lists_are_checked(tmp_path, file, text, words):
    ucf_tree(tmp_path)
    (tmp_path / "ucfTrainTestlist" / file).write_text(text)
    with pytest.raises(UsageError, match=words):
        load_dataset("ucf101", tmp_path)


def test_ucf101_official_lists_on_a_complete_tree(shared, tmp_path):
    names, listed = ucf101.read_lists(shared / "data" / UCF_LISTS)
    for name in names:
        (tmp_path / name).mkdir()
    for item in listed:
        (tmp_path / item.path).touch()
    dataset = load_dataset("ucf101", tmp_path, splits_dir=shared / "data" / UCF_LISTS)
    assert len(dataset.videos) == dataset.expected_videos == 13_320
    assert (len(dataset.class_names), dataset.missing, dataset.unlisted) == (101, (), ())
    assert [sizes(dataset.videos, split) for split in range(3)] == [(9_537, 3_783), (9_586, 3_734), (9_624, 3_696)]
    assert len({video.video_id for video in dataset.videos}) == 13_320
    assert len({video.source for video in dataset.videos}) == 101 * 25
    for split in range(3):  # a group is never on both sides
        sides = {(video.source, video.splits[split]) for video in dataset.videos}
        assert len(sides) == 101 * 25


def test_ucf101_mini(shared):
    root = shared / "data/ucf101-mini"
    on_disk = len(list(root.glob("UCF-101/*/*.avi")))
    dataset = load_dataset("ucf101", root)
    assert len(dataset.videos) == on_disk > 0
    assert len(dataset.missing) == 13_320 - on_disk
    assert dataset.unlisted == ()
    assert all(video.bytes == (root / video.path).stat().st_size > 0 for video in dataset.videos)


# --- hmdb51


def test_hmdb51_official_lists_on_a_complete_tree(shared, tmp_path):
    names, listed = hmdb51.read_lists(shared / "data" / HMDB_LISTS)
    for name in names:
        (tmp_path / name).mkdir()
    for item in listed:
        (tmp_path / item.path).touch()
    dataset = load_dataset("hmdb51", tmp_path, splits_dir=shared / "data" / HMDB_LISTS)
    assert len(dataset.videos) == dataset.expected_videos == 6_766
    assert (len(dataset.class_names), dataset.missing, dataset.unlisted) == (51, (), ())
    assert [sizes(dataset.videos, split) for split in range(3)] == [(3_570, 1_530)] * 3
    assert Counter(video.splits[0] for video in dataset.videos)[""] == 1_666
    assert len({video.video_id for video in dataset.videos}) == 6_766
    assert set("#&();![]+@") <= {character for video in dataset.videos for character in video.path}
    assert dataset.class_names.index("sword_exercise") + 1 == dataset.class_names.index("sword")
    by_id = {video.video_id: video for video in dataset.videos}
    assert by_id["TheBoondockSaints_sit_u_nm_np10_ba_med_0"].source == "TheBoondockSaints"
    assert by_id["metacafe_coolsoccer_run_f_cm_np10_le_bad_2"].class_name == "run"
    for split in range(3):  # a film is never on both sides with the same class
        of = {side: {(v.source, v.label) for v in listed if v.splits[split] == side} for side in ("train", "test")}
        assert all(of.values())
        assert of["train"].isdisjoint(of["test"])


def test_hmdb51_folder_inside_the_root_and_spaces_at_line_ends(tmp_path):
    name = "#20_(Rhythm)_clap_&!_[x]+@;_clap_u_nm_np1_fr_goo_0"
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for split, subset in enumerate("120", 1):
        (lists / f"clap_test_split{split}.txt").write_text(f"{name}.avi {subset} \nb_clap_u_cm_np2_le_bad_12.avi 1 \n")
    touch(tmp_path / "hmdb51_org", f"clap/{name}.avi")
    dataset = load_dataset("hmdb51", tmp_path)
    (video,) = dataset.videos
    assert video.path == f"hmdb51_org/clap/{name}.avi"
    assert video.splits == ("train", "test", "")
    assert video.source == "#20_(Rhythm)_clap_&!_[x]+@;"
    assert dataset.missing == ("hmdb51_org/clap/b_clap_u_cm_np2_le_bad_12.avi",)
    (lists / "clap_test_split2.txt").write_text(f"{name}.avi 3\n")
    with pytest.raises(UsageError, match=r"clap_test_split2\.txt, line 1"):
        load_dataset("hmdb51", tmp_path)
    (lists / "clap_test_split2.txt").unlink()
    with pytest.raises(MissingError, match=r"clap_test_split2\.txt"):
        load_dataset("hmdb51", tmp_path)


def test_hmdb51_title_of_a_class_with_an_underscore():
    title = hmdb51.source_title("Ballfangen_shoot_ball_catch_shoot_ball_u_cm_np1_fr_goo_10", "shoot_ball")
    assert title == "Ballfangen_shoot_ball_catch"
    with pytest.raises(UsageError, match="holiday"):
        hmdb51.source_title("holiday", "shoot_ball")


# --- folder


def test_folder_makes_a_stratified_split_of_its_own(tmp_path):
    touch(tmp_path, *(f"jump/{i}.mp4" for i in range(10)), *(f"run/deep/{i}.mkv" for i in range(2)), "sit/only.avi")
    touch(tmp_path, "loose.mp4", ".cache/x.mp4", "run/readme.txt")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.class_names == ("jump", "run", "sit")
    assert dataset.unlisted == ("loose.mp4",)
    count = Counter((video.class_name, video.splits[0]) for video in dataset.videos)
    assert count == {
        ("jump", "train"): 7,
        ("jump", "test"): 3,
        ("run", "train"): 1,
        ("run", "test"): 1,
        ("sit", "train"): 1,
    }
    assert load_dataset("folder", tmp_path) == dataset
    assert load_dataset("folder", tmp_path, seed=1).videos != dataset.videos


@pytest.mark.parametrize(
    ("tops", "expected"),
    [
        (("train", "test"), {"train": "train", "test": "test"}),
        (("train", "val"), {"train": "train", "val": "test"}),
        (("train", "val", "test"), {"train": "train", "val": "", "test": "test"}),
    ],
)
def test_folder_takes_the_split_on_disk(tmp_path, tops, expected):
    for top in tops:
        touch(tmp_path, f"{top}/jump/a.mp4", f"{top}/run/a.mp4")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.class_names == ("jump", "run")
    assert {video.path.split("/")[0]: video.splits[0] for video in dataset.videos} == expected
    assert len({video.video_id for video in dataset.videos}) == len(dataset.videos) == 2 * len(tops)


def test_folder_with_a_class_called_train(tmp_path):
    touch(tmp_path, "train/a.mp4", "bus/b.mp4")
    assert load_dataset("folder", tmp_path).class_names == ("bus", "train")
    touch(tmp_path, "train/steam/c.mp4")
    assert load_dataset("folder", tmp_path).class_names == ("bus", "train")


def test_folder_with_half_a_split_is_refused(tmp_path):
    touch(tmp_path, "train/jump/a.mp4", "train/run/a.mp4")
    with pytest.raises(
        UsageError, match=r"holds train/ and no test/; put test/ \(or val/\) beside it, or pass --root .*train"
    ):
        load_dataset("folder", tmp_path)
    assert load_dataset("folder", tmp_path / "train").class_names == ("jump", "run")
    touch(tmp_path, "test/jump/b.mp4", "cut/loose.mp4")
    with pytest.raises(UsageError, match=r"holds train/ and test/ or val/, and cut/ beside them; move cut/ elsewhere"):
        load_dataset("folder", tmp_path)


def test_folder_ids_are_unique(tmp_path):
    touch(tmp_path, "run/a.mp4", "run/a.avi", "run/b.avi")
    assert [video.video_id for video in load_dataset("folder", tmp_path).videos] == ["run/a.avi", "run/a.mp4", "run/b"]


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "elsewhere", "a.mp4")
    (tmp_path / "root/run").mkdir(parents=True)
    (tmp_path / "root/jump").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/run/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/run/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "root/run/itself.mp4").symlink_to("itself.mp4")
    dangling: list[str] = []
    assert list(scan_videos(tmp_path / "root", dangling=dangling)) == ["jump/a.mp4"]
    assert sorted(dangling) == ["run/gone.mp4", "run/itself.mp4"]
    assert load_dataset("folder", str(tmp_path / "root")).missing == ("run/gone.mp4", "run/itself.mp4")


# --- names and absence


def test_unknown_name_suggests_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"'hmbd51'; allowed: .*did you mean hmdb51\?"):
        load_dataset("hmbd51", tmp_path)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "folder", "manifest"])
def test_no_video_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("VILP_DATA", str(tmp_path))
    assert default_root(name) == tmp_path / name
    for _ in range(2):  # neither a missing nor an empty folder
        with pytest.raises(MissingError, match=rf"{re.escape(str(tmp_path / name))}.*--root") as caught:
            load_dataset(name)
        assert caught.value.kind == "missing-data"
        (tmp_path / name).mkdir(exist_ok=True)


def test_lists_without_any_of_their_videos(tmp_path):
    ucf_tree(tmp_path)
    for path in (tmp_path / "UCF-101").rglob("v_*.avi"):
        path.unlink()
    with pytest.raises(MissingError, match=r"3 listed videos are missing, 1 files are named in no list"):
        load_dataset("ucf101", tmp_path)


def test_splits_dir_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(UsageError, match="--splits"):
        load_dataset("folder", tmp_path, splits_dir=tmp_path)
