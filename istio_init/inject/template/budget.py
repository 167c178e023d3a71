"""A bound for walks through values.

A template can put one map into another twice, and that one again: sixty steps make a
value whose parts nobody could count. Whoever walks through a value counts them.
"""

from __future__ import annotations

from istio_init.inject.template.errors import LimitError

MAX_PARTS = 20_000


class PartCounter:
    """Counts the parts of values that are walked through."""

    __slots__ = ("left", "limit")

    def __init__(self, limit: int = MAX_PARTS) -> None:
        self.left = limit
        self.limit = limit

    def one(self) -> None:
        """Count one part; raises LimitError when there are too many."""
        self.left -= 1
        if self.left < 0:
            raise LimitError(f"the value has more than {self.limit} parts")
