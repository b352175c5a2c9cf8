"""Measure what one GPU does with the parts of the pipeline, beside what it could do, in ten minutes.

    python benchmarks/gpu.py --out DIR

It needs torch, torchvision, numpy, pyarrow, av, opencv-python, safetensors, open_clip_torch, zarr and google-crc32c;
neither Ray nor mmpose nor decord, and no installation of this project. What it measures and how to read it:
docs/benchmarks-gpu.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.benchmarks.gpu import PARTS, TINY, run_gpu
from store.errors import VilpError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.txt and profiles")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="this part alone; may be repeated")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="see that everything runs: figures mean nothing")
    given = parser.parse_args()
    try:
        report = run_gpu(
            given.out,
            parts=given.part or tuple(PARTS),
            config=TINY if given.tiny else None,
            device=given.device,
            note=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except VilpError as error:
        sys.exit(str(error))
    print(report.table(), end="")
    if any(part.problem for part in report.parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
