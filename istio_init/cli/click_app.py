"""The command line as click reads it: help, completion, and whatever is not a plain call."""

from __future__ import annotations

import click

from istio_init import __version__
from istio_init.cli import apply, packet, result
from istio_init.cli.fast_arguments import COMPLETE_VARIABLE
from istio_init.cli.packet import INBOUND, OUTBOUND
from istio_init.config.model import (
    APPLY,
    BACKENDS,
    CLEAN,
    COMMANDS,
    FORMATS,
    ISTIO_IPTABLES,
    LAYOUTS,
    MODES,
)
from istio_init.config.options import GROUPS, OPTIONS, OUTPUT, RUNNING, Option
from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING
from istio_init.log import LEVELS, Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from click.shell_completion import CompletionItem

    from istio_init.cli.packet import Direction

_NAME = "istio-init"
EXPLAIN = "explain"
AUDIT = "audit"
DOCTOR = "doctor"
COMPLETION = "completion"
SHELLS = ("bash", "zsh", "fish")
# The commands by what they are for, as the help lists them.
PURPOSES = (
    ("Change the rules", (APPLY, ISTIO_IPTABLES, CLEAN)),
    ("Look, and change nothing", (AUDIT, EXPLAIN, DOCTOR)),
    ("For your shell", (COMPLETION,)),
)

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
    COMPLETION: "Print the script by which a shell completes commands, flags and their values.",
}

_EXPLAIN_HELP = {
    OUTBOUND: "Explain what becomes of a packet that a process of the pod sends.",
    INBOUND: "Explain what becomes of a packet that comes into the pod.",
}
_EXAMPLES = {
    APPLY: (
        "istio-init -p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b 80 -d ''",
        "istio-init -u 1337 -i 10.0.0.0/8 -b '*' --dry-run --format save",
    ),
    ISTIO_IPTABLES: (
        "istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090",
        "istio-init istio-iptables -i '*' -b '*' --no-ipv6 --dry-run",
        "istio-init istio-iptables -i '*' -b '*' --skip-rule-apply --run-validation",
    ),
    CLEAN: ("istio-init clean", "istio-init clean --network-namespace 4711 --dry-run"),
    AUDIT: (
        "istio-init audit --network-namespace 4711",
        "istio-init audit istio-iptables -p 15001 -z 15006 -u 1337 -i '*' -b '*' -d 15090",
        "istio-init audit --all",
        "istio-init audit --all --format prometheus --output /var/lib/node_exporter/istio.prom",
    ),
    EXPLAIN: (
        "istio-init explain outbound --to 10.1.2.3:443 --uid 1000 --live",
        "istio-init explain inbound --from 10.0.0.9 --to-port 8080 istio-iptables -b '*' -d 15090",
    ),
    OUTBOUND: (
        "istio-init explain outbound --to 10.1.2.3:443 --uid 1000 istio-iptables -x 10.0.0.0/8",
        "istio-init explain outbound --to [fd00::a]:53 --udp --uid 1000 --live",
        "istio-init explain outbound --to 10.1.2.3:443 --live --network-namespace 4711",
    ),
    INBOUND: (
        "istio-init explain inbound --from 10.0.0.9 --to-port 8080 istio-iptables -b '*' -d 15090",
        "istio-init explain inbound --from 10.0.0.9 --to-port 8080 --via eth1 --live --format json",
    ),
    DOCTOR: ("istio-init doctor", "istio-init doctor istio-iptables -m TPROXY -b '*' --ipv6"),
    COMPLETION: ("istio-init completion bash >/etc/bash_completion.d/istio-init",),
}
_EXIT_CODES = (
    ("0", "done, or already in place; nothing found"),
    ("1", "could not apply, clean or look; the state before was restored"),
    ("2", "bad input; nothing was changed"),
    ("3", "audit found drift"),
    ("126", "validation failed"),
)
# What a flag can be given, where that is one of a few.
_CHOICES: dict[str, tuple[str, ...]] = {
    "istio-inbound-interception-mode": MODES,
    "layout": LAYOUTS,
    "backend": BACKENDS,
    "force-iptables-binary": ("legacy", "nft"),
    "format": FORMATS,
    "on-missing": ("fail", "degrade"),
    "log_output_level": LEVELS,
}

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
_NOT_FOR_DOCTORS = _NOT_FOR_AUDITS - {"run_validation"}

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
        self._choices = ("true", "false") if option.switch else _CHOICES.get(option.name, ())
        self._names_namespace = option.name == "network-namespace"
        names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        # Istio's switches stand alone or are written --switch=true, --switch=false.
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.switch else {}
        super().__init__(
            [*names, _parameter(option.name)],
            help=" ".join(shown),
            metavar="[=true|false]" if option.switch else option.metavar,
            **alone,
        )

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return what the flag can be given, where that is known."""
        from click.shell_completion import CompletionItem

        choices = self._choices
        if self._names_namespace:
            from istio_init.kernel import netns

            choices = netns.names()
        return [CompletionItem(one) for one in choices if one.startswith(incomplete)]


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

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples."""
        _write_examples(formatter, _EXAMPLES[str(ctx.command.name)])


def _write_examples(formatter: click.HelpFormatter, examples: Iterable[str]) -> None:
    with formatter.section("Examples"):
        for line in examples:
            # Whole, to be copied, however narrow the terminal is.
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


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
        from istio_init.cli import fleet

        return _guarded(
            flags,
            form,
            lambda: fleet.audit_all(call or "", flags, form=form, output=output),
        )
    from istio_init.cli import audit

    return _guarded(flags, form, lambda: audit.audit_one(call or "", flags, form=form))


def _guarded(flags: dict[str, str], form: str, action: Callable[[], int]) -> int:
    """Return what an action returns, or the exit code of its failure, with the reason logged.

    Where JSON is asked for, the reason is there too.
    """
    try:
        return action()
    except IstioInitError as error:
        as_json = flags.get("log_as_json", "") == "true"
        Log(as_json=as_json).error(*error.lines)
        if form == "json":
            result.print_error(error)
        return error.exit_code


class _Doctor(_Command):
    """``istio-init doctor``: the flags of a run, and no word on how to write."""

    groups = (LOOKING, *_Command.groups)

    def __init__(self) -> None:
        super().__init__(DOCTOR, _doctor)
        kept = [one for one in self.params if one.name not in _NOT_FOR_DOCTORS]
        self.params = [_call(), _choice("--format", _DOCTOR_FORMATS, "What is printed."), *kept]


def _doctor(*, call: str | None, **params: str | bool | None) -> int:
    from istio_init.cli import doctor

    form = str(params.pop("format"))
    flags = _given(params)
    return _guarded(flags, form, lambda: doctor.examine(call or "", flags, form=form))


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
        self.help = _EXPLAIN_HELP[direction]

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
        if ctx.resilient_parsing and not args:
            # A shell asks what may come first.
            return super().parse_args(ctx, args)
        if first not in self.commands and first not in ("-h", "--help", "--version"):
            args = [APPLY, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags and the commands: the help of the whole program is one page."""
        self.format_commands(ctx, formatter)
        self.commands[APPLY].format_options(ctx, formatter)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands, a section for each purpose."""
        listed = {name for _, names in PURPOSES for name in names}
        rest = tuple(name for name in self.commands if name not in listed)
        for purpose, names in (*PURPOSES, ("More", rest)):
            rows = [(name, self.commands[name].get_short_help_str(200)) for name in names]
            if rows:
                with formatter.section(purpose):
                    formatter.write_dl(rows)

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write an example of each command, and the exit codes."""
        names = [name for _, names in PURPOSES for name in names]
        _write_examples(formatter, (_EXAMPLES[name][0] for name in names))
        with formatter.section("Exit codes"):
            formatter.write_dl(list(_EXIT_CODES))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return commands, and the flags that may stand without one."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            apply = click.Context(self.commands[APPLY], parent=ctx, info_name=APPLY)
            found += self.commands[APPLY].shell_complete(apply, incomplete)
        return found


def _callback(command: str) -> Callable[..., int]:
    def run(**params: str | bool | None) -> int:
        return apply.run(command, _given(params))

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


class _Directions(click.Group):
    """``istio-init explain``: its commands are the directions."""

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write examples."""
        _write_examples(formatter, _EXAMPLES[EXPLAIN])


def _explain() -> click.Group:
    return _Directions(
        EXPLAIN,
        help="Follow one packet through the rules, and say what becomes of it and why.",
        short_help="Say what the rules do with one packet, and why.",
        context_settings=_CONTEXT,
        commands={name: _Explain(name) for name in packet.DIRECTIONS},
        subcommand_metavar="outbound|inbound [FLAGS]",
        options_metavar="",
    )


def _completion() -> click.Command:
    def run(shell: str) -> int:
        from click.shell_completion import get_completion_class

        found = get_completion_class(shell)
        if found is None:
            raise click.UsageError(f"click knows no shell {shell}")
        click.echo(found(_program(), {}, _NAME, COMPLETE_VARIABLE).source())
        return 0

    return _Plain(
        COMPLETION,
        callback=run,
        params=[click.Argument(["shell"], type=click.Choice(SHELLS))],
        help=_HELP[COMPLETION],
        context_settings=_CONTEXT,
    )


class _Plain(click.Command):
    """A command without the flags of a run."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples."""
        _write_examples(formatter, _EXAMPLES[str(ctx.command.name)])


def _program() -> _Program:
    program = _Program(
        _NAME,
        help="Lead a pod's traffic through its sidecar proxy.",
        context_settings=_CONTEXT,
        commands={
            **{name: _Command(name, _callback(name)) for name in COMMANDS},
            EXPLAIN: _explain(),
            AUDIT: _Audit(),
            DOCTOR: _Doctor(),
            COMPLETION: _completion(),
        },
        subcommand_metavar="[COMMAND] [FLAGS]",
        options_metavar="",
    )
    return click.version_option(__version__, prog_name=_NAME)(program)


def run_with_click(arguments: Sequence[str]) -> int:
    """Read the call with click, run it, and return the exit code."""
    try:
        code = _program().main(list(arguments), _NAME, standalone_mode=False)
    except click.ClickException as error:
        result.leave_reason(error.format_message())
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return int(code or 0)
