"""Heads on stored features: models, training, evaluation.

``train_head`` and ``evaluate_run`` are all that most callers need.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.head.config import HeadConfig
    from pipeline.head.evaluate import evaluate_run, train_head
    from pipeline.head.late import late_fusion
    from pipeline.head.protocols import FewShotResult, ZeroShotResult, few_shot, zero_shot
    from pipeline.head.results import RunResult
    from pipeline.head.train import EpochReport, TrainConfig

__all__ = [
    "EpochReport",
    "FewShotResult",
    "HeadConfig",
    "RunResult",
    "TrainConfig",
    "ZeroShotResult",
    "evaluate_run",
    "few_shot",
    "late_fusion",
    "train_head",
    "zero_shot",
]

_HOMES = {
    "EpochReport": "train",
    "FewShotResult": "protocols",
    "HeadConfig": "config",
    "RunResult": "results",
    "TrainConfig": "train",
    "ZeroShotResult": "protocols",
    "evaluate_run": "evaluate",
    "few_shot": "protocols",
    "late_fusion": "late",
    "train_head": "evaluate",
    "zero_shot": "protocols",
}


def __getattr__(name: str) -> object:
    # Everything here needs torch, which takes seconds to import; the command line must not wait for it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pipeline.head.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pipeline.head' has no attribute {name!r}")
