"""A report is one file that says what the run says, whatever its names hold, in a real browser."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
from extractions import small_config

from pipeline.extraction import extract
from pipeline.head.checkpoint import load_predictions, read_run
from pipeline.head.evaluate import train_head
from pipeline.head.results import Prediction
from pipeline.report import write_report
from pipeline.report.charts import curves
from pipeline.report.facts import Detection, Facts, class_results, confused, confusion_of, gather, surest
from pipeline.report.markup import clean, el
from pipeline.report.page import page
from store import FeatureStore, MissingError

BREAKING_OUT = '</title></script></style><img src=x onerror="document.title=1"><script>document.title=2</script>'
NAMES = (BREAKING_OUT, "\" onmouseover='document.title=3' $\\frac{ \x07\x1b[31m\u202e &lt;b&gt; ${7*7} {{7*7}}")
FILES = ('a <b>"bold"\'.mp4', "<img src=x onerror=alert(1)>.mp4", "c;&amp;\u202e.avi", "d.mp4", "e.mp4", "cut.avi")


@pytest.fixture(scope="module")
def hostile(small_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A run on videos of which files, classes and messages are full of markup, quotes and control characters."""
    root = tmp_path_factory.mktemp("hostile")
    sources = sorted(path for path in small_videos.rglob("*.*") if path.name != "broken.mp4")
    rows = []
    for number, (name, source) in enumerate(zip(FILES, sources, strict=True)):
        shutil.copy(source, root / name)
        rows.append({"path": name, "label": NAMES[number % 2], "split": "train" if number < 2 else "test"})
    (root / "broken <i>.mp4").write_bytes(b"<script>alert(1)</script>")
    rows.append({"path": "broken <i>.mp4", "label": NAMES[0], "split": "test"})
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    config = small_config(root / "manifest.csv", root / "s", pose="plain_pose:PlainEstimator", pose_frames=8)
    extract(dataclasses.replace(config, dataset="manifest"))
    train_head(root / "s", head="fuse", frames=2, epochs=3, seeds=2, device="cpu", out=root / "<run>")
    facts = gather(read_run(root / "<run>"), FeatureStore.open(root / "s"), examples=2, notes=[BREAKING_OUT])
    quarantine = ({"video_id": BREAKING_OUT, "group": NAMES[1], "kind": NAMES[1], "message": BREAKING_OUT},)
    assert facts.quarantine
    return dataclasses.replace(facts, quarantine=facts.quarantine + quarantine)


class Tags(HTMLParser):
    """Elements of a page, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_stay_text(hostile: Facts) -> None:
    html = page(hostile)
    tags = Tags(html)
    names = [tag for tag, _ in tags.elements]
    assert (names.count("script"), names.count("title"), names.count("style")) == (2, 1 + _titles(hostile), 1)
    assert names.count("img") == len(hostile.examples) > 0
    assert not {"iframe", "object", "link", "form", "b<", "i<"} & set(names)
    attributes = {name for _, attributes in tags.elements for name in attributes}
    assert not [name for name in attributes if name.startswith("on")]
    addresses = [
        value or "" for _, attributes in tags.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    for name in (*NAMES, "broken <i>"):
        assert clean(name) in tags.text
    assert len({row["group"] for row in hostile.quarantine if row["video_id"] == "broken <i>"}) == 4
    assert tags.text.count("broken <i>") == 2  # a row, with its id and in its message, whatever groups lack it
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", html)


def _titles(facts: Facts) -> int:
    return int((facts.confusion > 0).sum()) + len(facts.run.scores)


def test_lone_surrogates_can_be_written(hostile: Facts) -> None:
    assert "\ud800" not in page(dataclasses.replace(hostile, notes=("\ud800",))).encode().decode()


def test_the_file_loads_nothing(hostile: Facts) -> None:
    html = page(hostile)
    assert "default-src &#x27;none&#x27;" in html
    assert not re.search(r"(?<!img-)src=.https?:|url\(|@import|<link", html)


def test_attributes_cannot_be_left() -> None:
    assert el("i", title='"><script>') == '<i title="&quot;&gt;&lt;script&gt;"></i>'
    assert el("p", ["<", None, [el("b", "&")]]) == "<p>&lt;<b>&amp;</b></p>"


def test_figures_are_those_of_the_run(hostile: Facts) -> None:
    predictions = load_predictions(hostile.run)
    labels = predictions[0].labels
    assert hostile.confusion.sum() == pytest.approx(len(labels))
    shares = [float(np.mean([p.scores.argmax(1) == labels for p in predictions]))]
    assert hostile.run.top1 == pytest.approx(shares[0]) == pytest.approx(np.trace(hostile.confusion) / len(labels))
    text = Tags(page(hostile)).text
    assert f"{hostile.run.top1:.1%}" in text
    assert f"{hostile.run.chance:.1%}" in text
    assert hostile.run.selection.fingerprint in text
    assert all(warning in text for warning in hostile.run.warnings)
    assert [len(score.losses) for score in hostile.run.scores] == [3, 3]
    assert [score.losses[-1] for score in hostile.run.scores] == [score.loss for score in hostile.run.scores]
    assert {row.frames for row in hostile.detection} == {1.0}  # the plain estimator sees somebody everywhere
    assert sum(row.videos for row in hostile.detection) == 6


def test_confusion_averages_seeds_and_adds_splits(hostile: Facts) -> None:
    one = load_predictions(hostile.run)[0]
    scores = np.zeros((4, 3), np.float32)
    scores[[0, 1, 2, 3], [0, 1, 1, 2]] = 1
    first = dataclasses.replace(one, split=1, seed=0, scores=scores, labels=np.array([0, 0, 1, 2]))
    wrong = dataclasses.replace(first, seed=1, scores=np.roll(scores, 1, axis=1))
    other = dataclasses.replace(first, split=2)
    matrix = confusion_of([first, wrong, other], 3)
    np.testing.assert_allclose(matrix, [[1.5, 2, 0.5], [0, 1.5, 0.5], [0.5, 0, 1.5]])
    assert confused(matrix, "abc", 2) == [("a", "b", 2.0, 4), ("a", "c", 0.5, 4)]
    assert [row.name for row in class_results(matrix, "abcd"[:3])] == ["b", "c", "a"]
    assert class_results(np.diag([2.0, 0.0]), "ab")[0].videos == 2
    assert len(class_results(np.diag([2.0, 0.0]), "ab")) == 1


def test_examples_are_the_surest_ones_of_different_classes() -> None:
    labels = np.array([0, 0, 1, 0, 1])
    margins = np.array([5.0, 4.0, 3.0, -2.0, -1.0])  # above zero: right
    scores = np.zeros((5, 2), np.float32)
    scores[np.arange(5), labels] = margins
    slots = np.arange(10, 15)
    prediction = Prediction(1, 0, scores, labels, slots, ("v",) * 5, ("s",) * 5)
    assert surest(prediction, usable=slots, count=2) == [10, 12, 13, 14]
    assert surest(prediction, usable=slots, count=3) == [10, 12, 11, 13, 14]
    assert surest(prediction, usable=(11, 12, 14), count=2) == [11, 12, 14]


def test_a_store_that_is_gone_is_said_not_hidden(hostile: Facts, tmp_path: Path) -> None:
    assert hostile.run.directory is not None
    run, store = shutil.copytree(hostile.run.directory, tmp_path / "run"), tmp_path / "gone"
    text = (run / "run.json").read_text().replace(hostile.run.selection.store, str(store))
    (run / "run.json").write_text(text)
    written = write_report(run)
    assert written == run / "report.html"
    assert f"the store of the run, {store}, is not there any more" in Tags(written.read_text()).text
    shutil.copytree(hostile.run.selection.store, tmp_path / "elsewhere")
    html = write_report(run, tmp_path / "elsewhere", out=tmp_path / "there" / "r.html", examples=1).read_text()
    assert "is not there any more" not in html
    assert html.count("<img") == 2
    with pytest.raises(MissingError, match="no run in"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(("epochs", "marks"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (30, [1, 8, 15, 22, 30])])
def test_epochs_are_marked_evenly(hostile: Facts, epochs: int, marks: list[int]) -> None:
    score = dataclasses.replace(hostile.run.scores[0], losses=tuple(1.0 / (n + 1) for n in range(epochs)))
    assert re.findall(r">(\d+)</text>", curves([score])) == [str(mark) for mark in marks]


def test_many_classes_fit(hostile: Facts) -> None:
    """Without names beside the matrix, which could not be read, and with long ones cut."""
    names = tuple(f"a class with a rather long name, number {number}" for number in range(101))
    rng = np.random.default_rng(0)
    run = dataclasses.replace(hostile.run, class_names=names)
    confusion = np.diag(rng.integers(1, 9, 101)).astype(float) + (rng.random((101, 101)) > 0.98)
    detection = tuple(Detection(name, 1, 0.5, 0.5) for name in names)
    facts = dataclasses.replace(
        hostile, run=run, confusion=confusion, classes=class_results(confusion, names), detection=detection
    )
    html = page(facts)
    assert html.count("<rect") == int((confusion > 0).sum()) + 1
    assert len(html) < 2_000_000


@pytest.fixture
def report(hostile: Facts, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(hostile), encoding="utf-8")
    return path


def test_a_browser_runs_our_script_and_no_other(chromium: browser.Page, hostile: Facts, report: Path) -> None:
    chromium.requests.clear()
    chromium.open(report)
    row, column = np.argwhere(hostile.confusion * (1 - np.eye(2)) > 0)[0].tolist()
    assert hostile.confusion[row, column] != hostile.confusion[column, row]
    chromium.point_at(f"#matrix rect[data-i='{row}'][data-j='{column}']")
    said = chromium.evaluate("document.getElementById('readout').textContent")
    assert said.startswith(f"\u2068{clean(hostile.run.class_names[row])}\u2069")  # a name turns round itself alone
    assert f"{hostile.confusion[row, column]:g} of {hostile.confusion[row].sum():g}" in said
    assert chromium.evaluate("document.title") == "<run>: fuse on manifest"
    assert chromium.evaluate("[...document.images].every(i => i.naturalWidth > 500)")
    assert chromium.messages == []
    assert not [url for url in chromium.requests if not url.startswith(("file:", "data:image/jpeg"))]
    # What slipped through escaping would still be refused by the page's policy.
    chromium.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 4'}))"
    )
    assert chromium.evaluate("document.title") == "<run>: fuse on manifest"
    assert any("Content Security Policy" in message for message in chromium.messages)
    chromium.messages.clear()


@pytest.mark.parametrize(("width", "scripts"), [(1280, True), (390, True), (320, False)])
def test_the_page_fits_its_window(
    chromium: browser.Page, report: Path, width: int, scripts: bool, tmp_path: Path
) -> None:
    chromium.open(report, width=width, height=800, scripts=scripts)
    chromium.screenshot(tmp_path / "page.png")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    text = chromium.evaluate("document.body.innerText")
    for heading in ("Results by split", "Training curves", "Confusion", "Examples", "Quarantine", "Licences"):
        assert heading in text
    clipped = chromium.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, p, dd, li, summary, b, .figures span')]"
        ".filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')"
        ".map(e => e.textContent)"
    )
    assert clipped == []
    assert chromium.messages == []


def test_it_prints(chromium: browser.Page, report: Path, tmp_path: Path) -> None:
    chromium.open(report)
    assert chromium.print(tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
