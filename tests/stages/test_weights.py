"""Published weights in the cache: a file is what the digits in its name say, or it is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import weights
from stages.weights import file_digest, published_weights
from store.errors import UsageError

CONTENT = b"weights"
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]

Put = Callable[[str, bytes], Path]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Put:
    """Puts a file into an empty cache; the network is never asked."""
    monkeypatch.setenv("VILP_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: pytest.fail("asked the network"))
    (tmp_path / "weights").mkdir()

    def put(name: str, content: bytes) -> Path:
        (tmp_path / "weights" / name).write_bytes(content)
        return tmp_path / "weights" / name

    return put


def find(name: str) -> Path:
    return published_weights(f"https://zoo/v1/{name}", model="a model", flag="--pose-weights")


# Every way in which mmpose and torchvision name their files.
@pytest.mark.parametrize(
    "name", ["x-{}.pth", "x_8xb32-256x192-{}_20230126.pth", "x_{}-20230207.pth", "x_20230831-{}.pth"]
)
def test_a_file_is_held_against_the_digits_in_its_name(put: Put, name: str) -> None:
    right, wrong = name.format(DIGITS), name.format("0123abcd")
    put(right, CONTENT)
    assert find(right).name == right
    file = put(wrong, CONTENT)
    with pytest.raises(UsageError) as caught:
        find(wrong)
    assert str(caught.value) == (
        f"{file} has SHA-256 {DIGITS}..., not 0123abcd... as its name says: it is damaged, or another file; delete it "
        "and run again, which fetches it, or put the right one there, or give --pose-weights FILE"
    )
    assert file.read_bytes() == CONTENT  # it is the user's to delete


@pytest.mark.parametrize(
    "name", ["x_coco_3rdparty.pth", "x-256x192.pth", "x_270e-256x192-20231122.pth", "x-256x256-74fb594_20230320.pth"]
)
def test_a_date_is_no_digest(put: Put, name: str) -> None:
    put(name, CONTENT)
    assert find(name).name == name


def test_a_file_is_read_for_it_once(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def digest(file: object, kind: str) -> object:
        read.append(kind)
        return hashlib.new(kind, CONTENT)

    monkeypatch.setattr(weights.hashlib, "file_digest", digest)
    name = f"x-{DIGITS}.pth"
    put(name, CONTENT)
    for _ in range(3):
        file_digest(find(name))
    assert read == ["sha256"]


def test_a_file_that_changes_is_read_again(put: Put) -> None:
    name = f"x-{DIGITS}.pth"
    put(name, CONTENT)
    find(name)
    put(name, CONTENT[:-1])
    with pytest.raises(UsageError, match=f"not {DIGITS}"):
        find(name)
