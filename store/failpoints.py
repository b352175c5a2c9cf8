"""Named places at which a test can kill the process, to prove that a crash there loses nothing.

``VILP_FAILPOINT=name`` kills the process (SIGKILL) the first time the place is reached, ``name:3`` the third time.
Unset, as always outside tests, reaching a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

_NAME, _, _COUNT = os.environ.get("VILP_FAILPOINT", "").partition(":")
_left = int(_COUNT or 1)


def reach(name: str) -> None:
    """Mark a place in the code; the list of names is in ``tests/crash``."""
    global _left
    if name != _NAME:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
