"""A bar for work that takes its time, on a terminal only.

with Bar(sys.stderr) as bar:
    bar.show(0.4, "120,000 rows")
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

WIDTH = 30  # characters of the bar
SECONDS = 0.1  # between two drawings


class Bar:
    """Drawn in place, and gone when the work is done; where nobody watches, nothing is written."""

    def __init__(self, to: TextIO) -> None:
        self._to, self._on_terminal = to, to.isatty()
        self._drawn_at, self._length = 0.0, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._length:
            self._to.write("\r" + " " * self._length + "\r")
            self._to.flush()

    def show(self, done: float, words: str) -> None:
        """How much is done, 0 to 1, and what to say of it."""
        if not self._on_terminal or time.monotonic() - self._drawn_at < SECONDS:
            return
        self._drawn_at = time.monotonic()
        full = round(WIDTH * min(max(done, 0.0), 1.0))
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {done:4.0%}  {words}"
        self._to.write("\r" + line.ljust(self._length))
        self._to.flush()
        self._length = len(line)
