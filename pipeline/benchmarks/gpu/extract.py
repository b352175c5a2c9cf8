"""A whole extraction with the inline engine, from videos to a committed store, and how busy it keeps the device."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.benchmarks.clips import render_clips
from pipeline.benchmarks.extract import copies
from pipeline.benchmarks.gpu.base import Bench, call
from pipeline.benchmarks.gpu.profiling import busy_share
from pipeline.config import ExtractConfig
from pipeline.extraction import extract
from stages.clip.config import DEFAULT_TOKENS


def run(bench: Bench) -> None:
    """Seconds from videos to features that are safe on the disk, with and without tokens."""
    config, model = bench.config, bench.config.models[0]
    with TemporaryDirectory(prefix="vilp-gpu-") as temporary:
        folder = Path(temporary)
        clips = copies(render_clips(config.rendered, folder / "rendered"), config.extracted, folder / "copies")
        numbers = itertools.count()

        def one(tokens: tuple[str, ...]) -> None:
            settings = ExtractConfig(
                dataset=clips.dataset,
                root=str(clips.root),
                store=str(folder / f"store{next(numbers)}"),
                frames=config.frames,
                clip=model,
                clip_pretrained="none",
                pose="none",
                tokens=tokens,
                engine="inline",
                device=str(bench.device),
                batch_size=config.batches[-1],
                memory=2 << 30,
            )
            summary = extract(settings)
            if summary.done != len(clips.paths):
                raise RuntimeError(f"{summary.done} of {len(clips.paths)} clips were extracted")

        group = f"whole extraction, {model}, rendered clips"
        for tokens, name in (((), "cls alone"), (DEFAULT_TOKENS, "with tokens")):
            bench.time(
                f"{group}, {name}",
                "inline engine, start-up included",
                call(one, tokens),
                count=len(clips.paths),
                unit="clips",
                on_host=True,
                once=True,
            )
        bench.figures(
            f"{group}: how busy the device is",
            "inline engine, cls alone",
            lambda: busy_share(partial(one, ()), bench.device),
        )
