"""First aid: what of this machine works, what does not, and what to do about it. Downloads and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import ExtractConfig
from pipeline.doctor.check import FAIL, OK, WARN, Check
from pipeline.doctor.decoding import codecs, decoders
from pipeline.doctor.machine import this_machine
from pipeline.doctor.needs import plan, weights

__all__ = ["FAIL", "OK", "WARN", "Check", "examine"]


def examine(config: ExtractConfig, *, planned: bool) -> Iterator[Check]:
    """Look at everything, a line at a time. With ``planned``, what ``config`` needs is held against what is there, and
    what it needs and lacks is a failure; without, weights that are missing are a warning."""
    yield from this_machine(with_ray=config.engine == "ray")
    yield codecs()
    yield from decoders(config.decoder)
    yield from weights(config, planned=planned)
    if planned:
        yield from plan(config)
