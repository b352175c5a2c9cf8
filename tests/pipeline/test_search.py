"""Search over stored features: the ranking is that of all cosines, the page is safe, random weights are named."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from pathlib import Path

import browser
import extractions
import pytest
import stores
import torch

from pipeline.extraction import extract
from pipeline.search import Hit, search, write_page
from store.errors import UsageError
from store.reader import FeatureStore


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, small_videos) -> FeatureStore:
    folder = tmp_path_factory.mktemp("search")
    extract(extractions.small_config(small_videos, folder / "s"))
    return FeatureStore.open(folder / "s")


def embeddings(store: FeatureStore) -> tuple[torch.Tensor, tuple[str, ...]]:
    features = store.load(arrays=("cls",))
    return torch.nn.functional.normalize(features["cls"][:, 0].double(), dim=-1), features.video_ids


def test_neighbours_are_those_of_all_cosines(tmp_path: Path) -> None:
    store = FeatureStore.open(stores.build(tmp_path / "s", statuses={5: "quarantined"}).url)
    frames, names = embeddings(store)
    means = torch.nn.functional.normalize(frames.mean(dim=1), dim=-1)
    me = names.index("v4")
    scores = means @ means[me]
    order = [i for i in scores.argsort(descending=True).tolist() if i != me]
    found = search(store, like="v4", top=20)
    assert [hit.video_id for hit in found.hits] == [names[i] for i in order]
    assert "v5" not in names
    assert [hit.score for hit in found.hits] == pytest.approx([scores[i].item() for i in order], abs=1e-5)
    assert [hit.frame for hit in found.hits] == [(frames[i] @ means[me]).argmax().item() for i in order]
    assert search(store, like="v4", top=3).hits == found.hits[:3]


def test_frames_are_ranked_one_by_one(tmp_path: Path) -> None:
    store = FeatureStore.open(stores.build(tmp_path / "s").url)
    frames, names = embeddings(store)
    query = torch.nn.functional.normalize(frames[0].mean(dim=0), dim=-1)
    expected = [(names[i], t) for i in range(1, len(names)) for t in range(frames.shape[1])]
    expected.sort(key=lambda hit: -float(frames[names.index(hit[0]), hit[1]] @ query))
    found = search(store, like=names[0], by="frame", top=12)
    assert [(hit.video_id, hit.frame) for hit in found.hits] == expected[:12]


def test_a_text_goes_through_the_model_of_the_store(extracted) -> None:
    found = search(extracted, "a person jumping over a bar", top=3)
    assert len(found.hits) == 3
    assert found.searched == len(embeddings(extracted)[1])
    assert "random weights" in found.warning
    assert found.hits != search(extracted, "a green tree", top=3).hits


def test_the_query_is_the_text_tower_s_embedding(extracted) -> None:
    """Against a direct call of the model, on words as they stand: with a capital, a full stop and brackets."""
    import open_clip

    from stages.clip.models import build_model, resolve_model

    model = build_model(resolve_model("tiny", "none"), None, 0).eval()
    with torch.no_grad():
        direct = model.encode_text(open_clip.SimpleTokenizer()(["A green tree (left)."]))[0].double()
    direct = torch.nn.functional.normalize(direct, dim=-1)
    frames, names = embeddings(extracted)
    means = torch.nn.functional.normalize(frames.mean(dim=1), dim=-1)
    wanted = dict(zip(names, (means @ direct).tolist(), strict=True))
    found = search(extracted, "A green tree (left).", top=99)
    assert {hit.video_id: hit.score for hit in found.hits} == pytest.approx(wanted, abs=1e-4)


def test_punctuation_counts(extracted) -> None:
    assert search(extracted, "a tree?").hits != search(extracted, "a tree").hits


@pytest.mark.parametrize(("text", "words"), [(" \t", "has no word in it"), ("word " * 80, "82 tokens; allowed: up to")])
def test_texts_that_cannot_be(extracted, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        search(extracted, text)


def test_code_that_a_store_names_is_not_run_for_a_thumbnail(tmp_path: Path) -> None:
    record = {**stores.CLIP.record, "frames": {"decoder": "os:system", "num_frames": stores.FRAMES}}
    clip = dataclasses.replace(stores.CLIP, record=record)
    store = FeatureStore.open(stores.build(tmp_path / "s", modalities=(clip,)).url)
    page = write_page(store, search(store, like="v4", top=2), tmp_path / "page.html").read_text()
    assert page.count("the store was decoded by code, os:system: to run it, name it with --code") == 2
    assert "<img" not in page


def test_the_page_is_whole_and_safe(extracted, tmp_path: Path) -> None:
    found = search(extracted, "<script>alert(1)</script>", top=2)
    evil = Hit('"><img src=x onerror=alert(1)>', "<b>bold</b>", "x.avi", 0.5, 0)
    page = write_page(extracted, found, tmp_path / "out" / "page.html").read_text()
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) == 2
    assert all(base64.b64decode(picture).startswith(b"\xff\xd8") for picture in pictures)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "the ranking means nothing" in page
    from pipeline.search import _PAGE, _card

    card = _card(dataclasses.replace(found, hits=(evil,)), 1, evil, b"")
    assert "<img src=x" not in card
    assert "<b>bold" not in card
    assert "default-src 'none'" in _PAGE


def test_the_page_fits_a_laptop_and_a_phone(
    extracted, tmp_path: Path, chromium: browser.Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search._thumbnails", lambda store, found, code: [(hit, b"") for hit in found.hits])
    query = "\u202e<script>document.title=1</script>" + "x" * 300
    found = dataclasses.replace(search(extracted, "anything", top=5), query=query)
    long = dataclasses.replace(found.hits[0], class_name="y" * 300, video_id="<img src=x onerror=alert(1)>" + "z" * 300)
    page = write_page(extracted, dataclasses.replace(found, hits=(long, *found.hits[1:])), tmp_path / "page.html")
    chromium.messages.clear()
    chromium.requests.clear()
    for width in (1280, 390):
        chromium.open(page, width=width)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert chromium.evaluate("Math.max(...[...document.querySelectorAll('.name')].map(e => e.offsetHeight))") < 100
    assert chromium.evaluate("document.querySelector('h1').textContent") == "\N{REPLACEMENT CHARACTER}" + query[1:]
    assert chromium.messages == []
    assert {address[:5] for address in chromium.requests} <= {"file:", "data:"}


def test_a_video_that_is_gone_costs_its_picture_alone(tmp_path: Path, small_videos: Path) -> None:
    shutil.copytree(small_videos, tmp_path / "videos")
    extract(extractions.small_config(tmp_path / "videos", tmp_path / "s"))
    store = FeatureStore.open(tmp_path / "s")
    found = search(store, "anything", top=99)
    (tmp_path / "videos" / found.hits[0].path).unlink()
    page = write_page(store, found, tmp_path / "page.html").read_text()
    assert page.count("data:image") == len(found.hits) - 1
    assert 'class="gone"' in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give a text"),
        ({"text": "a", "like": "v1"}, "not both"),
        ({"like": "nobody"}, "'nobody'"),
        ({"like": "v1", "top": 0}, "top is 0"),
        ({"like": "v1", "by": "clip"}, "allowed: video, frame"),
    ],
)
def test_errors(tmp_path: Path, arguments, words) -> None:
    store = FeatureStore.open(stores.build(tmp_path / "s").url)
    with pytest.raises(UsageError, match=words):
        search(store, **arguments)
