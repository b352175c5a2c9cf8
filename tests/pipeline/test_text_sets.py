"""Text sets: prompts of the class names, added to a store at any time."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from commands import Vilp
from extractions import small_config

from pipeline.config import resolve
from pipeline.extraction import extract
from pipeline.forecast import forecast
from pipeline.head import HeadConfig, train_head
from pipeline.progress import Progress
from pipeline.repair import repair
from pipeline.status import store_status
from pipeline.studies import StudyConfig
from stages.clip.templates import DEFAULT_TEMPLATES, TEMPLATE_SETS, read_templates
from store import FeatureStore, MissingError, UsageError
from store.local import LocalObjects
from store.verify import verify_store

TWO = ("a video of a person {}.", "somebody {}")


@pytest.fixture(scope="module")
def made(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("texts") / "store"
    extract(small_config(small_videos, store))
    return store


def added(made: Path, to: Path, templates: tuple[str, ...] = TWO) -> FeatureStore:
    shutil.copytree(made, to)
    given = {"modalities": ("text",), "templates": templates, "engine": "inline"}
    assert forecast(resolve(str(to), given)).to_do == 0
    assert extract(resolve(str(to), given)).executed == 0
    return FeatureStore.open(to)


def texts(store: FeatureStore) -> dict[tuple[str, ...], str]:
    found = [group.modality for group in store.groups.values() if group.modality.kind == "text"]
    return {tuple(text.record["templates"]): text.id for text in found}


def test_a_second_text_set_stands_beside_the_first(made: Path, tmp_path: Path) -> None:
    store = added(made, tmp_path / "s")
    names = texts(store)
    assert set(names) == {DEFAULT_TEMPLATES, TWO}
    ensemble = store.text(text=names[TWO])
    assert ensemble.class_embeddings.shape[0] == 2
    first = FeatureStore.open(made).text()
    torch.testing.assert_close(ensemble.class_embeddings[0], first.class_embeddings[0], atol=1e-5, rtol=1e-5)
    extract(resolve(store.url, {"modalities": ("text",), "templates": TWO, "engine": "inline"}))
    assert texts(FeatureStore.open(store.url)) == names
    with pytest.raises(UsageError, match=r"several text groups fit; choose one with --text: .*templates"):
        train_head(store, head="mean", frames=2, epochs=0, out=tmp_path / "run")
    run = train_head(store, head="mean", frames=2, epochs=0, out=tmp_path / "run", text=names[TWO])
    assert run.selection.text == names[TWO]


def test_untrained_heads_are_tested_with_the_text_set_that_is_named(made: Path, tmp_path: Path, vilp: Vilp) -> None:
    names = texts(added(made, tmp_path / "s"))
    test = ("evaluate", "--zero-shot", "--store", tmp_path / "s", "--head", "mean", "--frames", 2, "--device", "cpu")
    assert "several text groups fit; choose one with --text: " in vilp(*test).error
    done = vilp(*test, "--text", names[TWO])
    assert done.code == 0, done.err
    refused = vilp("evaluate", "--run", "runs/r", "--text", names[TWO])
    assert refused.error.endswith("but a run has groups of its own; give --run or --text")


def test_status_names_text_sets_and_what_they_differ_in(made: Path, tmp_path: Path, vilp: Vilp) -> None:
    store = added(made, tmp_path / "s")
    names, (clip,) = texts(store), [path for path in store.groups if path.startswith("clip/") and "/text/" not in path]
    told = {DEFAULT_TEMPLATES: "a video of a person {}.", TWO: "a video of a person {}.+somebod…"}
    expected = {f"    text/{name}: templates {told[templates]}" for templates, name in names.items()}
    lines = vilp("status", "--store", store.url).out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == [clip])
    assert set(lines[at + 1 : at + 3]) == expected
    with pytest.raises(UsageError) as refused:
        store.text()
    assert all(f"{name} (templates {told[templates]})" in str(refused.value) for templates, name in names.items())
    (only,) = store_status(str(made))["texts"]
    assert only == {"path": f"{clip}/text/{names[DEFAULT_TEMPLATES]}", "committed": True, "settings": {}}
    shutil.rmtree(tmp_path / "s" / "_tables" / "commits" / clip / "text" / names[TWO])
    assert (
        f"    text/{names[TWO]}: templates {told[TWO]}: holds nothing yet" in vilp("status", "--store", store.url).out
    )


def test_a_study_reads_the_text_set_that_is_named(made: Path, tmp_path: Path) -> None:
    names = texts(added(made, tmp_path / "s"))
    config = StudyConfig(str(tmp_path / "s"), frames=2, device="cpu", text=names[TWO])
    assert config.job(HeadConfig(head="vcs")).selection.text == names[TWO]
    with pytest.raises(UsageError, match="choose one with --text: "):
        dataclasses.replace(config, text=None).job(HeadConfig(head="vcs"))


def test_a_damaged_text_set_is_made_again(made: Path, tmp_path: Path) -> None:
    store = added(made, tmp_path / "s")
    before = verify_store(LocalObjects(tmp_path / "s")).digest
    (path,) = (tmp_path / "s").rglob(f"{texts(store)[TWO]}/word_embeddings/c*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    objects = LocalObjects(tmp_path / "s")
    report = verify_store(objects)
    assert report.problems
    mended = repair(objects, report, progress=Progress())
    assert not mended.problems
    assert mended.digest == before


def test_a_text_set_needs_features_of_its_model(made: Path, tmp_path: Path, small_videos: Path) -> None:
    shutil.copytree(made, tmp_path / "s")
    other = dataclasses.replace(
        resolve(str(tmp_path / "s"), {"modalities": ("text",), "engine": "inline"}), views=("squash",)
    )
    with pytest.raises(MissingError, match=r"has no features of clip/.* --modality clip --clip"):
        extract(other)
    assert len(texts(FeatureStore.open(tmp_path / "s"))) == 1
    nowhere = dataclasses.replace(small_config(small_videos, tmp_path / "none"), modalities=("text",))
    with pytest.raises(MissingError, match="has no features of clip/"):
        extract(nowhere)
    with pytest.raises(UsageError, match="modality is pose,text; give text alone, or with clip"):
        dataclasses.replace(nowhere, modalities=("pose", "text"))


def test_templates_come_by_name_from_a_file_or_as_they_are(tmp_path: Path) -> None:
    assert read_templates("video") == DEFAULT_TEMPLATES
    assert read_templates("ensemble") == TEMPLATE_SETS["ensemble"]
    assert read_templates("{} | a person, {}") == ("{}", "a person, {}")
    lines = tmp_path / "mine.txt"
    lines.write_text("a film of {}\n\n  {} outdoors \n")
    assert read_templates(str(lines)) == ("a film of {}", "{} outdoors")
    lines.write_bytes(b"\xef\xbb\xbfa film of {}\r\n\r\n{} outdoors\r\n")
    assert read_templates(str(lines)) == ("a film of {}", "{} outdoors")
    for text, message in (
        ("a {} b {}", "which has|give one {}"),
        ("", "a file without a line"),
        ("no place for the name", "give one {}, where the class name goes"),
        ("{} twice\n{} twice", "'{} twice' is there twice"),
    ):
        lines.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_templates(str(lines))
    with pytest.raises(UsageError, match="templates is 'ensembl'; allowed: video, name, photo, ensemble, templates"):
        read_templates("ensembl")


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({}, "---", "class name is '---', which has no word in it"),
        ({}, "ab " * 74 + "ab", r"has 8\d tokens; allowed: up to 77"),
        ({"templates": ("very " * 80 + "{}",)}, "run", "tokens; allowed: up to 77"),
        ({"clip": "ViT-B-16-SigLIP", "tokens": ()}, "run", "take a model with CLIP's own tokenizer"),
    ],
)
def test_class_names_that_do_not_serve_are_refused_before_any_video_is_decoded(
    small_videos: Path, tmp_path: Path, changes: dict[str, object], name: str, words: str
) -> None:
    shutil.copytree(small_videos / "wave (left)", tmp_path / "videos" / "wave")
    shutil.copytree(small_videos / "jump & run", tmp_path / "videos" / name)
    with pytest.raises(UsageError, match=words):
        extract(small_config(tmp_path / "videos", tmp_path / "store", **changes))
    assert not (tmp_path / "store").exists()
