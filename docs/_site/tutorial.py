"""Run the commands of the tutorial in an empty folder, and keep what they print and draw for the site.

python docs/_site/tutorial.py build/tutorial
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from console import commands, console_blocks  # noqa: E402

PAGE = HERE.parent / "tutorial.md"
PROGRAM = [sys.executable, "-c", "from cli.main import run; run()"]


def run(folder: Path) -> dict[str, float]:
    """Run the page in ``folder``; returns seconds by command. Raises ``CalledProcessError`` where one fails."""
    shutil.rmtree(folder, ignore_errors=True)
    work, pictures = folder / "work", folder / "pictures"
    work.mkdir(parents=True)
    pictures.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "VILP_CACHE": str(folder.resolve() / "cache")}
    environment.pop("VILP_DATA", None)
    outputs, seconds = {}, {}
    page = PAGE.read_text()
    for command in (command for block in console_blocks(page) for command in commands(block)):
        program, *words = shlex.split(command, comments=True)
        assert program == "vilp-pipe", command
        print(command, flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [*PROGRAM, *words], cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds[command] = round(time.monotonic() - began, 1)
        outputs[command] = done.stdout.replace(f"{work.resolve()}/", "")
    for name in re.findall(r"]\(pictures/([\w.-]+)\)", page):
        (found,) = work.rglob(name)
        shutil.copyfile(found, pictures / name)
    (folder / "outputs.json").write_text(json.dumps(outputs, indent=1))
    return seconds


if __name__ == "__main__":
    print(f"{sum(run(Path(sys.argv[1])).values()):.0f} s")
