"""The demonstration, on a small set that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets.synthetic import SyntheticConfig
from pipeline.demo import HEADS, run_demo
from pipeline.progress import Progress


@pytest.mark.slow
def test_the_demo_tells_of_heads_weights_and_pose(tmp_path: Path) -> None:
    config = SyntheticConfig(num_subjects=3, clips=1, sizes=((160, 120),))
    made = run_demo(tmp_path, rendered=config, engine="inline", progress=Progress())
    found = json.loads(json.dumps(made.to_dict()))
    assert tuple(found["heads"]) == tuple(HEADS)
    assert found["zero_shot"]["vcs"]["top1"] > 3 * made.results["vcs"].chance
    assert found["focus"]["mean"]["all"]["area"] == 0.5
    assert (
        found["focus"]["vcs, zero-shot"]["all"]["area"] > found["focus"]["vcs, words of other classes"]["all"]["area"]
    )
    assert "another video" in found["study"]["details"]["gains"]
    for picture in made.pictures:
        assert Image.open(picture).width > 500
