"""What each command does once its flags are known; no command line library is needed here."""

from __future__ import annotations

import os
import sys
import time

from istio_init.config.model import LAYOUT_1_30, TPROXY
from istio_init.config.resolve import enter_namespace, resolve
from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.log import Log

if TYPE_CHECKING:
    from istio_init.apply.converge import Result
    from istio_init.config.model import Format
    from istio_init.config.resolve import Resolved
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


def run(command: str, flags: dict[str, str]) -> int:
    """Run a command; return its exit code, with the reason for any but 0 in the log.

    ``flags`` maps long flag names to their text.
    """
    from istio_init.kernel.host import Names

    progress = Progress()
    failure = None
    told = False
    try:
        resolved = progress.resolved = resolve(command, flags, os.environ, Names())
        progress.log = Log(resolved.run.log_level, as_json=resolved.run.log_json)
        for warning in resolved.warnings:
            progress.log.warn(warning)
        _act(resolved, progress)
        # A dry run has printed the plan in its place.
        told = resolved.run.format == "json" and not resolved.run.prints_plan
    except IstioInitError as error:
        progress.log.error(str(error))
        failure = error
    if failure or told:
        from istio_init.cli import result

        result.finish(command, flags, progress, failure)
    return failure.exit_code if failure else 0


def _act(resolved: Resolved, progress: Progress) -> None:
    run, log = resolved.run, progress.log
    if run.command == "clean":
        _clean(resolved, progress)
    elif run.prints_plan:
        if resolved.config.layout == LAYOUT_1_30 and resolved.config.ipv6 is None:
            # The addresses that decide are those of the namespace named.
            enter_namespace(resolved.run)
        plan = _plan(resolved, log)
        sys.stdout.write(_rendered(plan, run.format))
        sys.stdout.flush()
    else:
        enter_namespace(resolved.run)
        if run.skip_rule_apply:
            log.info("--skip-rule-apply: nothing was written")
        else:
            _apply(resolved, progress)
        if run.run_validation:
            _validate(resolved, progress)


def _plan(resolved: Resolved, log: Log) -> Plan:
    from istio_init import planner
    from istio_init.kernel import host

    plan = planner.plan(resolved.config, host.gather(resolved.config))
    for warning in plan.warnings:
        log.warn(warning)
    return plan


def _rendered(plan: Plan, form: Format) -> str:
    match form:
        case "rules":
            from istio_init.formats import listing

            return listing.render(plan)
        case "save":
            from istio_init.formats import save

            return save.render(plan)
        case "json":
            from istio_init.formats import documents

            return documents.render(plan)
        case "commands":
            from istio_init.formats import commands

            return commands.render(plan)
        case "nft":
            from istio_init.formats import nft_script

            return nft_script.render(plan)
        case _:
            assert_never(form)


def _apply(resolved: Resolved, progress: Progress) -> None:
    log = progress.log
    result = progress.result = _converge(resolved, progress)
    outcome = result.outcome
    what = f"layout {resolved.config.layout} through backend {result.backend}"
    for other in outcome.emptied:
        log.info(f"removed our rules from backend {other}: they stand in {result.backend} now")
    for sentence in outcome.hidden:
        log.warn(sentence)
    if not outcome.changed:
        log.info(f"{what}: already in place, nothing was written")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    log.info(f"{what}: in place; wrote {tables or 'no table'}, {len(outcome.steps)} route steps")


def _converge(resolved: Resolved, progress: Progress) -> Result:
    """Put the plan in place; with --on-missing degrade, less of it where it has to be."""
    from istio_init.apply import converge

    log = progress.log
    while True:
        try:
            progress.plan = _plan(resolved, log)
            return converge.converge(progress.plan, resolved.run, log)
        except IstioInitError as error:
            if not resolved.run.degrade:
                raise
            from istio_init.planner.degrade import degraded

            config, warnings = degraded(resolved.config, error.missing)
            if not warnings:
                raise
            log.debug(str(error))
            for warning in warnings:
                log.warn(f"--on-missing degrade: {warning}")
            resolved = resolved.replace(config=config)


def _validate(resolved: Resolved, progress: Progress) -> None:
    from istio_init import planner
    from istio_init.kernel import host
    from istio_init.operate import validate

    # Who answers DNS makes no difference here, and need not be known.
    config = resolved.config.replace(redirect_dns=False)
    plan = planner.plan(config, host.gather(config))
    tried = validate.paths(config, plan, resolved.run.probe_port)
    uid, gid = config.proxy_uids[0].low, config.proxy_gids[0].low
    validate.validate(tried, uid=uid, gid=gid, seconds=resolved.run.probe_timeout)
    progress.validated = tried
    for path in tried:
        progress.log.info(f"validation: the connection arrived ({path})")


def _clean(resolved: Resolved, progress: Progress) -> None:
    from istio_init import planner
    from istio_init.config.model import Facts

    enter_namespace(resolved.run)
    # Every rule that these flags could have built, in either family, helps to
    # tell ours from those of others.
    config = resolved.config.replace(layout=LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True)
    hints = planner.plan(config, Facts())
    from istio_init.apply import converge

    log = progress.log
    progress.result = converge.clean(hints, resolved.run, log)
    outcome = progress.result.outcome
    if not outcome.changed:
        log.info("clean: nothing of ours was found")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    done = "would remove" if resolved.run.dry_run else "removed"
    log.info(f"clean: {done} ours from {tables or 'no table'}, {len(outcome.steps)} route steps")
