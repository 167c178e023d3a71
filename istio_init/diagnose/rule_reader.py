"""What live rules say, by table and chain, whichever family has them."""

from __future__ import annotations

from bisect import bisect_right

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


# Greater than any number of a rule: those of IPv6 addresses have 128 bits.
_BEHIND = 1 << 129


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
            left: dict[T, int] = {}
            for value in values:
                left[value] = left.get(value, 0) + 1
            for rule in self.rules(table, chain, (family,)):
                for value in of(rule):
                    if left.get(value):
                        left[value] -= 1
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


class Covered:
    """Numbers that have been seen, as spans that do not touch."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = list(joined(spans))

    def __contains__(self, span: Span) -> bool:
        """Whether every number of a span has been seen."""
        low, high = span
        at = bisect_right(self._spans, (low, _BEHIND)) - 1
        return at >= 0 and self._spans[at][0] <= low and high <= self._spans[at][1]

    def add(self, span: Span) -> None:
        """Note the numbers of a span."""
        low, high = span
        start = bisect_right(self._spans, (low, _BEHIND))
        if start and self._spans[start - 1][1] >= low - 1:
            start -= 1
        end = bisect_right(self._spans, (high + 1, _BEHIND), start)
        within = self._spans[start:end]
        if within:
            low, high = min(low, within[0][0]), max(high, within[-1][1])
        self._spans[start:end] = [(low, high)]


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
    places: dict[T, list[int]] = {}
    for position in reversed(range(len(values))):
        places.setdefault(values[position], []).append(position)
    kept: list[tuple[T, ...]] = [(value,) for value in values]
    joined_to: list[T] = []
    for one in but:
        if places.get(one):
            kept[places[one].pop()] = ()
        else:
            joined_to.append(one)
    known = Covered(span(value) for value in values) if joined_to else Covered()
    for one in joined_to:
        low, high = span(one)
        if (low, high) not in known:
            continue
        for position, parts in enumerate(kept):
            wide = next((part for part in parts if _is_within((low, high), span(part))), None)
            if wide is None:
                continue
            first, last = span(wide)
            rest = [(first, low - 1), (high + 1, last)]
            cut = [part for edges in rest if edges[0] <= edges[1] for part in back(edges)]
            at = parts.index(wide)
            kept[position] = (*parts[:at], *cut, *parts[at + 1 :])
            break
    return [value for parts in kept for value in parts]


def _is_within(span: Span, wide: Span) -> bool:
    return wide[0] <= span[0] and span[1] <= wide[1]


def port_span(ports: PortRange) -> Span:
    """Return the first and the last port of a range."""
    return ports.low, ports.high


def id_span(ids: IdRange) -> Span:
    """Return the first and the last id of a range."""
    return ids.low, ids.high
