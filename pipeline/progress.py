"""How long-running work reports on itself. A library caller hears nothing unless it passes a ``Progress``."""

from __future__ import annotations


class Progress:
    """Receiver of progress; this one is silent."""

    def begin(self, what: str, total: int) -> None:
        """Work of ``total`` steps begins."""

    def advance(self, steps: int) -> None:
        """Some steps are done; a negative number takes steps back. May be called from any thread."""

    def end(self) -> None:
        """The work that began last is over."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def warn(self, line: str) -> None:
        """Something that the user should look at."""
