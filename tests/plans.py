"""The plan of a call, without running the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init import planner
from istio_init.config import fast_arguments
from istio_init.config.model import Facts
from istio_init.config.resolve import resolve
from istio_init.kernel.host import HostFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.rules.model import Plan


def plan_of(*argv: str, env: Mapping[str, str] | None = None) -> Plan:
    """Return what a call plans where the host has nothing to say."""
    files = {"ISTIO_CLUSTER_CONFIG": "/nonexistent", "ISTIO_SIDECAR_CONFIG": "/nonexistent"}
    environment = {**files, **(env or {})}
    call = fast_arguments.read(argv, environment)
    assert call is not None, argv
    return planner.plan(resolve(*call, environment, HostFiles()).config, Facts())
