"""Pods for tests that only make calls in them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest

from tests.pod import Pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.pod import Setup


class Pods:
    """One pod at a time, kept for as long as the next test asks for the same set-up."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pod: Pod | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, setup: Setup | None) -> Pod:
        """Return a pod with this set-up; whoever changes it makes a ``Pod`` of its own."""
        if self._pod is None or self._pod.setup != setup:
            self._pod = None
            self._stack.close()
            self._pod = self._stack.enter_context(Pod(setup))
        return self._pod


@pytest.fixture(scope="session")
def pods() -> Iterator[Pods]:
    with Pods() as pods:
        yield pods
