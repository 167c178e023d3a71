"""What a run has to lead to, wherever it started from."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.foreign import plant
from tests.inside import init
from tests.namespace import Namespace
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from tests.snapshot import State


@cache
def planted(*backends: str) -> State:
    """Return the state of a namespace with nothing but rules of others in these backends."""
    with Namespace() as pod:
        plant(pod, *backends)
        return snapshot(pod)


@cache
def expected(argv: tuple[str, ...], backend: str, *others: str) -> State:
    """Return the state after a run in a namespace with rules of others in the backends ``others``.

    That the rules are the right ones is what the conformance cases are for.
    """
    with Namespace() as pod:
        if others:
            plant(pod, *others)
        init(pod, *argv, "--backend", backend)
        return snapshot(pod)
