"""The command line as click reads it: help, completion, and whatever is not a plain call."""

from __future__ import annotations

import importlib
from functools import partial

import click

from istio_init import __version__
from istio_init.cli import apply, help, packet, result  # noqa: A004 - what it is
from istio_init.cli.click_flags import (
    CONTEXT,
    LOOKING,
    Command,
    Flag,
    GroupedOption,
    call_argument,
    choice,
    given_flags,
    parameter,
    switch,
    write_examples,
)
from istio_init.cli.help import AUDIT, COMPLETION, DOCTOR, EXPLAIN
from istio_init.config.fast_arguments import COMPLETE_VARIABLE
from istio_init.config.model import APPLY, COMMANDS, ISTIO_IPTABLES
from istio_init.config.options import OPTIONS, PRINTING
from istio_init.config.values import TRUE_WORDS
from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING
from istio_init.log import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.shell_completion import CompletionItem

    from istio_init.cli.packet import Direction

_NAME = "istio-init"
SHELLS = ("bash", "zsh", "fish")

_DOCTOR_FORMATS = ("text", "json")
_AUDIT_FORMATS = ("text", "json", "prometheus")
# The flags that a command takes which writes nothing; the doctor checks what a
# validation needs, too.
_LOOKING_FLAGS = [option for option in OPTIONS if not option.writes]
_DOCTOR_FLAGS = [
    option for option in OPTIONS if not option.writes or option.name == "run-validation"
]


def _run_command(name: str) -> Command:
    def run(**params: str | bool | None) -> int:
        return apply.run(name, given_flags(params))

    return Command(name, run, list(map(Flag, OPTIONS)))


def _reported(
    flags: dict[str, str], form: str, action: Callable[[], int], verdict: str | None = "error"
) -> int:
    """Return what an action returns, or the exit code of its failure, with the reason logged.

    With the format JSON the reason is printed too, as one object with this verdict.
    """
    try:
        return action()
    except IstioInitError as error:
        as_json = flags.get("log_as_json", "").strip().lower() in TRUE_WORDS
        Log(as_json=as_json).error(*error.lines)
        if form == "json":
            result.print_error(error, verdict)
        return error.exit_code


def _audit_command() -> Command:
    def run(*, call: str | None, every: bool, output: str, **params: str | bool | None) -> int:
        form = str(params.pop("format"))
        flags = given_flags(params)
        if output and not every:
            raise click.UsageError("--output needs --all")
        if every:
            from istio_init.cli import fleet

            return _reported(
                flags,
                form,
                lambda: fleet.audit_all(call or "", flags, form=form, output=output),
            )
        from istio_init.cli import audit

        return _reported(flags, form, lambda: audit.audit_one(call or "", flags, form=form))

    every = "Audit every pod of this node, one line each; needs root in the node's PID namespace."
    output = "With --all: write to this file, which takes its name once it is complete."
    options = [
        call_argument(),
        choice("--format", LOOKING, _AUDIT_FORMATS, "What is printed."),
        switch("--all", LOOKING, every, "every"),
        GroupedOption(["--output"], LOOKING, default="", metavar="FILE", help=output),
    ]
    return Command(AUDIT, run, (*options, *map(Flag, _LOOKING_FLAGS)))


def _doctor_command() -> Command:
    def run(*, call: str | None, **params: str | bool | None) -> int:
        from istio_init.cli import doctor

        form = str(params.pop("format"))
        flags = given_flags(params)
        return _reported(flags, form, lambda: doctor.examine(call or "", flags, form=form))

    options = [call_argument(), choice("--format", LOOKING, _DOCTOR_FORMATS, "What is printed.")]
    return Command(DOCTOR, run, (*options, *map(Flag, _DOCTOR_FLAGS)))


def _explain_command(direction: Direction) -> Command:
    """Return ``istio-init explain DIRECTION``: a packet's flags, and all those of apply."""

    def run(**params: str | bool | None) -> int:
        from istio_init.cli import explain

        way_in = params.pop("way_in")
        if way_in not in (None, ISTIO_IPTABLES):
            raise click.UsageError(f"{way_in!r}: only {ISTIO_IPTABLES} may stand here")
        names = {option.name: parameter(option) for option in packet.FLAGS[direction]}
        texts = {name: text for name in names if isinstance(text := params[names[name]], str)}
        command = ISTIO_IPTABLES if way_in else APPLY
        live = bool(params["live"])
        flags = given_flags(params)
        form = flags.pop("format", explain.FORMATS[0])
        return _reported(
            flags,
            form,
            lambda: explain.run(command, direction, texts, flags, form=form, live=live),
            verdict=None,
        )

    kernel = switch("--live", packet.GROUP, "Follow the kernel's rules, not those of the flags.")
    form = GroupedOption(
        ["--format"], PRINTING, metavar="FORMAT", help="text or json. [default: text]"
    )
    flags = [option for option in OPTIONS if option.name != "format"]
    words = click.Argument(["way_in"], required=False, metavar=f"[{ISTIO_IPTABLES}]")
    params = (*map(Flag, packet.FLAGS[direction]), kernel, *map(Flag, flags), form, words)
    text, examples = help.DIRECTIONS[direction]
    return Command(direction, run, params, text=text, examples=examples)


class _Directions(click.Group):
    """``istio-init explain``: its commands are the directions."""

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write examples."""
        write_examples(formatter, help.BY_NAME[EXPLAIN].examples)


def _explain_group() -> click.Group:
    return _Directions(
        EXPLAIN,
        help=help.BY_NAME[EXPLAIN].help,
        context_settings=CONTEXT,
        commands={name: _explain_command(name) for name in packet.DIRECTIONS},
        subcommand_metavar="outbound|inbound [FLAGS]",
        options_metavar="",
    )


def _completion_command() -> Command:
    def run(shell: str) -> int:
        from click.shell_completion import get_completion_class

        completion = get_completion_class(shell)
        if completion is None:
            raise click.UsageError(f"click knows no shell {shell}")
        click.echo(completion(_program(), {}, _NAME, COMPLETE_VARIABLE).source())
        return 0

    return Command(COMPLETION, run, [click.Argument(["shell"], type=click.Choice(SHELLS))])


# How each command is made that has no module of its own in cli.help.
_MAKERS: dict[str, Callable[[], click.Command]] = {
    **{name: partial(_run_command, name) for name in COMMANDS},
    AUDIT: _audit_command,
    EXPLAIN: _explain_group,
    DOCTOR: _doctor_command,
    COMPLETION: _completion_command,
}


class _Program(click.Group):
    """``istio-init``: a command's name may come first; flags alone mean ``apply``.

    A command is made, and its module imported, only when it is needed.
    """

    def list_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
    ) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return list(help.BY_NAME)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        cmd_name: str,
    ) -> click.Command | None:
        """Return a command by its name, None if there is none of it."""
        entry = help.BY_NAME.get(cmd_name)
        if entry is None:
            return None
        if entry.module:
            command: click.Command = importlib.import_module(entry.module).command()
            return command
        return _MAKERS[cmd_name]()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        first = args[0] if args else ""
        if first in help.ALIASES:
            first = help.ALIASES[first]
            args = [first, *args[1:]]
        if ctx.resilient_parsing and not args:
            # A shell asks what may come first.
            return super().parse_args(ctx, args)
        if first not in help.BY_NAME and first not in ("-h", "--help", "--version"):
            args = [APPLY, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags and the commands: the help of the whole program is one page."""
        self.format_commands(ctx, formatter)
        _run_command(APPLY).format_options(ctx, formatter)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands, a section for each purpose."""
        for purpose in help.PURPOSES:
            rows = [(one.name, one.summary) for one in help.COMMANDS if one.purpose == purpose]
            if rows:
                with formatter.section(purpose):
                    formatter.write_dl(rows)

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write an example of each command, and the exit codes."""
        write_examples(formatter, (command.examples[0] for command in help.COMMANDS))
        with formatter.section("Exit codes"):
            formatter.write_dl(list(help.EXIT_CODES))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return commands, and the flags that may stand without one."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            command = _run_command(APPLY)
            items += command.shell_complete(
                click.Context(command, parent=ctx, info_name=APPLY), incomplete
            )
        return items


def _program() -> _Program:
    program = _Program(
        _NAME,
        help="Lead a pod's traffic through its sidecar proxy.",
        context_settings=CONTEXT,
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
