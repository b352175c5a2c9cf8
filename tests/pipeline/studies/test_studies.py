"""Every study answers with a table, a picture and a verdict, and finds what was planted."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.head import HeadConfig, TrainConfig
from pipeline.studies import STUDIES, StudyConfig, run_study
from pipeline.studies.base import without_pose
from pipeline.studies.frames import _motion
from pipeline.studies.groups import common_verdict
from pipeline.studies.measures import class_means, class_medians, measure_keypoints, terciles
from pipeline.studies.verdict import EQUIVALENT, HELPS, INCONCLUSIVE, Gain
from store.errors import MissingError, StoreError, UsageError

QUICK = TrainConfig(epochs=2, batch_size=32)


def config_of(made, **options):
    given = {"frames": 4, "seeds": 1, "device": "cpu", "training": QUICK, **options}
    return StudyConfig(store=str(made.root), **given)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_writes_its_answer(make_store, tmp_path, name):
    made = make_store(second_clip=name == "backbone", second_pose=name == "estimators")
    options = {"clip": made.clip.id} if name != "backbone" else {}
    if name == "transfer":
        other = make_store("other", class_names=("pour", "run", "swim", "talk"), order=(2, 0, 3, 1), dataset="others")
        options["to"] = str(other.root)
    lines = []
    report = run_study(name, config_of(made, seeds=2, **options), out=tmp_path / "out", note=lines.append)
    assert report.verdict in (HELPS, EQUIVALENT, INCONCLUSIVE)
    assert lines
    record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert record["verdict"] == report.verdict
    assert record["question"] == STUDIES[name]
    assert record["settings"]["features"]["fingerprint"]
    assert record["settings"]["training"]["epochs"] == 2
    assert len(record["rows"]) >= 2
    assert {len(row) for row in record["rows"]} == {len(record["columns"])}
    markdown = (tmp_path / "out" / f"{name}.md").read_text()
    assert f"**Verdict: {report.verdict}.** {report.sentences[0]}" in markdown
    assert "random weights" in markdown
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert min(picture.size) > 250
        assert len(set(picture.convert("RGB").resize((60, 60)).get_flattened_data())) > 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.{kind}" for kind in ("json", "md", "png")
    ]
    run_study(name, config_of(made, **options), out=tmp_path / "out")  # replaces its own


def test_pose_that_carries_the_class_helps(make_store, tmp_path):
    made = make_store(videos=320, persons=True, noise=0.7)
    training = TrainConfig(epochs=12, batch_size=32, learning_rate=3e-3)
    head = HeadConfig(head="pvcs", sigma=0.4)
    report = run_study("pose", config_of(made, head=head, training=training), out=tmp_path / "out")
    assert report.verdict == HELPS, report.markdown
    assert report.details["gains"]["video + text"]["gain"] > 0.1


def test_pose_that_tells_the_class_by_itself_helps(make_store, tmp_path):
    """No head can beat the poses of another video of the same class here: who picks them knows the answer."""
    made = make_store(videos=240, movements=True, noise=4.0)
    training = TrainConfig(epochs=8, batch_size=32, learning_rate=3e-3)
    head = HeadConfig(head="vcs+pose")
    report = run_study("pose", config_of(made, head=head, training=training), out=tmp_path / "out")
    assert report.verdict == HELPS, report.markdown
    gains = report.details["gains"]
    assert gains["video + text"]["gain"] > 0.1
    assert gains["same class"]["verdict"] != HELPS
    assert "what poses say of a class may be all that counts" in report.markdown


def test_pose_that_is_noise_does_not_help(make_store, tmp_path):
    """Pooling any tokens helps here, so the head beats the one without pose; placebos say that it is not the pose."""
    made = make_store(videos=240, noise=2.0)
    training = TrainConfig(epochs=6, batch_size=32)
    report = run_study("pose", config_of(made, head=HeadConfig(head="pvcs"), training=training), out=tmp_path / "out")
    assert report.verdict != HELPS, report.markdown


def test_the_table_is_what_was_trained(make_store, tmp_path):
    made = make_store()
    report = run_study("pose", config_of(made, split="all", seeds=2), out=tmp_path / "out")
    top1 = report.details["top1"]
    assert all(np.shape(values) == (2, 2) for values in top1.values())
    for name, found in report.details["gains"].items():
        difference = np.mean(top1["video + pose + text"]) - np.mean(top1[name])
        assert found["gain"] == pytest.approx(difference)
    assert {"pose in the weights only", "pose in the values only"} < set(top1)


def test_transfer_trains_on_every_split(make_store, tmp_path):
    made = make_store()
    other = make_store("other", class_names=("pour", "run", "swim", "talk"), order=(2, 0, 3, 1), dataset="others")
    report = run_study("transfer", config_of(made, split="all", seeds=2, to=str(other.root)), out=tmp_path / "out")
    top1 = report.details["top1"]
    assert all(np.shape(values) == (2, 2) for values in top1.values())
    assert len({value for row in top1["untrained, video + text"] for value in row}) == 1
    found = report.details["gains"]["video + text"]
    assert found["gain"] == pytest.approx(np.mean(top1["video + pose + text"]) - np.mean(top1["video + text"]))


def test_transfer_goes_where_the_same_model_keeps_other_tokens(make_store, tmp_path):
    made = make_store()
    names = {"class_names": ("pour", "run", "swim", "talk"), "dataset": "others"}
    other = make_store("other", tokens=("value",), **names)
    assert other.clip.id != made.clip.id
    report = run_study("transfer", config_of(made, to=str(other.root)), out=tmp_path / "out")
    assert report.settings["target"]["clip"] == other.clip.id
    stranger = make_store("stranger", seed=1, **names)
    with pytest.raises(StoreError, match=f"has features of {made.clip.id} and .* has {stranger.clip.id}; extract both"):
        run_study("transfer", config_of(made, to=str(stranger.root)), out=tmp_path / "out")


def test_encoders_without_words_are_compared_where_the_head_can_do_without(make_store, tmp_path):
    made = make_store(video=True)
    both = config_of(made, head=HeadConfig(head="attn+pose"))
    report = run_study("backbone", both, out=tmp_path / "both")
    assert [row[0] for row in report.rows] == [made.clip.id, made.video.id]
    assert "Left out" not in report.markdown
    with pytest.raises(UsageError, match=f"so {made.video.id} of .* has no rival there; give --head mean.pose$"):
        run_study("backbone", config_of(made), out=tmp_path / "one")
    assert any("the video model has random weights" in warning for warning in report.warnings)
    second = make_store("second", video=True, second_clip=True)
    report = run_study("backbone", config_of(second), out=tmp_path / "words")
    assert {row[0] for row in report.rows} == {second.clip.id, second.second_clip.id}
    assert f"Left out: {second.video.id}; head pvcs reads words" in report.markdown


def test_what_a_head_is_without_pose():
    assert without_pose(HeadConfig(head="pvcs", tau=0.02)) == HeadConfig(head="vcs", tau=0.02)
    assert without_pose(HeadConfig(head="pvcs-joint")) == HeadConfig(head="vcs")
    assert without_pose(HeadConfig(head="vilp")) == HeadConfig(head="vilp", kappa=0.0)
    assert without_pose(HeadConfig()) == HeadConfig(modalities="V+T")
    assert without_pose(HeadConfig(modalities="V+P")) == HeadConfig(modalities="V")
    assert without_pose(HeadConfig(head="fuse+pose")) == HeadConfig(modalities="V+T")
    assert without_pose(HeadConfig(head="vcs+pose")) == HeadConfig(head="vcs")
    for head in (HeadConfig(head="vcs"), HeadConfig(head="pose"), HeadConfig(modalities="P+T")):
        with pytest.raises(UsageError, match="which is nothing without pose, or reads none; give --head pvcs"):
            without_pose(head)


def test_what_a_study_cannot_work_with_is_said_before_it_starts(make_store, tmp_path):
    made = make_store()
    out = tmp_path / "out"
    for name, options, error, message in (
        ("poses", {}, UsageError, "study is 'poses'; allowed: pose, frames"),
        ("pose", {"head": HeadConfig(head="vcs")}, UsageError, "head is 'vcs'"),
        ("transfer", {}, UsageError, "to is not given"),
        ("transfer", {"to": str(made.root)}, UsageError, "has the same classes"),
        ("backbone", {}, MissingError, "has 1 encoders .* --modality clip --clip MODEL"),
        ("estimators", {}, MissingError, "has 1 pose estimators .* --modality pose --pose BACKEND"),
        ("pose", {"split": 7}, UsageError, "split is 7; allowed: 1, 2, all"),
    ):
        with pytest.raises(error, match=message):
            run_study(name, config_of(made, **options), out=out)
    assert not out.exists()
    with pytest.raises(
        MissingError, match=r"holds value tokens and this study compares several.* --tokens value,penult,last"
    ):
        run_study("tokens", config_of(make_store("few", tokens=("value",))), out=out)
    with pytest.raises(MissingError, match=r"reads pose and .* has none; add it with"):
        run_study("pose", config_of(make_store("poseless", pose=False)), out=out)
    for options, message in (({"seeds": 0}, "seeds is 0"), ({"training": TrainConfig(epochs=0)}, "epochs is 0")):
        with pytest.raises(UsageError, match=message):
            config_of(made, **options)
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no study pose"):
        run_study("pose", config_of(made), out=out)


def test_a_verdict_for_several_groups_is_one_that_all_share():
    helps, same, draw = Gain(0.02, 0.01, 0.03), Gain(0.0, -0.001, 0.001), Gain(0.0, -0.02, 0.02)
    assert common_verdict([helps, helps]) == HELPS
    assert common_verdict([same, same]) == EQUIVALENT
    assert common_verdict([helps, same]) == common_verdict([draw, helps]) == INCONCLUSIVE


def test_measures_of_persons():
    keypoints = torch.zeros(4, 6, 2, 17, 3)
    grid = torch.stack([torch.arange(17) % 4, torch.arange(17) // 4], -1) / 20 + 0.3
    keypoints[0, :, 1, :, :2], keypoints[0, :, 1, :, 2] = grid, 0.9  # stands still, always there
    keypoints[1, :, 0] = keypoints[0, :, 1]
    keypoints[1, :, 0, :, 0] += 0.02 * torch.arange(6)[:, None]  # walks without moving a limb
    keypoints[2, :3, 0] = keypoints[0, :3, 1]  # leaves half-way
    keypoints[2, :3, 0, 5:, 2] = 0.1  # most joints are hardly visible
    found = measure_keypoints(keypoints, torch.ones(4))
    assert found.detected.tolist() == pytest.approx([1, 1, 0.5, 0])
    assert found.visible.tolist() == pytest.approx([1, 1, 5 / 17, 0])
    assert found.motion[[0, 2, 3]].tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    size = float((grid - grid.mean(0)).square().sum().div(17).sqrt())
    assert found.motion[1] == pytest.approx(0.02 / size, rel=1e-3)
    assert found.variation.tolist() == pytest.approx([0, 0, 0, 0], abs=1e-3)
    keypoints[0, ::2, 1, 9, 1] += 0.1  # waves
    waving = measure_keypoints(keypoints, torch.ones(4))
    assert waving.motion[0] == pytest.approx(0.1 / 17 / size, rel=0.1)
    # The hand is half of its way from its mean place, and takes the middle of the joints along a little.
    assert waving.variation[0] == pytest.approx(0.05 * 16**0.5 / 17 / size, rel=0.1)


def test_classes_without_videos_are_no_number():
    values, labels = np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2])
    np.testing.assert_array_equal(class_means(values, labels, 4), [2, np.nan, 5, np.nan])
    np.testing.assert_array_equal(class_medians(values, labels, 4), [2, np.nan, 5, np.nan])
    assert terciles(np.array([5, np.nan, 1, 3, 2, 9, 7.0])).tolist() == [1, -1, 0, 1, 0, 2, 2]


def test_tokens_show_persons_where_they_look_like_nothing_else(make_store, tmp_path):
    blind = make_store("blind", marked_boxes=0.0, tokens=("value", "penult", "last"))
    found = run_study("tokens", config_of(blind), out=tmp_path / "one").details["area"]
    assert set(found) == {"penult", "value", "last"}
    assert all(area["low"] < 0.55 for area in found.values())
    seeing = make_store("seeing", marked_boxes=6.0)
    found = run_study("tokens", config_of(seeing), out=tmp_path / "two").details["area"]
    assert all(area["low"] > 0.9 for area in found.values())


def test_classes_without_videos_have_no_motion(monkeypatch):
    """And no warning of NumPy's about the mean of nothing."""
    motions = [np.array([1.0, np.nan, 3.0]), np.array([2.0, np.nan, np.nan])]
    labels = [np.array([0, 2]), np.array([0])]
    found = {("vcs", frames): [np.ones((1, 2)), np.zeros((1, 1))] for frames in (1, 4)}
    with warnings.catch_warnings(action="error"):
        motion, gain, _ = _motion(found, "vcs", 4, motions, labels, [("a", "b"), ("c",)])
    assert (motion.tolist(), gain.tolist()) == ([1.5, 3.0], [0.0, 0.0])


@pytest.mark.parametrize("head", ["vcs", "mean", "attn"])
def test_frames_of_a_head_without_pose_need_no_pose_group(make_store, tmp_path, head):
    made = make_store(second_pose=True)
    report = run_study("frames", config_of(made, head=HeadConfig(head=head)), out=tmp_path / "out")
    assert [row[0] for row in report.rows] == list(dict.fromkeys(("mean", "vcs", head)))
    assert report.sentences[0].startswith(f"{head} with all 4 frames")
    assert len(report.sentences) == 1
