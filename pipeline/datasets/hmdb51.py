"""HMDB51 in its official layout: ``<class>/<name>.avi`` and ``testTrainMulti_7030_splits/<class>_test_split<k>.txt``.

The root is the folder of class folders, or holds it as ``hmdb51_org/`` or ``videos/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.datasets.base import TEST, TRAIN, UNUSED, Dataset, stem
from pipeline.datasets.official import Listed, Official, load_official, read_list
from store.errors import UsageError

_PAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database"
HMDB51 = Official(
    name="hmdb51",
    num_videos=6_766,
    num_classes=51,
    splits=((3570, 1530),) * 3,
    licence=f"CC BY 4.0; the footage belongs to its owners ({_PAGE})",
    hint=(
        f"unpack hmdb51_org.rar (every class archive in it too) and test_train_splits.rar of {_PAGE} there, "
        "let vilp-pipe datasets prepare hmdb51 do that, or pass --root DIR (and --splits DIR)"
    ),
    folders=("hmdb51_org", "videos"),
    lists="testTrainMulti_7030_splits",
    marker="*_test_split1.txt",
)

_SUBSETS = {"0": UNUSED, "1": TRAIN, "2": TEST}


def load(root: Path, splits_dir: Path | None) -> Dataset:
    """See ``load_official``."""
    return load_official(HMDB51, read_lists, root, splits_dir)


def read_lists(folder: Path) -> tuple[tuple[str, ...], list[Listed]]:
    """Class names in the order of the list files' names, and every listed video.

    The order of file names puts ``sword_exercise`` before ``sword``; published label maps have that order too.
    """
    ending = "_test_split1.txt"
    class_names = tuple(path.name.removesuffix(ending) for path in sorted(folder.glob(f"*{ending}")))
    listed = []
    for label, class_name in enumerate(class_names):
        splits: dict[str, list[str]] = {}
        for split in range(len(HMDB51.splits)):
            path = folder / f"{class_name}_test_split{split + 1}.txt"
            for number, line in read_list(path):
                name, _, subset = line.rpartition(" ")
                if subset not in _SUBSETS or not name:
                    raise UsageError(f"{path}, line {number}: {line!r} is not 'name.avi 0', '... 1' or '... 2'")
                splits.setdefault(name.strip(), [UNUSED] * len(HMDB51.splits))[split] = _SUBSETS[subset]
        listed += [
            Listed(f"{class_name}/{name}", stem(name), label, source_title(stem(name), class_name), tuple(subsets))
            for name, subsets in splits.items()
        ]
    return class_names, listed


def source_title(video_id: str, class_name: str) -> str:
    """The title of the film that a clip was cut from.

    A name is the title, the class, five labels (visible body parts, camera motion, number of persons, direction,
    quality) and a number: ``TheBoondockSaints_sit_u_nm_np10_ba_med_0``.
    """
    labels = rf"_{re.escape(class_name)}_[a-z]+_(?:cm|nm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+"
    match = re.fullmatch(rf"(.+?){labels}", video_id)
    if match is None:
        raise UsageError(f"{video_id!r} is not a clip name of hmdb51's class {class_name!r}; take the official lists")
    return match[1]
