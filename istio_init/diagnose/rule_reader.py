"""What live rules say, by table and chain, whichever family has them."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING
from istio_init.rules import targets as t
from istio_init.rules.model import Rule
from istio_init.rules.ownership import traces
from istio_init.rules.ranges import FAMILIES
from istio_init.rules.sets import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family, IdRange, PortRange
    from istio_init.rules.sets import Span

    T = TypeVar("T")


class RuleReader:
    """Reads the live rules of both families together: what one lacks the other may have."""

    def __init__(self, rulesets: tuple[Ruleset, ...]) -> None:
        self.rulesets = rulesets
        self.evidence = traces(rulesets)

    def rules(
        self, table: str, chain: str, families: tuple[Family, ...] = FAMILIES
    ) -> Iterator[Rule]:
        """Yield the rules of a chain that are understood, IPv4's first."""
        for ruleset in self.rulesets:
            if ruleset.family in families:
                of_table = ruleset.table(table)
                of_chain = of_table.chain(chain) if of_table else None
                for rule in of_chain.rules if of_chain else ():
                    if isinstance(rule, Rule):
                        yield rule

    def values(self, table: str, chain: str, of: Callable[[Rule], Iterable[T]]) -> list[T]:
        """Return what a function makes of a chain's rules, in order.

        A value that both families have counts once.
        """
        values: list[T] = []
        for family in FAMILIES:
            left = list(values)
            for rule in self.rules(table, chain, (family,)):
                for value in of(rule):
                    if value in left:
                        left.remove(value)
                    else:
                        values.append(value)
        return values

    def has_chain(self, table: str, chain: str) -> bool:
        """Whether either family has a chain of that name."""
        tables = (ruleset.table(table) for ruleset in self.rulesets)
        return any(one and one.chain(chain) for one in tables)

    def jumps(self, table: str, chain: str, to: str) -> Iterator[Rule]:
        """Yield the rules of a chain that jump to another one."""
        return (rule for rule in self.rules(table, chain) if rule.target == t.Jump(to))


def is_covered(ids: IdRange, others: Iterable[IdRange]) -> bool:
    """Whether all ids of a range are among those of others together."""
    spans = joined(id_span(one) for one in others)
    return any(low <= ids.low and ids.high <= high for low, high in spans)


def cut_out(
    values: list[T],
    but: Iterable[T],
    span: Callable[[T], Span],
    back: Callable[[Span], Iterable[T]],
) -> list[T]:
    """Return the values less one of each ``but``, cut out of a range where it was joined to one.

    nf_tables joins neighbouring values of a set to one range. ``span`` makes a
    value two numbers, ``back`` makes values of them again.
    """
    values = list(values)
    for one in but:
        if one in values:
            values.remove(one)
            continue
        low, high = span(one)
        for position, wide in enumerate(values):
            first, last = span(wide)
            if first <= low and high <= last:
                rest = [(first, low - 1), (high + 1, last)]
                kept = [part for edges in rest if edges[0] <= edges[1] for part in back(edges)]
                values[position : position + 1] = kept
                break
    return values


def port_span(ports: PortRange) -> Span:
    """Return the first and the last port of a range."""
    return ports.low, ports.high


def id_span(ids: IdRange) -> Span:
    """Return the first and the last id of a range."""
    return ids.low, ids.high
