"""Log lines on standard error, as Istio's log flags ask for them.

The standard library's logging costs 10 ms to import, on a path that writes two
lines; this is all of it that is needed.
"""

from __future__ import annotations

import sys

from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["debug", "info", "warn", "error", "fatal", "none"]

LEVELS: tuple[Level, ...] = ("debug", "info", "warn", "error", "fatal", "none")


class Log:
    """Writes a line for each event at or above ``level``."""

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

    def error(self, text: str) -> None:
        """Write why this run failed."""
        self._write("error", text)

    def _write(self, level: Level, text: str) -> None:
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

            line = json.dumps({"level": level, "time": stamp, "scope": "istio-init", "msg": text})
        else:
            line = f"{stamp}\t{level}\t{text}"
        sys.stderr.write(line + "\n")
