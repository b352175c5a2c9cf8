"""One HTML file that says what a run found, from what, and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from pipeline.files import put_file
from pipeline.head.checkpoint import read_run
from pipeline.report.facts import gather
from pipeline.report.page import page
from store.errors import StoreError
from store.reader import FeatureStore


def write_report(
    run: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    examples: int = 4,
    code: Collection[str] = (),
) -> Path:
    """Write the report of a training run; returns where it is.

    run       directory of the run
    store     where its store is now; where there is none any more, the report goes without what only a store knows
    out       the file; ``report.html`` in the directory of the run unless given
    examples  how many right and how many wrong test videos to show, 0 for none
    code      decoders of the user's own (``module:function``) that the store names and that may be run for pictures

    Raises ``MissingError`` where there is no run, ``StoreError`` where the named store is none or is damaged.
    """
    recorded = read_run(run)
    notes = []
    opened: FeatureStore | None = None
    try:
        opened = FeatureStore.open(store if store is not None else recorded.selection.store)
    except StoreError as error:
        if store is not None or error.kind != "store-missing":
            raise
        notes.append(
            f"the store of the run, {recorded.selection.store}, is not there any more: no examples, detection rates, "
            "quarantine list and licence of the dataset; name where it is now with --store"
        )
    facts = gather(recorded, opened, examples=examples, notes=notes, code=code)
    path = Path(out) if out is not None else Path(run) / "report.html"
    text = page(facts)
    put_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    return path
