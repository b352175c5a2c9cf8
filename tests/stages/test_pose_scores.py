"""Class scores as mmaction2 dumps them, in both layouts, read as data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.pose.imports.scores import read_scores
from store.errors import MissingError, UsageError

SCORES = np.random.default_rng(0).dirichlet(np.ones(5), size=3).astype(np.float32)
LABELS = [4, 0, 2]
NAMES = ["v_Archery_g01_c01", "a.b_wave_f_cm_np1_ba_bad_0", "k9"]


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def samples(version: str) -> list[dict[str, Any]]:
    found = []
    for values, label in zip(SCORES, LABELS, strict=True):
        scores, truth = torch.from_numpy(values), torch.tensor([label])
        if version == "1.0":
            found.append({"pred_scores": {"item": scores}, "gt_labels": {"item": truth}, "img_shape": (64, 64)})
        elif version == "1.2":
            found.append({"pred_score": scores, "pred_label": scores.argmax()[None], "gt_label": truth})
        else:
            found.append({"pred_score": values, "gt_label": label})
    return found


def annotations(path: Path) -> Path:
    entries = [{"frame_dir": n, "label": label, "total_frames": 3} for n, label in zip(NAMES, LABELS, strict=True)]
    more = [{"frame_dir": "another", "label": 1}]
    split = {"train1": ["another"], "test1": NAMES}
    return write(path, {"split": split, "annotations": [*entries[:2], *more, entries[2]]})


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("version", ["1.0", "1.2", "numpy"])
def test_a_dictionary_a_video(tmp_path: Path, version: str, protocol: int) -> None:
    file = write(tmp_path / "result.pkl", samples(version), protocol)
    found = read_scores(file, annotations(tmp_path / "ann.pkl"))
    assert list(found) == NAMES
    for name, values, label in zip(NAMES, SCORES, LABELS, strict=True):
        np.testing.assert_array_equal(found[name].values, values)
        assert found[name].label == label


def test_an_array_a_video_beside_annotations(tmp_path: Path) -> None:
    file = write(tmp_path / "result.pkl", list(SCORES))
    (tmp_path / "test.txt").write_text("".join(f"folder/{n}.avi 30 {y}\n" for n, y in zip(NAMES, LABELS, strict=True)))
    for names in (annotations(tmp_path / "ann.pkl"), tmp_path / "test.txt"):
        found = read_scores(file, names)
        assert list(found) == NAMES
        assert found[NAMES[1]].label is None
        np.testing.assert_array_equal(found[NAMES[2]].values, SCORES[2])
    with pytest.raises(MissingError, match=r"does not name its videos; give the annotations .* --late-annotations"):
        read_scores(file)


def test_files_that_name_their_videos_need_no_annotations(tmp_path: Path) -> None:
    entries = [{"frame_dir": f"set/{n}.mp4", **entry} for n, entry in zip(NAMES, samples("1.2"), strict=True)]
    assert list(read_scores(write(tmp_path / "r.pkl", entries))) == NAMES
    with pytest.raises(UsageError, match="has scores of 4 videos with 3 names"):
        read_scores(write(tmp_path / "twice.pkl", [*entries, entries[0]]))


def test_views_of_a_larger_tensor_are_read_as_they_are(tmp_path: Path) -> None:
    whole = torch.arange(30.0).reshape(3, 10)
    file = write(tmp_path / "r.pkl", [{"frame_dir": f"v{i}", "pred_score": row[1::2]} for i, row in enumerate(whole)])
    found = read_scores(file)
    assert [found[f"v{i}"].values.tolist() for i in range(3)] == whole[:, 1::2].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds no list of scores"),
        ([], "holds no list of scores"),
        (["text"], "is no list of finite scores"),
        ([{"frame_dir": "a", "pred_score": np.array([0.5, np.nan])}], "is no list of finite scores"),
        ([{"frame_dir": "a", "pred_label": 3}], "is no list of finite scores"),
        ([np.ones(3), np.ones(4)], "of 3 and of 4 classes"),
    ],
)
def test_what_holds_no_scores_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_scores(write(tmp_path / "r.pkl", content))


def test_annotations_of_other_videos_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "r.pkl", samples("1.2"))
    names = tmp_path / "names.txt"
    names.write_text("a 1 4\nb 1 0\n")
    with pytest.raises(UsageError, match=r"0 lists of 3 videos .* \(its lists have: 2\)"):
        read_scores(file, names)
    names.write_text("a 1 4\nb 1 0\nc 1 3\n")  # the third is of another class
    with pytest.raises(UsageError, match="0 lists of 3 videos with the classes of the scores"):
        read_scores(file, names)
    with pytest.raises(MissingError, match=r"no file .*gone\.pkl"):
        read_scores(tmp_path / "gone.pkl")


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


class Storage:
    """A tensor's numbers that would run a command when torch reads them."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        data = pickle.dumps(Harmful(self.target))
        return torch.storage._load_from_bytes, (data,)


class Beyond:
    """A tensor that claims more numbers than there are."""

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.arange(3.0).storage()
        return torch._utils._rebuild_tensor_v2, (storage, 0, (2000,), (1,), False, {})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated", "ignore:Detected pickle protocol")
def test_nothing_is_executed_or_read_beyond(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for number, content in enumerate(([Harmful(mark)], [{"pred_score": Storage(mark)}], [{"pred_score": Beyond()}])):
        with pytest.raises(UsageError, match=r"is not read|cannot be read as a pickle"):
            read_scores(write(tmp_path / f"{number}.pkl", content))
    assert not mark.exists()
