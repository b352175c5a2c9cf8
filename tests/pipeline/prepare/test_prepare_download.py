"""Downloads: resumed where they were cut, never mixed from two files, never taken for what they are not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import fileserver
import pytest

from pipeline.datasets.prepare.download import Archive, download
from pipeline.progress import Progress
from store.errors import MissingError, RetryError

DATA = b"Rar!\x1a\x07\x00" + bytes(range(256)) * 40_000


@pytest.fixture
def server() -> Iterator[fileserver.FileServer]:
    with fileserver.serve() as running:
        running.files["/a.rar"] = DATA
        yield running


def archive(server, **known) -> Archive:
    return Archive("a.rar", f"{server.url}/a.rar", **known)


def get(server, folder, **known):
    return download(archive(server, **known), folder, pause=lambda seconds: None)


class Bar(Progress):
    total = done = 0

    def begin(self, what, total):
        self.total = total

    def advance(self, steps):
        self.done += steps


def test_cut_connections_are_resumed(server, tmp_path):
    server.cuts = [3_000_000, 1, 5_000_000]
    bar = Bar()
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    known = archive(server, size=len(DATA), digest=digest)
    path = download(known, tmp_path, progress=bar, pause=lambda seconds: None)
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=3000000-", "bytes=3000001-", "bytes=8000001-"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.rar"]
    assert bar.done == bar.total == 10


def test_a_later_run_goes_on_and_a_finished_file_is_not_asked_for(server, tmp_path):
    server.cuts = [1000] + [0] * 5
    with pytest.raises(RetryError, match=r"5 times in a row.*from 1,000 bytes.*--from"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked[-1] == "bytes=1000-"
    count = len(server.asked)
    get(server, tmp_path)
    assert len(server.asked) == count


def test_a_file_that_changed_between_runs_is_begun_anew(server, tmp_path):
    server.cuts = [1000] + [0] * 5
    with pytest.raises(RetryError):
        get(server, tmp_path)
    server.etag, server.files["/a.rar"] = '"two"', DATA[:7] + DATA[::-1]
    assert get(server, tmp_path).read_bytes() == DATA[:7] + DATA[::-1]


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"one"'])
def test_a_server_without_ranges_or_validators_sends_it_again(server, tmp_path, etag):
    server.ranges, server.etag, server.cuts = etag is None, etag, [2_000_000]
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.asked) == 2


def test_a_run_that_ended_after_the_last_byte_ends(server, tmp_path):
    server.cuts = [1000] + [0] * 5
    with pytest.raises(RetryError):
        get(server, tmp_path)
    (tmp_path / "a.rar.part").write_bytes(DATA)
    assert get(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ("known", "data", "words"),
    [
        ({"size": 5}, DATA, "10,240,007 bytes, the official a.rar 5"),
        ({"digest": "md5:" + "0" * 32}, DATA, "a.rar has 0000"),
        ({}, b"<html>we have moved</html>", "begins with b'<html>"),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, tmp_path, known, data, words):
    server.files["/a.rar"] = data
    with pytest.raises(MissingError, match=words) as error:
        get(server, tmp_path, **known)
    assert "--from" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(server, tmp_path):
    del server.files["/a.rar"]
    with pytest.raises(MissingError, match=r"404.*browser.*--from"):
        get(server, tmp_path)
    assert len(server.asked) == 1
