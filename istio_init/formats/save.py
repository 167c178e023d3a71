"""The plan as input for ``iptables-restore`` and ``ip6tables-restore``."""

from __future__ import annotations

from istio_init.formats.iptables import restore_words, rule_words
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.model import BUILTIN_CHAINS, HEAD, TABLES
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.rules.model import Plan, Table
    from istio_init.rules.ranges import Family


def render(plan: Plan) -> str:
    """Return one file that either restore program reads, with or without ``--noflush``.

    Where both families have rules every line is marked ``-4`` or ``-6``; the
    program of the other family passes over it. Policies are left as they are.
    Policy routes and addresses are not iptables' and stand as comments.
    """
    return "".join(f"{line}\n" for line in _lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    used = [ruleset for ruleset in plan.rulesets if ruleset.tables]
    # A file for one family needs no marks; IPv6 alone is marked all the same, so
    # that iptables-restore does not take it for its own.
    marked = len(used) > 1 or any(ruleset.family != IPV4 for ruleset in used)
    for name in TABLES:
        found = [
            (ruleset.family, table)
            for ruleset in used
            for table in ruleset.tables
            if table.name == name
        ]
        if found:
            yield f"*{name}"
            for family, table in found:
                mark = ("-4 " if family == IPV4 else "-6 ") if marked else ""
                for line in table_commands(table, family, restore_words):
                    yield mark + line
            yield "COMMIT"
    from istio_init.formats.commands import route_commands

    for command in route_commands(plan):
        yield f"# {command}"


def table_commands(
    table: Table,
    family: Family,
    written: Callable[[list[str]], list[str]] = lambda words: words,
) -> Iterator[str]:
    """Yield the commands that build a table's chains; ``written`` is how words are put."""
    for chain in table.chains:
        if chain.name not in BUILTIN_CHAINS[table.name]:
            yield f"-N {chain.name}"
    for chain in table.chains:
        for number, rule in enumerate(chain.rules, 1):
            words = rule_words(rule, family)
            head = getattr(rule, "place", None) == HEAD
            verb = f"-I {chain.name} {number}" if head else f"-A {chain.name}"
            yield " ".join((verb, *written(words)))
