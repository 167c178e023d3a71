"""The state of one rendering, and what it may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import LimitError
from istio_init.inject.template.values import Value

if TYPE_CHECKING:
    from typing import TypeAlias

    from istio_init.inject.template.taint import Tainted


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one rendering may use.

    ``output`` and ``memory`` count characters, of the result and of all longer values
    on the way; ``steps`` are nodes that are run, ``depth`` is templates in templates.
    """

    output: int = 1 << 20
    memory: int = 64 << 20
    steps: int = 200_000
    seconds: float = 2.0
    depth: int = 50


class _NilElement:
    """A nil that stands in a list or map: it prints like nothing, and has no fields."""

    __slots__ = ()


NIL_ELEMENT = _NilElement()
BREAK, CONTINUE = "break", "continue"
CHECK_CLOCK_EVERY = 500
SMALL = 1024
BYTES_OF_ITEM = 16


class Frame:
    """The state of one rendering."""

    __slots__ = (
        "depth", "environment", "limits", "memory", "next_check", "parts", "size", "slots", "start",
        "steps", "suspects", "trees",
    )  # fmt: skip

    def __init__(
        self, limits: RenderLimits, environment: Mapping[str, str], trees: Mapping[str, Body]
    ) -> None:
        self.limits = limits
        self.environment = environment
        self.trees = trees
        self.parts: list[str] = []
        self.suspects: dict[int, Tainted] = {}
        self.slots: list[Value] = []
        self.size = 0
        self.memory = 0
        self.steps = 0
        self.depth = 0
        self.next_check = CHECK_CLOCK_EVERY
        self.start = time.monotonic()

    def tick(self, steps: int) -> None:
        """Count steps; raises LimitError when a limit is passed."""
        self.steps += steps
        if self.steps >= self.next_check:
            self.next_check = self.steps + CHECK_CLOCK_EVERY
            if self.steps > self.limits.steps:
                raise LimitError(f"the template needs more than {self.limits.steps} steps")
            self.check_clock()

    def check_clock(self) -> None:
        """Raise LimitError if the time is over."""
        if time.monotonic() - self.start > self.limits.seconds:
            raise LimitError(f"the template runs for more than {self.limits.seconds} seconds")

    def grow(self, size: int) -> None:
        """Count characters of output; raises LimitError when there are too many."""
        self.size += size
        if self.size > self.limits.output:
            raise LimitError(f"the output is longer than {self.limits.output} characters")

    def spend(self, value: Value) -> None:
        """Count what a long value takes; raises LimitError when all take too much."""
        size = len(value) if isinstance(value, str) else 0
        if isinstance(value, list | dict):
            size = len(value) * BYTES_OF_ITEM
        if size < SMALL:
            return
        self.check_clock()
        self.memory += size
        if self.memory > self.limits.memory:
            raise LimitError(f"the values are longer than {self.limits.memory} characters together")


Eval: TypeAlias = Callable[[Frame, Value], Value]
Exec: TypeAlias = Callable[[Frame, Value], str | None]


@dataclass(frozen=True, slots=True)
class Body:
    """A compiled template: what runs it, and how many variables it has."""

    run: Exec
    slots: int
