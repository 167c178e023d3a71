"""Log lines on standard error, as Istio's log flags ask for them.

The standard library's logging costs 10 ms to import, on a path that writes two
lines; this is all of it that is needed.
"""

from __future__ import annotations

import sys

from istio_init.errors import printable
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["debug", "info", "warn", "error", "fatal", "none"]

LEVELS: tuple[Level, ...] = ("debug", "info", "warn", "error", "fatal", "none")


class Log:
    """Writes a line for each event at or above ``level``; bad values have one each below it."""

    def __init__(self, level: Level = "info", *, as_json: bool = False) -> None:
        self._threshold = LEVELS.index(level)
        self._as_json = as_json
        # Every one so far, whether it was written or not.
        self.warnings: list[str] = []

    def debug(self, text: str) -> None:
        """Write what only a developer asks for."""
        self._write("debug", text)

    def info(self, text: str) -> None:
        """Write what was done."""
        self._write("info", text)

    def warn(self, text: str) -> None:
        """Write what works, but probably not as meant."""
        self.warnings.append(text)
        self._write("warn", text)

    def error(self, *lines: str) -> None:
        """Write why this run failed: one event, however many lines it has."""
        self._write("error", *lines)

    def _write(self, level: Level, *lines: str) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        import time

        now = time.time()
        # strftime would load the codec of the locale.
        year, month, day, hour, minute, second, *_ = time.gmtime(now)
        stamp = f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        stamp += f".{int(now % 1 * 1e6):06d}Z"
        if self._as_json:
            import json

            text = "\n".join(lines)
            event = json.dumps({"level": level, "time": stamp, "scope": "istio-init", "msg": text})
        else:
            # A line end in somebody's comment must not begin an event of its own.
            event = f"{stamp}\t{level}\t" + "\n".join(printable(line) for line in lines)
        sys.stderr.write(event + "\n")
