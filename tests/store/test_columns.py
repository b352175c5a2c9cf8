"""Arrow columns as NumPy arrays, without pandas."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from store.columns import is_one_of, numbers, take

FIXTURE = Path(__file__).parents[1] / "fixtures" / "store-v1"
TABLE = pa.table(
    {
        "slot": pa.chunked_array([[3, 1], [], [4]], pa.int32()),
        "status": pa.chunked_array([["ok", "bad"], [], ["ok"]], pa.string()),
    }
)


def test_numbers_of_chunks_and_slices():
    assert numbers(TABLE["slot"]).tolist() == [3, 1, 4]
    assert numbers(TABLE["slot"]).dtype == np.int32
    assert numbers(TABLE.slice(1)["slot"]).tolist() == [1, 4]
    assert numbers(TABLE.slice(3)["slot"]).tolist() == []


def test_texts_that_are_one_of_some():
    assert is_one_of(TABLE["status"], ["ok"]).tolist() == [True, False, True]
    assert is_one_of(TABLE["status"], ["bad", "ok"]).tolist() == [True, True, True]
    assert is_one_of(TABLE["status"], ["gone"]).tolist() == [False, False, False]
    assert is_one_of(TABLE.slice(3)["status"], ["ok"]).tolist() == []


def test_rows_in_any_order():
    assert take(TABLE, np.array([2, 0, 0])).to_pydict() == {"slot": [4, 3, 3], "status": ["ok", "ok", "ok"]}
    assert take(TABLE, np.array([], np.int32)).num_rows == 0


def test_reading_a_store_imports_no_pandas():
    code = (
        "import sys; from store import FeatureStore; store = FeatureStore.open(sys.argv[1]); store.load(split=1); "
        "store.dataset()[[0, 1]]; sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, FIXTURE], check=False)
    assert done.returncode == 0
