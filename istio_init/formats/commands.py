"""The plan as the commands a person would type."""

from __future__ import annotations

from istio_init.formats.iptables import table_commands, tool
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Plan

_SHELL_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_-+=:,./")


def render(plan: Plan) -> str:
    """Return one command a line, for a shell, in the order in which they work."""
    return "".join(f"{command}\n" for command in _commands(plan))


def _commands(plan: Plan) -> Iterator[str]:
    for ruleset in plan.rulesets:
        program = tool(ruleset.family)
        for table in ruleset.tables:
            for command, words in table_commands(table, ruleset.family):
                quoted = " ".join(_quoted(word) for word in (*command, *words))
                yield f"{program} -t {table.name} {quoted}"
    yield from route_commands(plan)


def _quoted(word: str) -> str:
    # Interface names may hold $, & and the like; a lone ! is safe outside quotes.
    if word == "!" or _SHELL_SAFE.issuperset(word):
        return word
    return f"'{word}'"


def route_commands(plan: Plan) -> Iterator[str]:
    """Yield the commands for policy routes and the address on lo."""
    for route in plan.routes:
        ip = "ip" if route.family == IPV4 else "ip -6"
        yield f"{ip} rule add fwmark {route.mark} lookup {route.table}"
        yield f"{ip} route add local default dev lo table {route.table}"
    for address in plan.addresses:
        yield f"ip -6 addr add {address} dev lo"
