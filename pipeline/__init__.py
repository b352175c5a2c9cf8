"""What runs: datasets, plans, the extraction graph and its engines, heads.

From Python: ``ExtractConfig``, ``extract``, ``train_head``, ``evaluate_run`` and ``predict``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import ExtractConfig
    from pipeline.extraction import extract
    from pipeline.head import evaluate_run, train_head
    from pipeline.prediction import predict

_HOMES = {
    "ExtractConfig": "pipeline.config",
    "extract": "pipeline.extraction",
    "evaluate_run": "pipeline.head",
    "predict": "pipeline.prediction",
    "train_head": "pipeline.head",
}

__all__ = ["ExtractConfig", "evaluate_run", "extract", "predict", "train_head"]


def __getattr__(name: str) -> object:
    # Lazily, since these need torch and more, and the command line must start at once.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
