"""The plan as input for ``iptables-restore`` and ``ip6tables-restore``."""

from __future__ import annotations

from istio_init.formats.commands import route_commands
from istio_init.formats.iptables import restore_words, table_commands
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.model import TABLES
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Plan


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
                for command, words in table_commands(table, family):
                    yield mark + " ".join((*command, *restore_words(words)))
            yield "COMMIT"
    for line in route_commands(plan):
        yield f"# {line}"
