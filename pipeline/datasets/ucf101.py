"""UCF101 in its official layout: ``UCF-101/<Class>/v_<Class>_gNN_cNN.avi`` and the lists of ``ucfTrainTestlist``.

The root is the folder that holds ``UCF-101/`` (and ``ucfTrainTestlist/``), or the folder of class folders itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.datasets.base import TEST, TRAIN, UNUSED, Dataset, stem
from pipeline.datasets.official import Listed, Official, load_official, read_list
from store.errors import UsageError

_PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
UCF101 = Official(
    name="ucf101",
    num_videos=13_320,
    num_classes=101,
    splits=((9537, 3783), (9586, 3734), (9624, 3696)),
    licence=f"research use only ({_PAGE})",
    hint=(
        f"unpack UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip of {_PAGE} "
        "there, let vilp-pipe datasets prepare ucf101 do that, or pass --root DIR (and --splits DIR)"
    ),
    folders=("UCF-101",),
    lists="ucfTrainTestlist",
    marker="classInd.txt",
)

_GROUP = re.compile(r"_g(\d+)_c\d+$")


def load(root: Path, splits_dir: Path | None) -> Dataset:
    """See ``load_official``."""
    return load_official(UCF101, read_lists, root, splits_dir)


def read_lists(folder: Path) -> tuple[tuple[str, ...], list[Listed]]:
    """Class names in the order of their official index, and every listed video.

    The class of a video is its folder in the lists: files of ``HandstandPushups`` are called ``v_HandStandPushups_*``.
    The source is the class and the group, since groups are numbered anew in every class.
    """
    class_names = _read_classes(folder / "classInd.txt")
    label_of = {name: label for label, name in enumerate(class_names)}
    splits: dict[str, list[str]] = {}
    for split in range(len(UCF101.splits)):
        for subset, file in ((TRAIN, f"trainlist{split + 1:02d}.txt"), (TEST, f"testlist{split + 1:02d}.txt")):
            for number, line in read_list(folder / file):
                path, _, index = line.partition(" ")
                where = f"{folder / file}, line {number}"
                label = label_of.get(path.rpartition("/")[0])
                if label is None or (index and index.strip() != str(label + 1)):
                    raise UsageError(
                        f"{where}: {line!r} is not 'Class/name.avi', with the class index of classInd.txt or none"
                    )
                subsets = splits.setdefault(path, [UNUSED] * len(UCF101.splits))
                if subsets[split] not in (UNUSED, subset):
                    raise UsageError(f"{where}: {path!r} is in both train and test; take the official lists")
                subsets[split] = subset
    return class_names, [_listed(path, label_of, tuple(subsets)) for path, subsets in splits.items()]


def _listed(path: str, label_of: dict[str, int], splits: tuple[str, ...]) -> Listed:
    class_name, _, video_id = stem(path).rpartition("/")
    group = _GROUP.search(video_id)
    if group is None:
        raise UsageError(f"{path!r} in the lists of ucf101 has no group; names end in _gNN_cNN")
    return Listed(path, video_id, label_of[class_name], f"{class_name}_g{group[1]}", splits)


def _read_classes(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for number, line in read_list(path):
        index, _, name = line.partition(" ")
        if index != str(len(names) + 1) or not name.strip():
            raise UsageError(f"{path}, line {number}: {line!r} is not '{len(names) + 1} <class name>'")
        names.append(name.strip())
    return tuple(names)
