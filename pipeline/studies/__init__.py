"""Studies: questions about features and heads, each answered by a table, a picture and a verdict in words.

``run_study`` is all that most callers need.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.studies.base import StudyConfig
    from pipeline.studies.report import Report
    from pipeline.studies.run import run_study

__all__ = ["STUDIES", "Report", "StudyConfig", "run_study"]

# What each study asks.
STUDIES = {
    "pose": "Does pose help, and is it the pose: against video and text alone, and against every placebo?",
    "frames": "How many frames does each head need, and do classes with more motion need more?",
    "pose-poor": "Does pose help less in classes where fewer persons are found, or where poses vary less?",
    "occlusion": "Does pose help less where fewer joints are visible?",
    "transfer": "Does pose help on a dataset that the head was not trained on?",
    "backbone": "Does pose help with every encoder of the store?",
    "estimators": "Does pose help with every pose estimator of the store?",
    "tokens": "How well do patch tokens show where persons are, and what does that do to accuracy?",
}

_HOMES = {"Report": "report", "StudyConfig": "base", "run_study": "run"}


def __getattr__(name: str) -> object:
    # Everything here needs torch, which takes seconds to import; the command line must not wait for it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pipeline.studies.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pipeline.studies' has no attribute {name!r}")
