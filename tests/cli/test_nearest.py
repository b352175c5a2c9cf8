"""Wherever a value is one of a few, an error names the nearest of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import stores
from commands import Vilp
from hypothesis import given
from hypothesis import strategies as st

from store.errors import nearest

EXTRACT = ("extract", "--dataset", "folder", "--root", "videos", "--store", "new", "--pose", "none", "--clip", "tiny")


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (("extract", "--dataset", "HMDB5"), "hmdb51"),
        ((*EXTRACT, "--engine", "inlin"), "inline"),
        ((*EXTRACT, "--pose", "mmpos"), "mmpose"),
        ((*EXTRACT, "--decoder", "pyvav"), "pyav"),
        ((*EXTRACT, "--views", "centre"), "center"),
        ((*EXTRACT, "--tokens", "value,penul"), "penult"),
        ((*EXTRACT, "--precision", "fp23"), "fp32"),
        ((*EXTRACT, "--device", "cud"), "cuda"),
        ((*EXTRACT, "--modality", "clop"), "clip"),
        ((*EXTRACT, "--pose", "onnx", "--heatmap", "limb"), "limbs"),
        ((*EXTRACT, "--clip", "VitB16"), "ViT-B-16"),
        ((*EXTRACT, "--clip", "ViT-B-16", "--clip-pretrained", "opnai"), "openai"),
        (("train-head", "--head", "pvsc"), "pvcs"),
        (("train-head", "--head", "vcs+pos"), "vcs+pose"),
        (("train-head", "--head", "vcs", "--loss", "in-bacth"), "in-batch"),
        (("train-head", "--head", "vcs", "--word-mode", "name-eot"), "name+eot"),
        (("train-head", "--head", "pvcs", "--pose-in", "weight"), "weights"),
        (("train-head", "--head", "vcs", "--device", "cup"), "cpu"),
        (("train-head", "--head", "vcs", "--clip", "maed-up-aa2fda6c"), "made-up-"),
        (("study", "tokns"), "tokens"),
        (("inspect", "--video", "v33"), "v3"),
        (("search", "--like", "w3"), "v3"),
        (("search", "--like", "v3", "--by", "frames"), "frame"),
        (("export", "--out", "x", "--format", "web-dataset"), "webdataset"),
        (("delete", "pose/maade"), "pose/"),
        (("benchmark", "decod"), "decode"),
        (("datasets", "prepare", "ufc101"), "ucf101"),
    ],
)
def test_the_nearest_value_is_named(run: Vilp, tmp_path: Path, arguments: tuple[str, ...], guess: str) -> None:
    stores.build(tmp_path / "stores" / "mine")
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "x.mp4").touch()
    outcome = run(*arguments)
    assert outcome.code in (1, 2)
    assert f"; did you mean {guess}" in outcome.line


@given(st.text(), st.lists(st.text()))
def test_a_guess_is_a_value_that_is_allowed(value: str, allowed: list[str]) -> None:
    guess = nearest(value, allowed)
    assert guess == "" or guess.removeprefix("; did you mean ").removesuffix("?") in allowed


def test_nothing_near_is_no_guess() -> None:
    assert nearest("svm", ("mean", "pvcs", "fuse")) == ""
