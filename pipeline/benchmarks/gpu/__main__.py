"""One part, in the process that ``run_part`` starts for it: its task is a JSON object, the only argument."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from pipeline.benchmarks.gpu.base import Bench, GpuConfig, Row, one_line
from stages.device import resolve_device


def main(task: str) -> None:
    """Run the part of a task, and write each row as soon as it is there. Where that fails, exit with a line of why."""
    given = json.loads(task)
    with Path(given["rows"]).open("a") as file:

        def tell(row: Row) -> None:
            file.write(json.dumps(row.to_dict()) + "\n")
            file.flush()  # what is measured stays, whatever becomes of this process

        bench = Bench(
            GpuConfig.from_dict(given["config"]),
            resolve_device(given["device"]),
            Path(given["out"]),
            tell=tell,
            deadline=time.monotonic() + given["seconds"],
        )
        try:
            import_module(f"pipeline.benchmarks.gpu.{given['part']}").run(bench)
        except Exception as error:
            sys.exit(one_line(error))


if __name__ == "__main__":
    main(sys.argv[1])
