"""The command line as click reads it: help, completion, and whatever is not a plain call."""

from __future__ import annotations

import click

from istio_init import __version__
from istio_init.cli import actions, packet, report
from istio_init.cli.options import GROUPS, OPTIONS, OUTPUT, RUNNING, Option
from istio_init.cli.packet import INBOUND, OUTBOUND
from istio_init.cli.startup import APPLY, CLEAN, COMMANDS, ISTIO_IPTABLES
from istio_init.errors import IstioInitError
from istio_init.log import Log
from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from istio_init.cli.packet import Direction

EXPLAIN = "explain"
AUDIT = "audit"
DOCTOR = "doctor"

_HELP = {
    APPLY: "Put the rules of layout 1.0 in place (layout 1.30 with --layout).",
    ISTIO_IPTABLES: "Put the rules of layout 1.30 in place, called as Istio calls it.",
    AUDIT: (
        "Hold the rules that stand against those planned, and say what each difference means. "
        "Takes the flags of the run; without any it recognises what stands."
    ),
    DOCTOR: (
        "Look whether this machine can do what a run with these flags would; write nothing. "
        "Without flags, what Istio's injection template asks for."
    ),
    CLEAN: "Remove everything of ours, whatever flags and layout built it.",
}

_EXPLAIN_HELP = {
    OUTBOUND: "Explain what becomes of a packet that a process of the pod sends.",
    INBOUND: "Explain what becomes of a packet that comes into the pod.",
}
_EXPLAIN_EXAMPLES = {
    OUTBOUND: """\b
  istio-init explain outbound --to 10.1.2.3:443 --uid 1000 istio-iptables -i '*' -x 10.0.0.0/8
  istio-init explain outbound --to [fd00::a]:53 --udp --uid 1000 --live
  istio-init explain outbound --to 10.1.2.3:443 --uid 1337 --live --network-namespace 4711""",
    INBOUND: """\b
  istio-init explain inbound --from 10.0.0.9 --to-port 8080 istio-iptables -b '*' -d 15090
  istio-init explain inbound --from 10.0.0.9 --to-port 8080 --via eth1 --live --format json""",
}

_EXAMPLES = """\b
  istio-init -p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b 80 -d ''
  istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021
  istio-init istio-iptables -i '*' -b '*' --no-ipv6 --dry-run
  istio-init clean --network-namespace 4711
  istio-init explain outbound --to 10.1.2.3:443 --uid 1000 --live"""

LOOKING = "How it looks"
_DOCTOR_FORMATS = ("text", "json")
_AUDIT_FORMATS = ("text", "json", "prometheus")
_ALL = "Audit every pod of this node, a line for each; takes root in the node's PID namespace."
_OUTPUT = "With --all: write to this file, which takes its name once it is complete."
# What makes a difference only to a run that writes.
_NOT_FOR_AUDITS = frozenset(
    {
        *("format", "dry_run", "wait", "cleanup_only", "reconcile", "force_apply", "cni_mode"),
        *("skip_rule_apply", "run_validation", "iptables_probe_port", "probe_timeout"),
    }
)
_NOT_FOR_DOCTORS = _NOT_FOR_AUDITS - {"wait", "run_validation"}

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
            help=_HELP.get(name),
            context_settings=_CONTEXT,
            options_metavar="[FLAGS]",
        )

    groups: tuple[str | None, ...] = (*GROUPS, None)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, a section for each purpose."""
        params = self.get_params(ctx)
        for group in self.groups:
            of_group = [param for param in params if getattr(param, "group", None) == group]
            rows = [row for param in of_group if (row := param.get_help_record(ctx))]
            if rows:
                with formatter.section(group or "Other"):
                    formatter.write_dl(rows)


class _Audit(_Command):
    """``istio-init audit``: the flags of a run, and how to look."""

    groups = (LOOKING, *_Command.groups)

    def __init__(self) -> None:
        super().__init__(AUDIT, _audit)
        kept = [one for one in self.params if one.name not in _NOT_FOR_AUDITS]
        self.params = [
            _call(),
            _choice("--format", _AUDIT_FORMATS, "What is printed."),
            _grouped(click.Option(["--all", "everything"], is_flag=True, help=_ALL)),
            _grouped(click.Option(["--output"], default="", metavar="FILE", help=_OUTPUT)),
            *kept,
        ]


def _grouped(option: click.Option, group: str = LOOKING) -> click.Option:
    """Return an option that stands in a section of the help."""
    option.group = group  # type: ignore[attr-defined]
    return option


def _choice(name: str, choices: tuple[str, ...], text: str) -> click.Option:
    return _grouped(
        click.Option([name], type=click.Choice(choices), default=choices[0], help=text),
    )


def _audit(*, call: str | None, everything: bool, output: str, **params: str | bool | None) -> int:
    form = str(params.pop("format"))
    flags = _given(params)
    if output and not everything:
        raise click.UsageError("--output goes with --all")
    if everything:
        from istio_init.cli import node

        return _guarded(
            flags,
            lambda: node.audit_all(call or "", flags, form=form, output=output),
        )
    from istio_init.cli import audits

    return _guarded(flags, lambda: audits.audit_one(call or "", flags, form=form))


def _guarded(flags: dict[str, str], action: Callable[[], int]) -> int:
    """Return what an action returns, or the exit code of its failure, with the reason logged."""
    try:
        return action()
    except IstioInitError as error:
        as_json = flags.get("log_as_json", "") == "true"
        Log(as_json=as_json).error(str(error))
        return error.exit_code


class _Doctor(_Command):
    """``istio-init doctor``: the flags of a run, and no word on how to write."""

    groups = (LOOKING, *_Command.groups)

    def __init__(self) -> None:
        super().__init__(DOCTOR, _doctor)
        kept = [one for one in self.params if one.name not in _NOT_FOR_DOCTORS]
        self.params = [_call(), _choice("--format", _DOCTOR_FORMATS, "What is printed."), *kept]


def _doctor(*, call: str | None, **params: str | bool | None) -> int:
    from istio_init.cli import checkup

    form = str(params.pop("format"))
    flags = _given(params)
    return _guarded(flags, lambda: checkup.examine(call or "", flags, form=form))


def _call() -> click.Argument:
    return click.Argument(["call"], required=False, type=click.Choice([APPLY, ISTIO_IPTABLES]))


class _Explain(_Command):
    """``istio-init explain DIRECTION``: a packet's flags, and all those of apply."""

    groups = (packet.GROUP, *_Command.groups)

    def __init__(self, direction: Direction) -> None:
        of_packet = [_Flag(option) for option in packet.FLAGS[direction]]
        live = click.Option(
            ["--live"], is_flag=True, help="Through the kernel's rules, not those of the flags."
        )
        form = click.Option(["--format"], metavar="FORMAT", help="text or json. [default: text]")
        for one, group in ((live, packet.GROUP), (form, OUTPUT)):
            setattr(one, "group", group)  # noqa: B010 - click's own class has no such field
        flags = [flag for flag in _flags() if flag.name != "format"]
        words = click.Argument(["way_in"], required=False, metavar=f"[{ISTIO_IPTABLES}]")
        super().__init__(direction, self._run)
        self.direction = direction
        self.params = [*of_packet, live, form, *flags, words]
        self.help = f"{_EXPLAIN_HELP[direction]}\n\n{_EXPLAIN_EXAMPLES[direction]}"

    def _run(self, **params: str | bool | None) -> int:
        from istio_init.cli import explain

        way_in = params.pop("way_in")
        if way_in not in (None, ISTIO_IPTABLES):
            raise click.UsageError(f"{way_in!r}: no command but {ISTIO_IPTABLES} goes here")
        names = {option.name: _parameter(option.name) for option in packet.FLAGS[self.direction]}
        texts = {name: text for name in names if isinstance(text := params[names[name]], str)}
        return explain.run(
            ISTIO_IPTABLES if way_in else APPLY,
            self.direction,
            texts,
            _given(params),
            live=bool(params["live"]),
        )


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
        return actions.run(command, _given(params))

    return run


def _given(params: dict[str, str | bool | None]) -> dict[str, str]:
    """Return the flags that were given, by their long names."""
    flags = {}
    for option in OPTIONS:
        text = params.get(_parameter(option.name))
        if isinstance(text, str):
            # -p=15001 means the same as -p 15001 to Istio's own parser.
            flags[option.name] = text.removeprefix("=") if option.short else text
    if params["no_ipv6"]:
        if flags.get("ipv6") is not None:
            raise click.UsageError("--ipv6 and --no-ipv6 exclude each other")
        flags["ipv6"] = "false"
    return flags


def _explain() -> click.Group:
    return click.Group(
        EXPLAIN,
        help="Follow one packet through the rules, and say what becomes of it and why.",
        short_help="Say what the rules do with one packet, and why.",
        context_settings=_CONTEXT,
        commands={name: _Explain(name) for name in packet.DIRECTIONS},
        subcommand_metavar="outbound|inbound [FLAGS]",
        options_metavar="",
    )


def _program() -> _Program:
    program = _Program(
        "istio-init",
        help="Lead a pod's traffic through its sidecar proxy.\n\n" + _EXAMPLES,
        context_settings=_CONTEXT,
        commands={
            **{name: _Command(name, _callback(name)) for name in COMMANDS},
            EXPLAIN: _explain(),
            AUDIT: _Audit(),
            DOCTOR: _Doctor(),
        },
        subcommand_metavar="[COMMAND] [FLAGS]",
        options_metavar="",
    )
    return click.version_option(__version__, prog_name="istio-init")(program)


def run_with_click(arguments: Sequence[str]) -> int:
    """Read the call with click, run it, and return the exit code."""
    try:
        result = _program().main(list(arguments), "istio-init", standalone_mode=False)
    except click.ClickException as error:
        report.leave_reason(error.format_message())
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return int(result or 0)
