"""``export`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stores
from commands import Vilp


def test_export(run: Vilp, tmp_path: Path) -> None:
    stores.build(tmp_path / "stores" / "mine", statuses={5: "quarantined"})
    shown = run("export", "--out", "out", "--shard-size", "40KB")
    assert shown.out.splitlines() == [
        f"9 videos in 3 files in {tmp_path / 'out'} (0 were there)",
        f"embeddings of the class names: text/{stores.TEXT.id}",
        "1 videos of the selection have no features and are left out",
    ]
    again = json.loads(run("export", "--out", "out", "--shard-size", "40KB", "--json").out)
    assert again == {
        "out": str(tmp_path / "out"),
        "format": "webdataset",
        "videos": 9,
        "left_out": 1,
        "files": 3,
        "present": 3,
        "texts": [stores.TEXT.id],
    }
    plain = json.loads(
        run(
            "export", "--out", "npy", "--format", "npy", "--split", 1, "--subset", "test", "--arrays", "cls", "--json"
        ).out
    )
    assert (plain["videos"], plain["files"], len(list((tmp_path / "npy" / "cls").iterdir()))) == (4, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "hdf5"), "format is 'hdf5'; allowed: webdataset, npy"),
        (("--shard-size", "big"), "shard-size is 'big'; allowed: a number of bytes"),
        (("--arrays", "nothing"), "arrays is 'nothing'; allowed: cls"),
    ],
)
def test_an_error_is_one_line(run: Vilp, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    stores.build(tmp_path / "s", shards=(0,))
    outcome = run("export", "--store", "s", "--out", "out", *arguments)
    assert outcome.code == 2
    assert words in outcome.line
