"""``vilp-pipe demo`` and ``vilp-pipe benchmark``."""

from __future__ import annotations
