"""Go's durations: ``1m15s`` and the like, in nanoseconds."""

from __future__ import annotations

import re

NANOSECONDS = 1_000_000_000
MAX_DURATION = 2**63 - 1

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_LONGEST_PART = 60


def duration_text(nanoseconds: int) -> str:
    """Return a duration as Go prints it: ``1h0m0s``, ``1m15s``, ``1.5s``, ``300ms``."""
    if not nanoseconds:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    if rest < NANOSECONDS:
        unit, size = ("ns", 1) if rest < 1_000 else ("µs", 1_000)
        if rest >= 1_000_000:
            unit, size = "ms", 1_000_000
        return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * NANOSECONDS)
    hours, minutes = divmod(minutes, 60)
    text = _fraction(rest, NANOSECONDS) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _fraction(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    digits = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_duration(text: str) -> int | None:
    """Return the nanoseconds that a text spells in Go's syntax, or ``None``."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in {"+", "-"} else text
    if rest == "0":
        return 0
    total, pos = 0, 0
    while pos < len(rest):
        found = _PART.match(rest, pos)
        if found is None or not (found[1] or found[2]) or len(found[0]) > _LONGEST_PART:
            return None
        size = _UNITS[found[3]]
        digits = found[2] or ""
        total += int(found[1] or "0") * size + int(digits or "0") * size // 10 ** len(digits)
        pos = found.end()
    return sign * total if rest and total <= MAX_DURATION else None
