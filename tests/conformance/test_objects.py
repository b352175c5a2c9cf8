"""What every place for a store's bytes must do: a directory, and a bucket of a real S3 server."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from s3server import S3Server

from store import StoreError, UsageError
from store.local import LocalObjects
from store.objects import Objects, is_remote, open_objects

_NUMBERS = itertools.count()


@pytest.fixture(params=["local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "local":
        return open_objects(tmp_path / "s")
    server: S3Server = request.getfixturevalue("s3")
    return open_objects(server.url(f"objects-{next(_NUMBERS)}"))


def test_what_is_put_comes_back(objects: Objects) -> None:
    assert (objects.get("a/b"), objects.size("a/b"), objects.age("a/b")) == (None, None, None)
    objects.put("a/b", b"first")
    objects.put("a/b", b"second time")
    assert (objects.get("a/b"), objects.size("a/b")) == (b"second time", 11)
    age = objects.age("a/b")
    assert age is not None
    assert -5 < age < 60
    objects.put("a/empty", b"")
    assert (objects.get("a/empty"), objects.size("a/empty")) == (b"", 0)


def test_what_is_deleted_is_gone(objects: Objects) -> None:
    objects.put("a/b", b"x")
    objects.delete("a/b")
    objects.delete("a/b")
    objects.delete("never/was")
    assert objects.get("a/b") is None
    assert list(objects.list()) == []


def test_folders_that_are_empty_are_pruned_and_made_again(objects: Objects) -> None:
    objects.put("a/deep/er/x", b"1")
    objects.put("a/y", b"2")
    objects.prune("a/deep/er")
    objects.prune("never/was")
    assert sorted(objects.list()) == ["a/deep/er/x", "a/y"]
    objects.delete("a/deep/er/x")
    objects.prune("a/deep/er")
    assert objects.scan("a").folders == ()
    objects.put("a/deep/er/x", b"3")
    assert (objects.get("a/deep/er/x"), objects.get("a/y")) == (b"3", b"2")


def test_listing(objects: Objects) -> None:
    assert objects.scan() == objects.scan("nowhere")
    for key in ("top.json", "a/2", "a/10", "a/deep/x", "a/deep/y", "b/z"):
        objects.put(key, key.encode())
    assert sorted(objects.list()) == ["a/10", "a/2", "a/deep/x", "a/deep/y", "b/z", "top.json"]
    assert list(objects.list("a/deep")) == ["a/deep/x", "a/deep/y"]
    assert list(objects.list("nowhere")) == []
    assert (list(objects.scan().objects), objects.scan().folders) == (["top.json"], ("a", "b"))
    assert (list(objects.scan("a").objects), objects.scan("a").folders) == (["10", "2"], ("deep",))
    assert list(objects.temporaries()) == []


def test_a_version_tells_whether_an_object_was_written(objects: Objects) -> None:
    objects.put("a/x", b"one")
    objects.put("a/y", b"one")
    before = objects.scan("a").objects
    assert objects.scan("a").objects == before
    objects.put("a/x", b"another length")
    after = objects.scan("a").objects
    assert (after["x"] != before["x"], after["y"] == before["y"]) == (True, True)


def test_parts_of_an_object(objects: Objects) -> None:
    data = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    objects.put("a", data.tobytes())
    first, second, third = (np.zeros(n, np.uint8) for n in (1, 17, 3_995))
    with objects.open("a") as blob:
        assert blob.size == 10_000
        np.testing.assert_array_equal(blob.tail(20), data[-20:])
        np.testing.assert_array_equal(blob.tail(20_000), data)
        blob.fill([(9_000, [first]), (0, [second[:6], second[6:]]), (17, [third])])
        blob.fill([])
    np.testing.assert_array_equal(first, data[9_000:9_001])
    np.testing.assert_array_equal(np.concatenate([second, third]), data[:4_012])
    objects.put("empty", b"")
    with objects.open("empty") as blob:
        assert (blob.size, len(blob.tail(4))) == (0, 0)
    with pytest.raises(FileNotFoundError), objects.open("nowhere/x"):
        pass


def test_a_swap_needs_what_it_expects(objects: Objects) -> None:
    assert objects.swap("a/lease", b"1", None)
    assert not objects.swap("a/lease", b"2", None)
    assert not objects.swap("a/lease", b"2", b"other")
    assert objects.get("a/lease") == b"1"
    assert objects.swap("a/lease", b"2", b"1")
    assert objects.get("a/lease") == b"2"
    assert list(objects.temporaries()) == []


def test_of_many_swaps_at_once_one_wins(objects: Objects) -> None:
    """A counter that many threads raise by swaps loses no step."""

    def raise_by_five(name: str) -> None:
        for number in range(5):
            while True:
                current = objects.get("counter")
                count = int((current or b"0").split()[0]) + 1
                if objects.swap("counter", f"{count} by {name}-{number}".encode(), current):
                    break

    threads = [threading.Thread(target=raise_by_five, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (objects.get("counter") or b"").split()[0] == b"20"


class RefusedError(Exception):
    pass


def refuse() -> None:
    raise RefusedError


def test_a_refused_guard_changes_nothing(objects: Objects) -> None:
    objects.put("a", b"successor's")
    late = objects.guarded(refuse)
    for write in (lambda: late.put("a", b"late"), lambda: late.put("b", b"late"), lambda: late.delete("a")):
        with pytest.raises(RefusedError):
            write()
    assert (objects.get("a"), objects.get("b")) == (b"successor's", None)
    assert list(objects.temporaries()) == []
    assert late.get("a") == b"successor's"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_that_stood_still_overwrites_nothing(objects: Objects, old: bytes | None) -> None:
    """Its lease was good when it looked; before it writes, a successor takes over (or tries to) and writes."""
    if old is not None:
        objects.put("a", old)
    objects.put("lease", b"first")
    taken = threading.Event()
    successor: list[threading.Thread] = []

    def take_over() -> None:
        assert objects.swap("lease", b"second", b"first")
        taken.set()
        objects.put("a", b"successor's")

    def guard() -> None:
        if objects.get("lease") != b"first":
            raise RefusedError
        if not successor:
            successor.append(threading.Thread(target=take_over))
            successor[0].start()
            # In a bucket nothing holds the successor up; in a directory it has to wait until this write is through.
            taken.wait(0.3)
            if taken.is_set():
                successor[0].join()

    late = objects.guarded(guard)
    if is_remote(objects.url):
        with pytest.raises(RefusedError):
            late.put("a", b"late")
    else:
        late.put("a", b"late")
    successor[0].join()
    assert objects.get("a") == b"successor's"


def test_addresses() -> None:
    assert isinstance(open_objects("a/b"), LocalObjects)
    for wrong in ("http://x/y", "s3://bucket", "s3://bucket/", "s3:///prefix", "gs://b/p"):
        with pytest.raises(UsageError, match=r"allowed: .*s3://bucket/prefix"):
            open_objects(wrong)


class TestS3:
    """What only a network can do."""

    @pytest.mark.parametrize("fault", ["500", "cut", "cut-after"])
    def test_faults_on_the_way_are_repeated(self, s3: S3Server, fault: str) -> None:
        objects = open_objects(s3.url(f"faults-{fault}"))
        s3.faults = lambda method, path, number: fault if number % 3 == 1 else None
        for number in range(6):
            objects.put(f"k{number}", b"value")
            assert objects.swap("lease", str(number).encode(), None if number == 0 else str(number - 1).encode())
            assert objects.get(f"k{number}") == b"value"
        guarded = objects.guarded(lambda: None)
        guarded.put("k0", b"again")
        assert len(list(objects.list())) == 7
        assert s3.injected

    def test_a_service_that_does_not_answer_is_one_line(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("store.s3.RETRY_SECONDS", 0.1)
        objects = open_objects(s3.url("broken"))
        s3.faults = lambda method, path, number: "500"
        for read in (lambda: objects.get("a"), lambda: objects.scan(), lambda: objects.size("a")):
            with pytest.raises(StoreError, match=r"cannot read s3://.*AWS_REGION") as error:
                read()
            assert (error.value.kind, str(error.value).count("\n")) == ("store-unreadable", 0)
        with pytest.raises(StoreError, match=r"cannot write s3://.*/a") as error:
            objects.put("a", b"x")
        assert error.value.kind == "store-unwritable"

    def test_a_bucket_that_is_not_there(self, s3: S3Server) -> None:
        with pytest.raises(StoreError, match="no bucket") as error:
            open_objects("s3://no-such-bucket/x").get("a")
        assert error.value.kind == "store-missing"
