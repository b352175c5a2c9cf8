"""Whole extractions over a thousand bad files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from extractions import pose_config
from mutants import Mutant, make_mutants, sources
from shared_data import find_shared
from verdicts import judge, where_permission_bits_bite

from pipeline.extraction import extract
from store.local import LocalObjects
from store.verify import verify_store


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> list[Mutant]:
    """Those that are files, with a manifest that lists all."""
    folder, shared = tmp_path_factory.mktemp("mutants"), find_shared()
    originals = sources(folder / "originals", shared and shared / "data")
    made = make_mutants(folder / "mutants", originals, count=1000)
    with open(folder / "mutants" / "manifest.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        table.writerows([mutant.path.name, number % 2, "train"] for number, mutant in enumerate(made))
    return [mutant for mutant in made if mutant.path.is_file()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_an_extraction_gives_each_the_verdict_that_it_gets_alone(
    mutants: list[Mutant], tmp_path: Path, decoder: str
) -> None:
    verdicts, _ = judge(mutants, decoder)
    config = pose_config(
        mutants[0].path.parent, tmp_path / "s", dataset="manifest", decoder=decoder, shard_len=64, batch_size=32
    )
    summary = where_permission_bits_bite(lambda: extract(config))
    by_name = {path.name: found for path, found in verdicts.items()}
    failed = {name: found.status for name, found in by_name.items() if not found.frames}
    assert {_name(failure["message"], by_name): failure["kind"] for failure in summary.failures} == failed
    assert summary.executed == len(mutants)
    assert summary.partial == sum(found.status == "partial" for found in verdicts.values())
    assert summary.missing == 1000 - len(mutants)  # directories, pipes and links to nowhere
    again = where_permission_bits_bite(lambda: extract(config))
    assert (again.executed, again.quarantined) == (1, {"io-error": 1})  # the one that may not be read
    assert verify_store(LocalObjects(tmp_path / "s")).digest


def _name(message: str, names: dict[str, object]) -> str:
    return max((name for name in names if repr(name)[1:-1] in message), key=len)
