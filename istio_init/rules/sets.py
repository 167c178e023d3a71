"""Rules that differ in one value only, as one rule with a set of values.

A packet is looked up in a set once, however many values it holds, where it would
be compared with each of a thousand rules in turn. nf_tables keeps such sets, so
what is read back from it are sets too: ``canonical`` is the form of a rule set
in which what is planned and what was read can be compared.

Nothing here changes where a packet ends up. Only three things are done to a
chain: a rule moves up past others that no packet of its own can match, or past
others that do the same with the packet; it is merged into its neighbour when both
differ in one value only; and values are joined where they touch or overlap.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import product

from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import TAIL, UNKNOWN, ForeignRule, Rule
from istio_init.rules.ranges import IdRange, Network, PortRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from istio_init.rules.model import ChainEnd, Reason, Ruleset, Table
    from istio_init.rules.ranges import Family, Protocol

    Address = Literal["saddr", "daddr"]
    Span = tuple[int, int]

ADDRESS_BITS = {"ipv4": 32, "ipv6": 128}


class AddressField(Record):
    """An address of the packet."""

    name: Address
    family: Family


class PortField(Record):
    """A port of the packet."""

    name: Literal["sport", "dport"]
    protocol: Protocol


class OwnerField(Record):
    """The user or group of the packet's local socket."""

    name: Literal["uid", "gid"]


Field = AddressField | PortField | OwnerField


class InSet(Record):
    """A field of the packet lies in one of ``spans`` (or, negated, in none).

    Spans are pairs of the first and the last value, as integers; they are
    sorted, and neither overlap nor touch.
    """

    field: Field
    spans: tuple[Span, ...]
    negated: bool = False


Condition = (
    InSet | m.InInterface | m.OutInterface | m.Proto | m.CtState | m.Mark | m.ConnMark | m.Socket
)


class SetRule(Record):
    """Rules with one target that differ, if at all, in the values of one condition.

    Conditions are in the order in which the canonical form prints them. ``place``
    and ``reason`` are those of the first rule.
    """

    conditions: tuple[Condition, ...]
    target: t.Target
    place: ChainEnd = TAIL
    reason: Reason = UNKNOWN

    @property
    def meaning(self) -> tuple[tuple[Condition, ...], t.Target]:
        """What the kernel knows of the rules: neither their place nor their reason."""
        return self.conditions, self.target


Groups = tuple[SetRule | ForeignRule, ...]

# The condition in whose values the rules of a group differ is the first of these
# that a rule has. It depends on the rule alone, never on its neighbours: the
# canonical form of a canonical form would be another one otherwise.
_VARYING = ("daddr", "saddr", "dport", "sport", "uid", "gid")

# A packet for which these decide never gets to a second rule.
_DECIDES = (t.Accept, t.Drop, t.Redirect, t.Reject, t.Tproxy)
_REPEATABLE = (t.Return, *_DECIDES)


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same values as the fewest spans, sorted."""
    apart: list[Span] = []
    for low, high in sorted(spans):
        if apart and low <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(high, apart[-1][1]))
        else:
            apart.append((low, high))
    return tuple(apart)


def networks(span: Span, family: Family) -> Iterator[Network]:
    """Yield the fewest address ranges that together are ``span``, in order."""
    low, high = span
    bits = ADDRESS_BITS[family]
    while low <= high:
        # As large as the alignment of its first address and the rest allow.
        size = low & -low or 1 << bits
        while low + size - 1 > high:
            size >>= 1
        prefix = bits - size.bit_length() + 1
        yield Network(family, low.to_bytes(bits // 8, "big"), prefix)
        low += size


def span_of(network: Network) -> Span:
    """Return the first and the last address of a range."""
    low = int.from_bytes(network.packed, "big")
    return low, low + (1 << (ADDRESS_BITS[network.family] - network.prefix)) - 1


def canonical(ruleset: Ruleset) -> Ruleset:
    """Return rules that do the same with every packet, in canonical form.

    Rule sets of which ``compact`` makes the same groups have the same form, and
    ``canonical`` is idempotent. Rules of others stay as and where they are.
    """
    return ruleset.replace(tables=tuple(canonical_table(table) for table in ruleset.tables))


def canonical_table(table: Table) -> Table:
    """Return one table in canonical form."""
    before: dict[str, Groups] = {}
    while True:
        groups = {chain.name: compact(chain.rules, table) for chain in table.chains}
        if groups == before:
            return table
        # Values that were joined may let a rule move where it could not before.
        # Each round has fewer rules, or the same ones further up.
        table = table.replace(
            chains=tuple(
                chain.replace(
                    rules=tuple(rule for one in groups[chain.name] for rule in expand(one))
                )
                for chain in table.chains
            )
        )
        before = groups


def expand(group: SetRule | ForeignRule) -> Iterator[Rule | ForeignRule]:
    """Yield the rules of a group, one for each value that iptables takes at a time."""
    if isinstance(group, ForeignRule):
        yield group
        return
    for matches in product(*(_alternatives(one) for one in group.conditions)):
        of_rule = tuple(match for together in matches for match in together)
        yield Rule(of_rule, group.target, group.place, group.reason)


def _alternatives(condition: Condition) -> Iterable[tuple[m.Match, ...]]:
    """Return the matches, to be written together, of each rule that a condition needs."""
    if not isinstance(condition, InSet):
        return ((condition,),)
    matches = tuple(_matches(condition))
    return (matches,) if condition.negated else ((match,) for match in matches)


def _matches(one: InSet) -> Iterator[m.Match]:
    field = one.field
    match field:
        case AddressField():
            kind = m.Source if field.name == "saddr" else m.Destination
            for span in one.spans:
                for network in networks(span, field.family):
                    yield kind(network, one.negated)
        case PortField():
            ports = tuple(PortRange(*span) for span in one.spans)
            if one.negated and len(ports) > 1:
                yield m.MultiPorts(field.name, ports, negated=True)
            else:
                for single in ports:
                    yield m.Ports(field.protocol, field.name, single, one.negated)
        case OwnerField():
            for span in one.spans:
                yield m.Owner(field.name, IdRange(*span), one.negated)
        case _:
            assert_never(field)


def compact(rules: tuple[Rule | ForeignRule, ...], table: Table) -> Groups:
    """Return the rules of a chain of ``table`` as the fewest groups in this order.

    Rules with two values each, a destination and a port say, are grouped by the
    first of them.
    """
    groups: list[_OpenGroup | ForeignRule] = []
    repeatable = _Repeatable(table)
    for rule in rules:
        if isinstance(rule, ForeignRule):
            groups.append(rule)
            continue
        last = groups[-1] if groups else None
        # Long lists of ranges come one after the other.
        if isinstance(last, _OpenGroup) and last.took(rule, repeatable=repeatable(rule.target)):
            continue
        opened = _OpenGroup(group_of(rule))
        home = _home(groups, opened, repeatable=repeatable(rule.target))
        if home is None:
            groups.append(opened)
        else:
            home.values.add(opened.values)
    return tuple(one.group() if isinstance(one, _OpenGroup) else one for one in groups)


def _home(
    groups: list[_OpenGroup | ForeignRule], new: _OpenGroup, *, repeatable: bool
) -> _OpenGroup | None:
    """Return the group that a new last rule can be merged into.

    It has to pass all groups behind that one, and may be evaluated where that
    one is: a packet that matches both must fare the same in either order.
    """
    for earlier in reversed(groups):
        if isinstance(earlier, ForeignRule):
            return None
        indifferent = repeatable and earlier.target == new.target
        if not indifferent and not earlier.never_with(new):
            return None
        if earlier.key == new.key:
            return earlier
    return None


class _OpenGroup:
    """A group that still grows."""

    def __init__(self, group: SetRule) -> None:
        self.target = group.target
        self.values = _SpanSet()
        self._group = group
        self._varying = _varying(group.conditions)
        self._field: Field | None = None
        key: list[Condition | Field] = list(group.conditions)
        if self._varying is not None:
            varying = group.conditions[self._varying]
            if isinstance(varying, InSet):
                self._field = varying.field
                self.values.fill(varying.spans)
                key[self._varying] = varying.field
        self.key = (tuple(key), group.target)
        self._only = len(key) == 1 and isinstance(self._field, AddressField)

    def took(self, rule: Rule, *, repeatable: bool) -> bool:
        """Take in a rule that asks for an address alone, if this group is of such rules.

        It says no to others that belong here: those have to be taken apart first.
        """
        field = self._field
        if not self._only or not isinstance(field, AddressField) or len(rule.matches) != 1:
            return False
        match = rule.matches[0]
        if not isinstance(match, m.Source if field.name == "saddr" else m.Destination):
            return False
        network = match.network
        if match.negated or not network.prefix or network.family != field.family:
            return False
        span = span_of(network)
        if rule.target != self.target or not (repeatable or not self.values.overlaps(*span)):
            return False
        self.values.fill((span,))
        return True

    def never_with(self, other: _OpenGroup) -> bool:
        """Whether no packet matches both, as far as their values tell."""
        return (
            self._field is not None
            and self._field == other._field
            and not self.values.overlap(other.values)
        )

    def group(self) -> SetRule:
        if self._varying is None or self._field is None:
            return self._group
        first = self._group
        conditions = list(first.conditions)
        conditions[self._varying] = InSet(self._field, self.values.all())
        return SetRule(tuple(conditions), first.target, first.place, first.reason)


class _SpanSet:
    """Spans that neither overlap nor touch, kept sorted while others are added."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []

    def fill(self, spans: tuple[Span, ...]) -> None:
        for low, high in spans:
            self._add(low, high)

    def add(self, others: _SpanSet) -> None:
        self.fill(others.all())

    def all(self) -> tuple[Span, ...]:
        return tuple(zip(self._lows, self._highs, strict=True))

    def overlap(self, others: _SpanSet) -> bool:
        return any(self.overlaps(low, high) for low, high in others.all())

    def overlaps(self, low: int, high: int) -> bool:
        return self._first(low) < self._behind(high)

    def _first(self, low: int) -> int:
        """Return the position of the first span that does not end below ``low``."""
        return bisect_left(self._highs, low)

    def _behind(self, high: int) -> int:
        """Return the position of the first span that begins above ``high``."""
        return bisect_left(self._lows, high + 1)

    def _add(self, low: int, high: int) -> None:
        # Neighbours that only touch are joined too.
        start, end = self._first(low - 1), self._behind(high + 1)
        if start < end:
            low, high = min(low, self._lows[start]), max(high, self._highs[end - 1])
        self._lows[start:end] = [low]
        self._highs[start:end] = [high]


class _Repeatable:
    """Tells whether doing a thing twice in a row with a packet is doing it once.

    What puts a mark on a packet is not: rules that look at marks may treat it
    differently the second time.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[str, bool] = {}

    def __call__(self, target: t.Target) -> bool:
        if isinstance(target, t.Jump):
            return self._chain(target.chain)
        return isinstance(target, _REPEATABLE)

    def _chain(self, name: str) -> bool:
        if name not in self._known:
            # Until it is known better: a chain that leads into itself is not.
            self._known[name] = False
            chain = self._table.chain(name)
            rules = chain.rules if chain else ()
            self._known[name] = chain is not None and (
                _never_returns(rules)
                or all(isinstance(rule, Rule) and self(rule.target) for rule in rules)
            )
        return self._known[name]


def _never_returns(rules: tuple[Rule | ForeignRule, ...]) -> bool:
    for rule in rules:
        if isinstance(rule, ForeignRule) or isinstance(rule.target, t.Return):
            return False
        if not rule.matches and isinstance(rule.target, _DECIDES):
            # TPROXY too: iptables drops what it finds no socket for.
            return True
    return False


def group_of(rule: Rule) -> SetRule:
    """Return one rule as a group of its own, its conditions in canonical order."""
    return SetRule(_conditions(rule.matches), rule.target, rule.place, rule.reason)


def _conditions(matches: tuple[m.Match, ...]) -> tuple[Condition, ...]:
    protocols: set[Protocol] = {
        match.name for match in matches if isinstance(match, m.Proto) and not match.negated
    }
    conditions: dict[Condition, None] = {}
    excluded: dict[Field, list[Span]] = {}
    for match in matches:
        condition = _condition(match, protocols)
        if isinstance(condition, InSet) and condition.negated:
            # Several exclusions combine to one set.
            excluded.setdefault(condition.field, []).extend(condition.spans)
        elif not _holds_always(condition):
            conditions[condition] = None
        if isinstance(condition, InSet) and isinstance(condition.field, PortField):
            conditions[m.Proto(condition.field.protocol)] = None
    for field, spans in excluded.items():
        conditions[InSet(field, joined(spans), negated=True)] = None
    return in_order(conditions)


def in_order(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return each condition once, in the canonical order."""
    return tuple(sorted(dict.fromkeys(conditions), key=_rank))


def _condition(match: m.Match, protocols: set[Protocol]) -> Condition:
    match match:
        case m.Source():
            return _one(AddressField("saddr", match.network.family), match)
        case m.Destination():
            return _one(AddressField("daddr", match.network.family), match)
        case m.Ports():
            return _one(PortField(match.side, match.protocol), match)
        case m.MultiPorts():
            if len(protocols) != 1:
                raise ValueError("ports without the one protocol they are of")
            return _one(PortField(match.side, *protocols), match)
        case m.Owner():
            return _one(OwnerField(match.kind), match)
        case m.CtState():
            states = tuple(state for state in m.CT_STATES if state in match.states)
            return m.CtState(states, "conntrack", match.negated)
        case _:
            return match


def _one(field: Field, match: m.Source | m.Destination | m.Ports | m.MultiPorts | m.Owner) -> InSet:
    match match:
        case m.Source() | m.Destination():
            spans: tuple[Span, ...] = (span_of(match.network),)
        case m.Ports():
            spans = ((match.ports.low, match.ports.high),)
        case m.MultiPorts():
            spans = joined((one.low, one.high) for one in match.ports)
        case m.Owner():
            spans = ((match.ids.low, match.ids.high),)
        case _:
            assert_never(match)
    return InSet(field, spans, match.negated)


def _holds_always(condition: Condition) -> bool:
    if not isinstance(condition, InSet) or not isinstance(condition.field, AddressField):
        return False
    return condition.spans == ((0, (1 << ADDRESS_BITS[condition.field.family]) - 1),)


def _rank(condition: Condition) -> int:
    """Return the place of a condition in the canonical form.

    It is that in which iptables prints them; extensions are in an order of ours.
    """
    match condition:
        case InSet(field):
            return _FIELD_RANKS[field.name]
        case m.InInterface():
            return 2
        case m.OutInterface():
            return 3
        case m.Proto():
            return 4
        case m.CtState():
            return 7
        case m.Mark():
            return 8
        case m.ConnMark():
            return 9
        case m.Socket():
            return 10
        case _:
            assert_never(condition)


_FIELD_RANKS = {"saddr": 0, "daddr": 1, "sport": 5, "dport": 6, "uid": 11, "gid": 12}


def _varying(conditions: tuple[Condition, ...]) -> int | None:
    """Return the position of the condition in whose values a group's rules may differ."""
    for name in _VARYING:
        for position, condition in enumerate(conditions):
            if (
                isinstance(condition, InSet)
                and condition.field.name == name
                and not condition.negated
            ):
                return position
    return None
