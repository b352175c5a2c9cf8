"""One of several processes that render: ``python -m pipeline.datasets.synthetic.worker JOB``, a JSON object."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2

from pipeline.datasets.synthetic.config import SyntheticConfig
from pipeline.datasets.synthetic.render import render_video
from pipeline.datasets.synthetic.script import write_scripts


def main(job: dict[str, Any]) -> None:
    """Render this process's share of the clips, those that are not there yet."""
    cv2.setNumThreads(1)
    root = Path(job["root"])
    config = SyntheticConfig.from_dict(job["config"])
    for number, script in enumerate(write_scripts(job["seed"], config)):
        if number % job["parts"] == job["part"] and not (root / script.path).is_file():
            render_video(root, script)
            try:
                print(script.video_id, flush=True)
            except BrokenPipeError:  # nobody waits for it any more
                os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
