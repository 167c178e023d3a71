"""What every command does before its own work: resolve, open the log, enter, plan."""

from __future__ import annotations

import os
import time

from istio_init.config.model import LAYOUT_1_30
from istio_init.config.resolve import resolve
from istio_init.errors import ConfigError
from istio_init.kernel import host
from istio_init.lean import TYPE_CHECKING
from istio_init.log import Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.apply.converge import Result
    from istio_init.config.model import Config, Run
    from istio_init.config.resolve import Resolved
    from istio_init.errors import BadValue
    from istio_init.operate.validate import Path
    from istio_init.rules.model import Plan


class Progress:
    """How far a run has come: what its result is made of."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.log = Log()
        self.resolved: Resolved | None = None
        self.plan: Plan | None = None
        self.result: Result | None = None
        self.validated: tuple[Path, ...] = ()


def resolve_call(
    command: str, flags: Mapping[str, str], problems: tuple[BadValue, ...] = ()
) -> Resolved:
    """Return the settings of a call, with this process's environment and host.

    ``problems`` are bad values of flags that are the command's own.

    Raises:
        ConfigError: one or more values are bad; all of them are in it.
    """
    try:
        resolved = resolve(command, flags, os.environ, host.HostFiles())
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems)) from error
    if problems:
        raise ConfigError(problems)
    return resolved


def open_log(resolved: Resolved) -> Log:
    """Return the log that a call asks for, with the warnings about its values written to it."""
    log = Log(resolved.run.log_level, as_json=resolved.run.log_json)
    for warning in resolved.warnings:
        log.warn(warning)
    return log


def enter_namespace(run: Run) -> None:
    """Move this process into the network namespace that a call names, if it names one.

    Raises:
        ApplyError: there is no such namespace, or it may not be entered.
    """
    if run.network_namespace:
        from istio_init.kernel import netns

        netns.enter(run.network_namespace)


def enter_for_addresses(resolved: Resolved) -> None:
    """Enter the namespace of a call whose plan depends on the addresses in it.

    Any other plan is the same everywhere, and the namespace need not exist.

    Raises:
        ApplyError: there is no such namespace, or it may not be entered.
    """
    if resolved.config.layout == LAYOUT_1_30 and resolved.config.ipv6 is None:
        enter_namespace(resolved.run)


def make_plan(config: Config, log: Log | None = None) -> Plan:
    """Return the plan of a config on this host; its warnings are written to the log.

    Raises:
        ApplyError: the plan depends on a file or address that cannot be read.
    """
    from istio_init import planner

    plan = planner.plan(config, host.gather(config))
    if log is not None:
        for warning in plan.warnings:
            log.warn(warning)
    return plan
