"""Rule sets of one table, from and to the lines of ``iptables -S``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.formats.listing import table_lines
from istio_init.formats.save_reader import parse_table
from istio_init.rules.model import BUILTIN_CHAINS, Ruleset

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family


def state(table: str, family: Family, *lines: str) -> Ruleset:
    """Return the rule set of one table from ``CHAIN rule`` lines; ``CHAIN`` alone is empty."""
    text = [f"-P {name} ACCEPT" for name in BUILTIN_CHAINS[table]]
    names = dict.fromkeys(line.partition(" ")[0] for line in lines)
    text += [f"-N {name}" for name in names if name not in BUILTIN_CHAINS[table]]
    text += [f"-A {line}" for line in lines if " " in line]
    return Ruleset(family, (parse_table(text, table, family),))


def rules_of(ruleset: Ruleset, chain: str) -> list[str]:
    """Return the rules of a chain of the only table."""
    prefix = f"-A {chain} "
    lines = table_lines(ruleset.tables[0], ruleset.family)
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def outside_ours(ruleset: Ruleset) -> list[str]:
    """Return the rules of the only table, but for those in chains of ours, with their chains."""
    return [
        line[3:]
        for line in table_lines(ruleset.tables[0], ruleset.family)
        if line.startswith("-A ") and not line.startswith("-A ISTIO_")
    ]
