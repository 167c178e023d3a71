"""What each command does once its flags are known; no command line library is needed here."""

from __future__ import annotations

import sys

from istio_init.cli import prepare
from istio_init.config.model import LAYOUT_1_30, TPROXY
from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from istio_init.apply.converge import Result
    from istio_init.config.model import Format
    from istio_init.config.resolve import Resolved
    from istio_init.rules.model import Plan


def run(command: str, flags: dict[str, str]) -> int:
    """Run a command; return its exit code, with the reason for any but 0 in the log.

    ``flags`` maps long flag names to their text.
    """
    progress = prepare.Progress()
    failure = None
    wants_result = False
    try:
        resolved = progress.resolved = prepare.resolve_call(command, flags)
        progress.log = prepare.open_log(resolved)
        _act(resolved, progress)
        # A dry run has printed the plan in its place.
        wants_result = resolved.run.format == "json" and not resolved.run.prints_plan
    except IstioInitError as error:
        progress.log.error(*error.lines)
        failure = error
    if failure or wants_result:
        from istio_init.cli import result

        result.finish(command, flags, progress, failure)
    return failure.exit_code if failure else 0


def _act(resolved: Resolved, progress: prepare.Progress) -> None:
    run, log = resolved.run, progress.log
    if run.command == "clean":
        _clean(resolved, progress)
    elif run.prints_plan:
        prepare.enter_for_addresses(resolved)
        plan = prepare.make_plan(resolved.config, log)
        sys.stdout.write(_rendered(plan, run.format))
        sys.stdout.flush()
    else:
        prepare.enter_namespace(run)
        if run.skip_rule_apply:
            log.info("--skip-rule-apply: nothing was written")
        else:
            _apply(resolved, progress)
        if run.run_validation:
            _validate(resolved, progress)


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


def _apply(resolved: Resolved, progress: prepare.Progress) -> None:
    log = progress.log
    result = progress.result = _converge(resolved, progress)
    outcome = result.outcome
    what = f"layout {resolved.config.layout} through backend {result.backend}"
    for other in outcome.emptied:
        log.info(f"removed the rules from backend {other}; backend {result.backend} has them now")
    for sentence in outcome.hidden:
        log.warn(sentence)
    if not outcome.changed:
        log.info(f"{what}: already in place, nothing was written")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    log.info(f"{what}: in place; wrote {tables or 'no table'}, {len(outcome.steps)} route steps")


def _converge(resolved: Resolved, progress: prepare.Progress) -> Result:
    """Put the plan in place; with --on-missing degrade, less of it where it has to be."""
    from istio_init.apply import converge

    log = progress.log
    while True:
        try:
            progress.plan = prepare.make_plan(resolved.config, log)
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


def _validate(resolved: Resolved, progress: prepare.Progress) -> None:
    from istio_init.operate import validate

    # Who answers DNS makes no difference here, and need not be known.
    config = resolved.config.replace(redirect_dns=False)
    plan = prepare.make_plan(config)
    tried = validate.paths(config, plan, resolved.run.probe_port)
    uid, gid = config.proxy_uids[0].low, config.proxy_gids[0].low
    validate.validate(tried, uid=uid, gid=gid, seconds=resolved.run.probe_timeout)
    progress.validated = tried
    for path in tried:
        progress.log.info(f"validation: the connection arrived ({path})")


def _clean(resolved: Resolved, progress: prepare.Progress) -> None:
    from istio_init import planner
    from istio_init.config.model import Facts

    prepare.enter_namespace(resolved.run)
    # Every rule that these flags could have built, in either family, helps to
    # tell ours from those of others.
    config = resolved.config.replace(layout=LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True)
    hints = planner.plan(config, Facts())
    from istio_init.apply import converge

    log = progress.log
    progress.result = converge.clean(hints, resolved.run, log)
    outcome = progress.result.outcome
    for sentence in outcome.hidden:
        log.warn(sentence)
    if not outcome.changed:
        log.info("clean: there is nothing of ours to remove")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    done = "would remove" if resolved.run.dry_run else "removed"
    log.info(f"clean: {done} ours from {tables or 'no table'}, {len(outcome.steps)} route steps")
