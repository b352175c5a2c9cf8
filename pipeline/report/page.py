"""From facts to one HTML file that needs nothing else: no network, no script but one of a few lines."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from pipeline.report import charts
from pipeline.report.facts import ClassResult, Example, Facts, confused, provenance
from pipeline.report.markup import Markup, data_block, el, joined
from pipeline.report.style import SCRIPT, STYLE

# Longer lists say how many more there are.
MOST_ROWS = 500
SHOWN_CLASSES = 10


def page(facts: Facts) -> str:
    """The whole report as HTML."""
    run = facts.run
    name = run.directory.name if run.directory is not None else run.config.head
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content="vilp-pipe report"),
        el("title", f"{name}: {run.config.head} on {run.selection.dataset}"),
        el("style", Markup(STYLE)),
    ]
    top = el("header", el("div", el("h1", name), el("p", subtitle(facts))))
    sections = [warnings(facts), results(facts), training(facts), confusion(facts), classes(facts), examples(facts)]
    sections += [detection(facts), quarantine(facts), origin(facts), licences(facts)]
    foot = el("footer", "Made by vilp-pipe report. This file holds everything that it shows and loads nothing.")
    body = [top, el("main", figures(facts), sections), foot, el("script", Markup(SCRIPT))]
    return "<!doctype html>\n" + el("html", el("head", head), el("body", body), lang="en")


def subtitle(facts: Facts) -> str:
    """Head, dataset and features on one line."""
    run = facts.run
    pose = f", poses {run.selection.pose}" if run.selection.pose else ""
    seeds = len(run.seeds)
    encoder, shown = {"clip": ("CLIP", "frames"), "video": ("video model", "clips")}[run.selection.encoder]
    return (
        f"{run.config.head} on {run.selection.dataset}, {len(run.class_names)} classes; {encoder} {run.selection.clip}"
        f"{pose}; {run.selection.frames} {shown} a video, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def figures(facts: Facts) -> Markup:
    """The few numbers that everybody looks for."""
    run = facts.run
    tested = sum({score.split: score.videos for score in run.scores}.values())
    shown = [
        (
            f"{run.top1:.1%}",
            "top-1, mean of splits" if len(run.summaries) > 1 else f"top-1, split {run.summaries[0].split}",
        ),
        (f"{run.top5:.1%}", "top-5"),
        (f"{run.mean_class:.1%}", "mean class"),
        (f"{run.chance:.1%}", "chance"),
        (f"{tested:,}", "test videos"),
    ]
    return el("div", [el("div", el("b", value), el("span", label)) for value, label in shown], cls="figures")


def warnings(facts: Facts) -> Markup | None:
    """What a reader has to know before any number; None where there is nothing."""
    lines = [*facts.run.warnings, *facts.notes]
    if not lines:
        return None
    return el("section", el("h2", "Read this first"), el("ul", [el("li", line) for line in lines]), cls="warn")


def results(facts: Facts) -> Markup:
    """Accuracy by split with its interval, and coverage of the official lists."""
    run = facts.run
    rows = []
    for summary in run.summaries:
        low, high = summary.interval
        of_split = [score for score in run.scores if score.split == summary.split]
        rows.append(
            [
                f"{summary.split}",
                f"{summary.top1:.1%}",
                f"{low:.1%} to {high:.1%}",
                f"{summary.top5:.1%}",
                f"{summary.mean_class:.1%}",
                f"{of_split[0].videos:,}",
                f"{of_split[0].train_videos:,}",
            ]
        )
    heads = ["split", "top-1", "95% interval", "top-5", "mean class", "test videos", "training videos"]
    coverage = [
        [f"{split}", subset, *(f"{counts[name]:,}" for name in ("expected", "used", "quarantined", "missing"))]
        for split, by_subset in run.coverage.items()
        for subset, counts in by_subset.items()
    ]
    covered = ["split", "subset", "expected", "used", "quarantined", "missing"]
    return section(
        "Results by split",
        "Seeds are averaged within a video. Intervals come from a bootstrap over source groups, since videos cut from "
        "one recording are alike; the dotted line is chance.",
        charts.intervals(run.summaries, run.chance),
        el("div", table(heads, rows, numbers=7), cls="wide"),
        el("h3", "Coverage of the lists"),
        el("div", table(covered, coverage, numbers=6, first=2), cls="wide"),
    )


def training(facts: Facts) -> Markup:
    """Curves of the loss."""
    scores = facts.run.scores
    if not any(score.losses for score in scores):
        why = (
            "The head was not trained: zero-shot."
            if not facts.run.training.epochs
            else "The run has no record of them."
        )
        return section("Training curves", why)
    seconds = sum(score.train_seconds for score in scores)
    heads = "one head" if len(scores) == 1 else f"{len(scores)} heads together"
    lead = f"Mean loss of each epoch on the training videos; {seconds:.1f} s for {heads}."
    return section("Training curves", lead, charts.curves(scores), charts.curve_legend(scores))


def confusion(facts: Facts) -> Markup:
    """The confusion matrix, which a script makes readable under the pointer, and the most frequent mistakes."""
    names = facts.run.class_names
    rows = [
        [truth, predicted, f"{videos:g} of {total}"]
        for truth, predicted, videos, total in confused(facts.confusion, names)
    ]
    block = data_block(
        "confusion",
        {
            "names": list(names),
            "counts": facts.confusion.round(3).tolist(),
            "totals": facts.confusion.sum(axis=1).round(3).tolist(),
        },
    )
    mistakes = (
        [el("h3", "The most frequent mistakes"), table(["it is", "taken for", "videos"], rows, numbers=1, first=2)]
        if rows
        else [el("p", "No test video was taken for another class.")]
    )
    return section(
        "Confusion",
        "Rows are true classes, columns what they were taken for; a cell is as dark as its share of the row. Green is "
        "right, red is wrong.",
        el("p", "Point at a cell, or tap it, to read it.", id="readout"),
        el("div", charts.matrix(facts.confusion, names), cls="wide"),
        block,
        *mistakes,
    )


def classes(facts: Facts) -> Markup:
    """Best and worst classes, and behind a click all of them."""
    count = min(SHOWN_CLASSES, len(facts.classes) // 2 or 1)
    # With few test videos many classes are all right or all wrong: neither list is filled up with the other's.
    best = [row for row in facts.classes[:count] if row.right > 0]
    worst = [row for row in facts.classes[::-1][:count] if row.right < 1]
    return section(
        "Classes",
        "Share of the test videos of a class that are recognised, over all splits of the run.",
        el(
            "div",
            *(
                el("div", el("h3", title), class_table(rows))
                for title, rows in (("Best", best), ("Worst", worst))
                if rows
            ),
            cls="two",
        ),
        el(
            "details",
            el("summary", f"All {len(facts.classes)} classes"),
            el("div", class_table(facts.classes), cls="scroll"),
        ),
    )


def class_table(rows: Sequence[ClassResult]) -> Markup:
    """A row a class: share of its test videos that are recognised, and their number."""
    body = [
        el("tr", el("td", row.name), el("td", bar(row.right)), number(f"{row.right:.0%}"), number(f"{row.videos}"))
        for row in rows
    ]
    head = el("tr", el("th", "class"), el("th", ""), number("right", "th"), number("videos", "th"))
    return el("table", el("thead", head), el("tbody", body))


def examples(facts: Facts) -> Markup | None:
    """Strips of test videos that were recognised and of such that were not; None where there are none."""
    if not facts.examples:
        return None
    parts = []
    for right, title in ((True, "Right"), (False, "Wrong")):
        chosen = [example for example in facts.examples if example.right == right]
        if chosen:
            parts += [el("h3", title), el("div", [article(example) for example in chosen], cls="examples")]
    return section(
        "Examples",
        f"Test videos of split {facts.run.summaries[0].split} about which the head is surest, of different classes. "
        "Above the frames that it reads, with the people found in them; below, where those are on the grid of CLIP's "
        "tokens; the bars say how much each frame weighs in the score of the class that was chosen.",
        *parts,
    )


def article(example: Example) -> Markup:
    """One example: what it is, what it was taken for, and its strip."""
    said = (
        ["recognised as ", el("b", example.predicted)]
        if example.right
        else ["is ", el("b", example.truth), ", taken for ", el("b", example.predicted)]
    )
    line = el(
        "p",
        el("bdi", example.video_id),
        " ",
        said,
        f" ({example.score:.0%})",
        cls="right" if example.right else "wrong",
    )
    source = "data:image/jpeg;base64," + base64.b64encode(example.picture).decode()
    picture = el("img", src=source, alt=f"Frames of {example.video_id}", style=f"--width:{example.width}px")
    note = el("p", example.note, cls="lead") if example.note else None
    return el("article", line, note, el("div", picture, cls="wide"))


def detection(facts: Facts) -> Markup | None:
    """Share of frames in which anybody was found, by class; None without poses."""
    if not facts.detection:
        return None
    rows = [
        el(
            "tr",
            el("td", row.name),
            el("td", bar(row.frames)),
            number(f"{row.frames:.0%}"),
            number(f"{row.persons:.1f}"),
            number(f"{row.videos:,}"),
        )
        for row in facts.detection
    ]
    head = el(
        "tr", el("th", "class"), el("th", ""), *(number(n, "th") for n in ("frames with people", "persons", "videos"))
    )
    return section(
        "Where people are found",
        "Share of the stored pose frames of a class in which anybody was found, and the mean number of people in a "
        "frame; least first.",
        el("div", el("table", el("thead", head), el("tbody", rows)), cls="scroll"),
    )


def quarantine(facts: Facts) -> Markup | None:
    """Videos without features, and why; None where the store is gone."""
    if facts.store is None:
        return None
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in facts.quarantine:
        groups.setdefault((row["video_id"], row["kind"], row["message"]), []).append(row["group"])
    rows = [[*what, ", ".join(found)] for what, found in groups.items()]
    if not rows:
        return section("Quarantine", "No video of the store is quarantined.")
    more = f" The first {MOST_ROWS} are shown." if len(rows) > MOST_ROWS else ""
    lead = f"What has no features, in which groups, and why; {len(rows):,} in all.{more}"
    listed = table(["video", "kind", "what happened", "groups"], rows[:MOST_ROWS], numbers=0)
    return section("Quarantine", lead, el("div", listed, cls="scroll"))


def origin(facts: Facts) -> Markup:
    """Provenance: settings, features, environment, and hashes of files."""
    parts = []
    for title, pairs in provenance(facts):
        listed = [[el("dt", name), el("dd", shown(value))] for name, value in pairs]
        parts.append(el("details", el("summary", title), el("dl", listed)))
    return section("Provenance", "Everything that the figures depend on.", *parts)


def licences(facts: Facts) -> Markup:
    """Under which terms dataset, weights and program are."""
    licence = facts.store.plan.licence if facts.store is not None else ""
    entries = [
        (f"Dataset {facts.run.selection.dataset}", licence or "not known here: see where you have it from"),
        ("CLIP and pose weights", "those of whoever published the files: see the digests under Provenance"),
        ("vilp-pipe", "Apache-2.0"),
    ]
    note = "Pictures in this file are frames of the dataset's videos; its terms hold for whoever passes the file on."
    listed = el("dl", [[el("dt", name), el("dd", text)] for name, text in entries])
    return section("Licences", note if facts.examples else "", listed)


def section(title: str, lead: str, *children: object) -> Markup:
    """A part of the page: a title, a line that explains it, and its content."""
    return el("section", el("h2", title), el("p", lead, cls="lead") if lead else None, *children)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int, first: int = 1) -> Markup:
    """A table whose columns from ``first`` on are numbers, ``numbers`` of all; the others are text."""
    numeric = range(first, first + numbers)
    head = el("tr", [number(text, "th") if n in numeric else el("th", text) for n, text in enumerate(heads)])
    body = [el("tr", [number(text) if n in numeric else el("td", text) for n, text in enumerate(row)]) for row in rows]
    return el("table", el("thead", head), el("tbody", body), cls=None if numbers else "texts")


def number(text: str, name: str = "td") -> Markup:
    """A cell of a table that holds a number."""
    return el(name, text, cls="n")


def bar(share: float) -> Markup:
    """A share in [0, 1] as a bar."""
    return el("div", el("i", style=f"width:{100 * share:.1f}%"), cls="bar")


def shown(value: object) -> str:
    """A setting as people read it."""
    if isinstance(value, list | tuple):
        return joined([", ".join(map(str, value))]) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value in (None, "") else str(value)
