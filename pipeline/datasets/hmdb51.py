"""HMDB51 in its official layout: ``<class>/<name>.avi`` and ``testTrainMulti_7030_splits/<class>_test_split<k>.txt``.

The root is the folder of class folders, or holds it as ``hmdb51_org/`` or ``videos/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.datasets.base import (
    TEST,
    TRAIN,
    UNUSED,
    Dataset,
    Listed,
    match_listed,
    need_folder,
    need_videos,
    read_list,
    scan_videos,
    stem,
)
from store.errors import MissingError, UsageError

NUM_VIDEOS = 6_766
NUM_SPLITS = 3
LICENCE = "CC BY 4.0; the footage belongs to its owners (https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database)"
HINT = (
    "unpack hmdb51_org.rar (every class archive in it too) and test_train_splits.rar of "
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database there, "
    "let vilp-pipe datasets prepare hmdb51 do that, or pass --root DIR (and --splits DIR)"
)

_SUBSETS = {"0": UNUSED, "1": TRAIN, "2": TEST}
_LISTS = "testTrainMulti_7030_splits"


def load(root: Path, splits_dir: Path | None) -> Dataset:
    """The videos under ``root`` that the official lists name.

    The lists are in ``splits_dir``, or else beside the videos. Raises ``MissingError`` where there is no video or no
    list, ``UsageError`` where a list is not what it should be.
    """
    need_folder(root, "hmdb51", HINT)
    prefix = next((f"{name}/" for name in ("hmdb51_org", "videos") if (root / name).is_dir()), "")
    class_names, listed = read_lists(_find_lists(root, splits_dir))
    files = {path: info for path, info in scan_videos(root).items() if path.startswith(prefix)}
    videos, missing, unlisted = match_listed(listed, class_names, files, prefix)
    dataset = Dataset("hmdb51", root, class_names, NUM_SPLITS, videos, missing, unlisted, LICENCE, NUM_VIDEOS)
    return need_videos(dataset, str(root / prefix), HINT)


def _find_lists(root: Path, splits_dir: Path | None) -> Path:
    if splits_dir is not None:
        candidates = [splits_dir, splits_dir / _LISTS]
    else:
        candidates = [root / _LISTS, root.parent / _LISTS, root]
    for folder in candidates:
        if any(folder.glob("*_test_split1.txt")):
            return folder
    looked = ", ".join(map(str, candidates))
    raise MissingError(f"no *_test_split1.txt of hmdb51 (looked in {looked}); {HINT}", kind="missing-data")


def read_lists(folder: Path) -> tuple[tuple[str, ...], list[Listed]]:
    """Class names in the order of the list files' names, and every listed video.

    The order of file names puts ``sword_exercise`` before ``sword``; published label maps have that order too.
    """
    ending = "_test_split1.txt"
    class_names = tuple(path.name.removesuffix(ending) for path in sorted(folder.glob(f"*{ending}")))
    listed = []
    for label, class_name in enumerate(class_names):
        splits: dict[str, list[str]] = {}
        for split in range(NUM_SPLITS):
            path = folder / f"{class_name}_test_split{split + 1}.txt"
            for number, line in read_list(path):
                name, _, subset = line.rpartition(" ")
                if subset not in _SUBSETS or not name:
                    raise UsageError(f"{path}, line {number}: {line!r} is not 'name.avi 0', '... 1' or '... 2'")
                splits.setdefault(name.strip(), [UNUSED] * NUM_SPLITS)[split] = _SUBSETS[subset]
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
