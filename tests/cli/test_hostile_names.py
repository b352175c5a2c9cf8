"""Names from datasets are data: on a shell's line, in paths, on terminals, in JSON and Parquet."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stores
from commands import Outcome, Vilp
from hypothesis import given
from hypothesis import strategies as st

from cli.console import _Bar, as_json, say, show_table
from pipeline.datasets import load_dataset
from store import StoreError, UsageError
from store.local import LocalObjects
from store.plan import read_plan
from store.printable import UNPRINTABLE, command, one_line, printable

SHELL = [
    "; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a'b\"c",
    "two  spaces",
    "-rf",
    "~",
    "*",
    "a\\b",
    "!!",
    "&",
]
# Retitles a window and clears the screen, an 8-bit control sequence, a name that reads backwards, a new line, a bell.
TERMINAL = ["\x1b]0;pwned\x07\x1b[2J", "\x9b31m", "exe\u202egpj", "new\nline", "a\rb", "\x7f", "\u2066x", "\u2028"]
MARKUP = ["[bold red]x[/]", ":bomb:", "[/]", "<script>alert(1)</script>", "%s {0} \\n", "ä ö 漢字 🙂"]
NASTY = [*SHELL, *TERMINAL, *MARKUP]


def harmless(text: str) -> bool:
    """Nothing in it that a terminal obeys but line ends."""
    return UNPRINTABLE.search(text.replace("\n", "")) is None


@given(st.lists(st.text(min_size=1)))
def test_a_command_is_printable_and_names_exactly_its_words(words: list[str]) -> None:
    line = command(*words)
    assert printable(line) == line == one_line(line)
    if not any(UNPRINTABLE.search(word) for word in words):
        assert shlex.split(line) == ["vilp-pipe", *words]


@pytest.mark.parametrize("name", NASTY)
def test_a_shell_reads_a_command_back(tmp_path: Path, name: str) -> None:
    line = command("extract", "--store", name).removeprefix("vilp-pipe")
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], cwd=tmp_path, capture_output=True, check=True
    ).stdout.split(b"\0")
    assert [word.decode() for word in words] == ["extract", "--store", name, ""]
    assert list(tmp_path.iterdir()) == []


def test_a_command_names_files_that_are_no_utf8(tmp_path: Path) -> None:
    line = command(b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert subprocess.run(["bash", "-c", f"printf %s {line[9:]}"], capture_output=True, check=True).stdout == b"caf\xe9"


@pytest.mark.parametrize("name", [*NASTY, "\udce9"])
def test_errors_and_output_are_printable(capfd: pytest.CaptureFixture[str], name: str) -> None:
    error = str(StoreError(f"video {name} is bad"))
    assert harmless(error)
    assert "\n" not in error
    say(name)
    value = as_json({"name": name})
    assert harmless(value)
    assert json.loads(value) == {"name": name}
    bar = _Bar()
    bar.begin("extracting", 1)
    bar.note(name)
    bar.warn(name)
    bar.advance(1)
    bar.end()
    show_table(name, [(name, name)])
    out, err = capfd.readouterr()
    assert out == ""
    assert harmless(err.replace("\r", "") if "\r" not in name else err)
    for line in (printable(name), f"warning: {printable(name)}"):
        assert line in err


def nasty_dataset(root: Path) -> Path:
    """A manifest whose files, classes and sources have nasty names; none of the files is a video."""
    root.mkdir()
    with open(root / "manifest.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "group"])
        for number, name in enumerate(name for name in NASTY if name.strip() == name):
            path = f"{number}{name}.avi".replace("/", "_")
            (root / path).write_bytes(b"no video")
            table.writerow([path, f"../../{name}", "train" if number % 2 else "test", name])
    return root


def check(outcome: Outcome) -> None:
    assert harmless(outcome.out)
    assert harmless(outcome.err)


def test_a_dataset_with_nasty_names(run: Vilp, tmp_path: Path) -> None:
    nasty_dataset(tmp_path / "videos")
    store = "my $(touch pwned)  store's"
    extracted = run(
        *("extract", "--dataset", "manifest", "--root", "videos", "--store", store, "--engine", "inline"),
        *("--modality", "pose", "--pose", "plain_pose:PlainEstimator", "--frames", "2", "--pose-frames", "4"),
    )
    check(extracted)
    assert extracted.code == 1, extracted.err  # no video succeeded
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([store, "videos"])
    objects = LocalObjects(tmp_path / store)
    assert all(re.fullmatch(r"[\w./-]+", key) and ".." not in key for key in objects.list())
    videos = read_plan(objects).videos
    assert {name for name in NASTY if name.strip() == name} <= set(videos["source"].to_pylist())
    assert pq.read_table(tmp_path / store / "_tables/videos.parquet")["path"].to_pylist() == videos["path"].to_pylist()

    status = run("status", "--store", store)
    check(status)
    commands = [line.partition(": ")[2] for line in status.out.splitlines() if "try these again" in line]
    commands += [line.partition(": ")[2] for line in extracted.err.splitlines() if line.startswith(("retry", "next"))]
    assert commands
    for line in commands:
        words = shlex.split(line)
        assert Path(words[words.index("--store") + 1]) in (Path(store), tmp_path / store)
    shown = run("status", "--store", store, "--json")
    check(shown)
    failed = {row["video_id"] for row in json.loads(shown.out)["quarantined"]}
    assert failed <= set(videos["video_id"].to_pylist())

    commit = next(key for key in objects.list("_tables/commits/pose") if key.endswith(".parquet"))
    objects.put(commit, b"damaged")
    verified = run("verify", "--store", store)
    check(verified)
    assert shlex.split(verified.err.rpartition("run: ")[2]) == [
        *("vilp-pipe", "verify", "--store", objects.url, "--repair")
    ]
    check(run("verify", "--store", store, "--json"))


def test_a_run_that_is_stopped_names_its_own_words(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    import cli.main

    words = ["extract", "--root", "a  b'$(x)", "--store", "\x1b[31m"]

    def stop(**settings: object) -> None:
        raise cli.main.Stopped(2)

    monkeypatch.setattr(cli.main, "app", stop)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr(cli.main, "_collect_seldom", lambda: None)
    monkeypatch.setattr(sys, "argv", ["vilp-pipe", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main.run()
    assert stopped.value.code == 130
    line = capfd.readouterr().err.strip().partition("To go on: ")[2]
    assert shlex.split(line)[:5] == ["vilp-pipe", *words[:4]]
    assert line.endswith("$'\\x1b[31m'")


def test_no_message_puts_a_store_into_a_command_by_hand() -> None:
    """Commands are made by ``command``, which quotes; a template would break at a space, or worse."""
    project = Path(__file__).resolve().parents[2]
    template = re.compile(r"""f["'].*vilp-pipe [a-z-]+ [^"']*--\w+ \{""")
    found = [
        f"{file.relative_to(project)}:{number}"
        for package in ("cli", "pipeline", "stages", "store")
        for file in sorted((project / package).rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if template.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", ["../outside.avi", "/etc/passwd", "a/../../outside.avi", "a/../..", "."])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "outside.avi").write_bytes(b"x")
    (tmp_path / "data" / "manifest.csv").write_text(f"path,label,split\n{path},a,train\n")
    with pytest.raises(UsageError, match="lies outside"):
        load_dataset("manifest", str(tmp_path / "data"))


def test_a_path_with_a_zero_byte_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "b.avi").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_bytes(b"path,label,split\na\x00.avi,a,train\nb.avi,a,test\n")
    dataset = load_dataset("manifest", str(tmp_path))
    assert dataset.missing == ("a\x00.avi",)
    assert [video.path for video in dataset.videos] == ["b.avi"]


def test_links_are_read_and_never_written_through(tmp_path: Path) -> None:
    """Datasets are laid out with links on purpose. What one points at is read as a video, and stays as it is."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.avi").symlink_to(secret)
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "gone.avi").symlink_to(tmp_path / "nowhere")
    dataset = load_dataset("folder", str(tmp_path / "data"))
    assert [video.path for video in dataset.videos] == ["a/x.avi"]
    assert secret.read_bytes() == b"secret"


def test_a_store_does_not_write_through_a_link(tmp_path: Path) -> None:
    """An object that is replaced by a link (in a store that somebody sent) is replaced, not followed."""
    objects = stores.build(tmp_path / "s", shards=())
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    objects.path("zarr.json").unlink()
    objects.path("zarr.json").symlink_to(outside)
    objects.put("zarr.json", b"new")
    assert outside.read_bytes() == b"mine"
    objects.delete("zarr.json")
    assert outside.read_bytes() == b"mine"


def test_a_line_break_in_a_name_forges_no_line(run: Vilp, tmp_path: Path) -> None:
    plan = stores.plan()
    forged = [f"v{slot}\n   1  1.0000  forged" for slot in range(len(plan.videos))]
    column = pa.array(forged, pa.string())
    stores.build(
        tmp_path / "s", the_plan=dataclasses.replace(plan, videos=plan.videos.set_column(1, "video_id", column))
    )
    shown = run("search", "--store", "s", "--like", forged[4])
    assert shown.code == 0, shown
    assert len(shown.out.splitlines()) == 9
    assert all("\\x0a   1  1.0000  forged" in line for line in shown.out.splitlines())
