"""A store opens with tools that know nothing of it, as the README shows."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import stores
import xarray


def test_xarray_reads_an_array_with_its_dimensions(tmp_path: Path) -> None:
    stores.build(tmp_path / "s")
    dataset = xarray.open_zarr(str(tmp_path / "s"), group=stores.CLIP.path, consolidated=False)
    cls = dataset["cls"]
    assert cls.dims == ("video", "view", "frame", "channel")
    np.testing.assert_array_equal(cls.isel(video=3).values, stores.values(stores.CLIP, [3])["cls"][0])


def test_duckdb_joins_plan_and_commits(tmp_path: Path) -> None:
    stores.build(tmp_path / "s", statuses={3: "quarantined"})
    rows = duckdb.sql(f"""
        SELECT class_name, count(*) AS videos, sum(CAST(status = 'quarantined' AS INT)) AS quarantined
        FROM '{tmp_path}/s/_tables/videos.parquet'
        JOIN '{tmp_path}/s/_tables/commits/clip/*/*.parquet' USING (slot)
        GROUP BY class_name ORDER BY class_name""").fetchall()
    assert rows == [("a", 5, 0), ("b", 5, 1)]
