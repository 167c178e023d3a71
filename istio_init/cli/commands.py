"""The commands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys

import click

from istio_init import __version__
from istio_init.cli.options import GROUPS, OPTIONS, RUNNING, Option
from istio_init.cli.resolve import ISTIO_IPTABLES, resolve
from istio_init.config import LAYOUT_1_30, TPROXY
from istio_init.errors import IstioInitError, UnsupportedError
from istio_init.log import Log
from istio_init.typed import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from istio_init.apply.run import Result
    from istio_init.cli.resolve import Resolved
    from istio_init.config import Format
    from istio_init.model import Plan

APPLY = "apply"
CLEAN = "clean"

_HELP = {
    APPLY: "Put the rules of layout 1.0 in place (layout 1.30 with --layout).",
    ISTIO_IPTABLES: "Put the rules of layout 1.30 in place, called as Istio calls it.",
    CLEAN: "Remove everything of ours, whatever flags and layout built it.",
}

_EXAMPLES = """\b
  istio-init -p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b 80 -d ''
  istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021
  istio-init istio-iptables -i '*' -b '*' --no-ipv6 --dry-run
  istio-init clean --network-namespace 4711"""

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Flag(click.Option):
    """A flag of the table. Its text is judged later, together with all the others."""

    def __init__(self, option: Option) -> None:
        shown = [option.help]
        if option.annotation:
            shown.append(f"Annotation: {option.annotation}.")
        if option.env:
            shown.append(f"Env: {', '.join(option.env)}.")
        if option.default:
            shown.append(f"[default: {option.default}]")
        self.group = option.group
        names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        # Istio's switches stand alone or are written --switch=true, --switch=false.
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.switch else {}
        super().__init__(
            [*names, _parameter(option.name)],
            help=" ".join(shown),
            metavar="[=true|false]" if option.switch else option.metavar,
            **alone,
        )


class _NoIpv6(click.Option):
    """The negative of --ipv6, which has no environment and no table row of its own."""

    group = RUNNING

    def __init__(self) -> None:
        super().__init__(["--no-ipv6", "no_ipv6"], is_flag=True, help="Same as --ipv6=false.")


def _parameter(name: str) -> str:
    return name.replace("-", "_")


def _flags() -> list[click.Parameter]:
    flags: list[click.Parameter] = []
    for option in OPTIONS:
        flags.append(_Flag(option))
        if option.name == "ipv6":
            flags.append(_NoIpv6())
    return flags


class _Command(click.Command):
    """A command that takes every flag and lists them by what they are for."""

    def __init__(self, name: str, callback: Callable[..., int]) -> None:
        super().__init__(
            name,
            callback=callback,
            params=_flags(),
            help=_HELP[name],
            context_settings=_CONTEXT,
            options_metavar="[FLAGS]",
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, a section for each purpose."""
        params = self.get_params(ctx)
        for group in (*GROUPS, None):
            of_group = [param for param in params if getattr(param, "group", None) == group]
            rows = [row for param in of_group if (row := param.get_help_record(ctx))]
            with formatter.section(group or "Other"):
                formatter.write_dl(rows)


class _Program(click.Group):
    """``istio-init``: a command's name may come first; flags alone mean ``apply``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        first = args[0] if args else ""
        if first not in self.commands and first not in ("-h", "--help", "--version"):
            args = [APPLY, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags and the commands: the help of the whole program is one page."""
        self.format_commands(ctx, formatter)
        self.commands[APPLY].format_options(ctx, formatter)


def _callback(command: str) -> Callable[..., int]:
    def run(**params: str | bool | None) -> int:
        return _run(command, _given(params))

    return run


def _given(params: dict[str, str | bool | None]) -> dict[str, str]:
    """Return the flags that were given, by their long names."""
    flags = {}
    for option in OPTIONS:
        text = params[_parameter(option.name)]
        if isinstance(text, str):
            # -p=15001 means the same as -p 15001 to Istio's own parser.
            flags[option.name] = text.removeprefix("=") if option.short else text
    if params["no_ipv6"]:
        if flags.get("ipv6") is not None:
            raise click.UsageError("--ipv6 and --no-ipv6 exclude each other")
        flags["ipv6"] = "false"
    return flags


def _program() -> _Program:
    program = _Program(
        "istio-init",
        help="Lead a pod's traffic through its sidecar proxy.\n\n" + _EXAMPLES,
        context_settings=_CONTEXT,
        commands={name: _Command(name, _callback(name)) for name in (APPLY, ISTIO_IPTABLES, CLEAN)},
        subcommand_metavar="[COMMAND] [FLAGS]",
        options_metavar="",
    )
    return click.version_option(__version__, prog_name="istio-init")(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code.

    0 done, 1 could not apply or clean, 2 bad input, 126 validation failed.
    """
    try:
        result = _program().main(arguments, "istio-init", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("istio-init: interrupted\n")
        return 1
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(result or 0)


def _run(command: str, flags: dict[str, str]) -> int:
    from istio_init.host import Names

    log = Log()
    try:
        resolved = resolve(command, flags, os.environ, Names())
        log = Log(resolved.run.log_level, as_json=resolved.run.log_json)
        for warning in resolved.warnings:
            log.warn(warning)
        return _act(resolved, log)
    except IstioInitError as error:
        log.error(str(error))
        return error.exit_code


def _act(resolved: Resolved, log: Log) -> int:
    run = resolved.run
    if run.run_validation:
        raise UnsupportedError("this release does not validate yet: leave --run-validation out")
    if run.command == "clean":
        _clean(resolved, log)
    elif run.dry_run:
        plan = _plan(resolved, log)
        sys.stdout.write(_rendered(plan, run.format))
        sys.stdout.flush()
    elif run.skip_rule_apply:
        log.info("--skip-rule-apply: nothing was written")
    else:
        _apply(resolved, log)
    return 0


def _plan(resolved: Resolved, log: Log) -> Plan:
    from istio_init import host, planner

    plan = planner.plan(resolved.config, host.gather(resolved.config))
    for warning in plan.warnings:
        log.warn(warning)
    return plan


def _rendered(plan: Plan, form: Format) -> str:
    match form:
        case "rules":
            from istio_init.render import rules

            return rules.render(plan)
        case "save":
            from istio_init.render import save

            return save.render(plan)
        case "json":
            from istio_init.render import document

            return document.render(plan)
        case "commands":
            from istio_init.render import commands

            return commands.render(plan)
        case "nft":
            raise UnsupportedError("this release does not write nft scripts yet")
        case _:
            assert_never(form)


def _apply(resolved: Resolved, log: Log) -> None:
    _enter(resolved)
    result = _converge(resolved, log)
    outcome = result.outcome
    what = f"layout {resolved.config.layout} through backend {result.backend}"
    for other in result.moved_from:
        log.info(f"removed our rules from backend {other}: they stand in {result.backend} now")
    if not outcome.changed:
        log.info(f"{what}: already in place, nothing was written")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    log.info(f"{what}: in place; wrote {tables or 'no table'}, {len(outcome.steps)} route steps")


def _converge(resolved: Resolved, log: Log) -> Result:
    """Put the plan in place; with --on-missing degrade, less of it where it has to be."""
    from istio_init.apply import run

    while True:
        try:
            return run.converge(_plan(resolved, log), resolved.run, log)
        except IstioInitError as error:
            if not resolved.run.degrade:
                raise
            from istio_init.degrade import degraded

            config, warnings = degraded(resolved.config, error.missing)
            if not warnings:
                raise
            log.debug(str(error))
            for warning in warnings:
                log.warn(f"--on-missing degrade: {warning}")
            resolved = resolved.replace(config=config)


def _clean(resolved: Resolved, log: Log) -> None:
    from istio_init import planner
    from istio_init.config import Facts

    _enter(resolved)
    # Every rule that these flags could have built, in either family, helps to
    # tell ours from those of others.
    config = resolved.config.replace(layout=LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True)
    hints = planner.plan(config, Facts())
    from istio_init.apply import run

    outcome = run.clean(hints, resolved.run, log).outcome
    if resolved.run.dry_run:
        return
    if not outcome.changed:
        log.info("clean: nothing of ours was found")
        return
    tables = ", ".join(f"{family} {table}" for family, table in outcome.tables)
    log.info(f"clean: removed ours from {tables or 'no table'}, {len(outcome.steps)} route steps")


def _enter(resolved: Resolved) -> None:
    if resolved.run.network_namespace:
        from istio_init import netns

        netns.enter(resolved.run.network_namespace)
