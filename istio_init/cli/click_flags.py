"""Flags and commands as click reads and prints them; every command is built of these."""

from __future__ import annotations

import click

from istio_init.cli.help import BY_NAME as COMMAND_HELP
from istio_init.config.model import APPLY, ISTIO_IPTABLES
from istio_init.config.options import OPTIONS, Option
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from click.shell_completion import CompletionItem

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
LOOKING = "How it looks"


class GroupedOption(click.Option):
    """An option that stands in a section of the help."""

    def __init__(self, names: Sequence[str], group: str, **attributes: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(names, **attributes)
        self.group = group


def switch(name: str, group: str, text: str, parameter: str = "") -> GroupedOption:
    """Return an option that takes no value; its callback gets it as ``parameter``."""
    return GroupedOption(
        [name, *([parameter] if parameter else [])], group, is_flag=True, help=text
    )


def choice(name: str, group: str, choices: tuple[str, ...], text: str) -> GroupedOption:
    """Return an option that takes one of a few words, the first by default."""
    words = click.Choice(choices)
    return GroupedOption([name], group, type=words, default=choices[0], help=text)


class Flag(GroupedOption):
    """A flag of a table of options. Its text is judged later, together with all the others."""

    def __init__(self, option: Option) -> None:
        shown = [option.help]
        if option.annotation:
            shown.append(f"Annotation: {option.annotation}.")
        if option.env:
            shown.append(f"Env: {', '.join(option.env)}.")
        if option.default:
            shown.append(f"[default: {option.default}]")
        self._choices = ("true", "false") if option.switch else option.choices
        self._names_namespace = option.name == "network-namespace"
        names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        # Istio's switches stand alone or are written --switch=true, --switch=false.
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.switch else {}
        super().__init__(
            [*names, parameter(option)],
            option.group,
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


def parameter(option: Option) -> str:
    """Return the name by which a callback gets the text of an option."""
    return option.name.replace("-", "_")


def given_flags(params: Mapping[str, str | bool | None]) -> dict[str, str]:
    """Return the flags of a run that were given, by their long names."""
    texts = ((option, params.get(parameter(option))) for option in OPTIONS)
    return {option.name: option.written(text) for option, text in texts if isinstance(text, str)}


def call_argument() -> click.Argument:
    """Return the optional word that says which command's flags follow."""
    return click.Argument(["call"], required=False, type=click.Choice([APPLY, ISTIO_IPTABLES]))


class Command(click.Command):
    """A command: its help and examples are those of ``cli.help``, its options stand by section."""

    def __init__(
        self,
        name: str,
        callback: Callable[..., int],
        params: Sequence[click.Parameter] = (),
        *,
        text: str = "",
        examples: tuple[str, ...] = (),
    ) -> None:
        known = COMMAND_HELP.get(name)
        self.examples = known.examples if known else examples
        super().__init__(
            name,
            callback=callback,
            params=list(params),
            help=known.help if known else text,
            context_settings=CONTEXT,
            options_metavar="[FLAGS]",
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each purpose, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (row := param.get_help_record(ctx)):
                if isinstance(param, GroupedOption):
                    sections.setdefault(param.group, []).append(row)
                else:
                    others.append(row)
        for group, rows in {**sections, "Other" if sections else "Options": others}.items():
            with formatter.section(group):
                formatter.write_dl(rows)

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write examples."""
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: Iterable[str]) -> None:
    """Write a section of command lines."""
    with formatter.section("Examples"):
        for line in examples:
            # Whole, to be copied, however narrow the terminal is.
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
