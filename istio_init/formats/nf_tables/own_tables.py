"""What stands in a table of our own: chains, lines for one family or both, and sets.

The chains are those of the plan in nft's spelling (``ISTIO_OUTPUT`` is
``istio-output``). A line is for one family or for both; values that iptables takes
one rule for each are a named set. Both the script for nft and the batch for the
kernel are written from this.

In three places a rule of iptables and its nearest relative in nft differ, and
iptables is followed:

- TPROXY drops what it finds no socket for, so that nothing gets past a proxy
  that does not listen; nft's tproxy goes on with the next rule. A rule that
  drops stands behind it.
- ``-m socket`` matches every socket but one that listens on all addresses; nft
  cannot say that of a socket in TIME-WAIT in one rule. A chain of two does.
- MARK in OUTPUT makes the kernel look for a route again: the chain is of type
  route, not filter.

One difference is left: for packets of the kernel itself, which no user's socket
sent, ``! --uid-owner`` holds and nft's ``meta skuid !=`` does not.
"""

from __future__ import annotations

from _blake2 import blake2s

from istio_init.errors import UnsupportedError
from istio_init.formats.nf_tables import messages
from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, ForeignRule
from istio_init.rules.names import OWN_CHAINS
from istio_init.rules.ranges import FAMILIES
from istio_init.rules.sets import (
    AddressField,
    InSet,
    OwnerField,
    PortField,
    compact,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.formats.nf_tables.messages import Hooked
    from istio_init.rules.model import Ruleset, Table
    from istio_init.rules.ranges import Family
    from istio_init.rules.sets import Condition, Field, SetRule, Span

# What nft calls our chains, and the other way round.
CHAIN_NAMES = {
    name: name.lower().replace("_", "-")
    for name in (*OWN_CHAINS, *(name for names in BUILTIN_CHAINS.values() for name in names))
}
MODEL_NAMES = {native: name for name, native in CHAIN_NAMES.items()}
# Where -m socket is decided; what it is decided for lies behind the jump.
SOCKET_CHAIN = "istio-socket"

# Values this many and fewer stand one by one: the kernel looks them up in a hash.
_MOST_SINGLES = 64
_SET_NAMES = {
    "saddr": "addresses",
    "daddr": "addresses",
    "sport": "ports",
    "dport": "ports",
    "uid": "users",
    "gid": "groups",
}
_PORT_SIZE = 2
_ID_SIZE = 4


class SetType(Record):
    """What the values of a set are: nft's name and number, and their size in bytes.

    Ids are host integers, the others are in network byte order.
    """

    name: str
    number: int
    size: int
    host_order: bool


_ADDRESS_TYPES = {
    "ipv4": SetType("ipv4_addr", 7, 4, host_order=False),
    "ipv6": SetType("ipv6_addr", 8, 16, host_order=False),
}
_PORT_TYPE = SetType("inet_service", 13, _PORT_SIZE, host_order=False)
_ID_TYPES = {
    "uid": SetType("uid", 24, _ID_SIZE, host_order=True),
    "gid": SetType("gid", 25, _ID_SIZE, host_order=True),
}
SET_TYPES = {one.number: one for one in (*_ADDRESS_TYPES.values(), _PORT_TYPE, *_ID_TYPES.values())}


class NamedSet(Record):
    """A set: immutable, and named by its contents.

    Ranges are an interval set, single values a hash. ``elements`` are those of
    the messages that fill it.
    """

    name: str
    type: SetType
    field: Field
    spans: tuple[Span, ...]
    intervals: bool
    elements: tuple[bytes, ...]


class Line(Record):
    """A rule of a table of our own; ``family`` is None where it is for both."""

    family: Family | None
    group: SetRule


class NativeChain(Record):
    """A chain by nft's name, with where it is hooked, or None, and its lines.

    A rule of others stands for itself.
    """

    name: str
    hooked: Hooked | None
    lines: tuple[Line | ForeignRule, ...]


class NativeTable(Record):
    """What stands in a table of our own; ``divert`` is where the socket chain leads, or ``""``."""

    name: str
    chains: tuple[NativeChain, ...]
    sets: tuple[NamedSet, ...]
    divert: str


def native_table(name: str, rulesets: tuple[Ruleset, ...]) -> NativeTable:
    """Return what a table is to hold for both families of canonical rule sets.

    Raises:
        UnsupportedError: nf_tables cannot express a rule.
    """
    tables = {
        ruleset.family: table for ruleset in rulesets if (table := ruleset.table(name)) is not None
    }
    sets: dict[str, NamedSet] = {}
    chains = []
    divert = ""
    for chain in dict.fromkeys(one.name for table in tables.values() for one in table.chains):
        lines = tuple(_interleaved(_groups(chain, tables)))
        hooked = None
        if chain in BUILTIN_CHAINS[name]:
            if not lines:
                continue
            hooked = messages.hook_of(name, chain)
        for line in lines:
            if isinstance(line, Line):
                divert = _divert(line.group, divert)
                sets |= {one.name: one for one in _sets(line.group)}
        chains.append(NativeChain(CHAIN_NAMES.get(chain, chain), hooked, lines))
    return NativeTable(name, tuple(chains), tuple(sets.values()), divert)


def _divert(group: SetRule, before: str) -> str:
    """Return where rules with -m socket lead, in the table so far."""
    if not any(isinstance(one, m.Socket) for one in group.conditions):
        return before
    target = group.target
    divert = CHAIN_NAMES.get(target.chain, "") if isinstance(target, t.Jump) else ""
    if not divert or divert != (before or divert):
        raise UnsupportedError("nft can match sockets only for rules that lead to one chain")
    return divert


def _sets(group: SetRule) -> Iterator[NamedSet]:
    for one in group.conditions:
        if isinstance(one, InSet) and len(one.spans) > 1:
            yield named_set(one)


def named_set(one: InSet) -> NamedSet:
    """Return the set that holds the values of a condition."""
    kind = type_of(one.field)
    spans = singles(one.field, one.spans)
    intervals = any(low != high for low, high in spans)
    elements = tuple(_elements(spans, kind, intervals=intervals))
    contents = b"".join((kind.name.encode(), bytes((intervals,)), *elements))
    digest = blake2s(contents, digest_size=6).hexdigest()
    name = f"{_SET_NAMES[one.field.name]}-{digest}"
    return NamedSet(name, kind, one.field, one.spans, intervals, elements)


def type_of(field: Field) -> SetType:
    """Return what the values of a field are called in a set."""
    match field:
        case AddressField():
            return _ADDRESS_TYPES[field.family]
        case PortField():
            return _PORT_TYPE
        case OwnerField():
            return _ID_TYPES[field.name]
        case _:
            assert_never(field)


def singles(field: Field, spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return short ranges of numbers one by one: the kernel looks these up in a hash."""
    if isinstance(field, AddressField):
        return spans
    if sum(high - low + 1 for low, high in spans) > _MOST_SINGLES:
        return spans
    return tuple((value, value) for low, high in spans for value in range(low, high + 1))


def _elements(spans: tuple[Span, ...], kind: SetType, *, intervals: bool) -> Iterator[bytes]:
    if not intervals:
        little = kind.host_order and _HOST_IS_LITTLE
        for low, _ in spans:
            yield messages.element(low.to_bytes(kind.size, "little" if little else "big"))
        return
    # In an interval set each value stands for where something begins or has ended.
    if spans[0][0]:
        yield messages.element(bytes(kind.size), ends=True)
    last = (1 << 8 * kind.size) - 1
    for low, high in spans:
        start = low.to_bytes(kind.size, "big")
        yield messages.element(start, open_ended=high == last)
        if high != last:
            yield messages.element((high + 1).to_bytes(kind.size, "big"), ends=True)


_HOST_IS_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1


def spans_of(elements: list[messages.Element], kind: SetType, *, intervals: bool) -> list[Span]:
    """Return the values of a set's elements.

    Raises:
        ValueError: an element is none of a plain set.
    """
    if not all(one.plain and len(one.key) == kind.size for one in elements):
        raise ValueError("plain elements")
    little = kind.host_order and not intervals and _HOST_IS_LITTLE
    found = [(int.from_bytes(one.key, "little" if little else "big"), one.ends) for one in elements]
    if not intervals:
        return [(value, value) for value, _ in found]
    spans: list[Span] = []
    # Where one interval ends and the next begins, the end comes first.
    found.sort(key=lambda one: (one[0], not one[1]))
    low: int | None = None
    for value, ends in found:
        if ends and low is not None:
            spans.append((low, value - 1))
            low = None
        elif ends and value:
            raise ValueError("an end behind its beginning")
        elif not ends:
            if low is not None:
                raise ValueError("an interval with an end")
            low = value
    if low is not None:
        spans.append((low, (1 << 8 * kind.size) - 1))
    return spans


def _groups(
    chain: str, tables: dict[Family, Table]
) -> dict[Family, tuple[SetRule | ForeignRule, ...]]:
    found = {}
    for family, one in tables.items():
        rules = one.chain(chain)
        found[family] = compact(rules.rules, one) if rules else ()
    return found


def _interleaved(
    groups: dict[Family, tuple[SetRule | ForeignRule, ...]],
) -> Iterator[Line | ForeignRule]:
    """Yield the lines of both families, each family's in order.

    A group that both have in the same place is written once.
    """
    waiting = {family: list(reversed(groups.get(family, ()))) for family in FAMILIES}
    first, second = (waiting[family] for family in FAMILIES)
    left = {family: _counted(waiting[family]) for family in FAMILIES}

    def take(family: Family, written_for: Family | None) -> Line | ForeignRule:
        taken = waiting[family].pop()
        left[family][_meaning(taken)] -= 1
        return taken if isinstance(taken, ForeignRule) else Line(written_for, taken)

    while first and second:
        if _meaning(first[-1]) == _meaning(second[-1]) and _is_for_both(first[-1]):
            take(FAMILIES[1], None)
            yield take(FAMILIES[0], None)
        elif left[FAMILIES[1]].get(_meaning(first[-1])) and not left[FAMILIES[0]].get(
            _meaning(second[-1])
        ):
            # The other family comes to it later.
            yield take(FAMILIES[1], FAMILIES[1])
        else:
            yield take(FAMILIES[0], FAMILIES[0])
    for family in FAMILIES:
        while waiting[family]:
            yield take(family, family)


def _counted(groups: list[SetRule | ForeignRule]) -> dict[object, int]:
    found: dict[object, int] = {}
    for group in groups:
        found[_meaning(group)] = found.get(_meaning(group), 0) + 1
    return found


def _meaning(group: SetRule | ForeignRule) -> object:
    return group if isinstance(group, ForeignRule) else group.meaning


def _is_for_both(group: SetRule | ForeignRule) -> bool:
    """Whether the line for one family would be the line for the other."""
    return isinstance(group, ForeignRule) or not isinstance(group.target, t.Tproxy)


def has_address(line: Line) -> bool:
    """Whether a line tells by an address whose packets it is for."""
    return any(
        isinstance(one, InSet) and isinstance(one.field, AddressField)
        for one in line.group.conditions
    )


def conditions_of(line: Line) -> Iterator[Condition]:
    """Yield what a line asks for: a port tells its protocol, and sockets have their chain."""
    protocols = {
        one.field.protocol
        for one in line.group.conditions
        if isinstance(one, InSet) and isinstance(one.field, PortField)
    }
    for one in line.group.conditions:
        told = isinstance(one, m.Proto) and not one.negated and one.name in protocols
        if not told and not isinstance(one, m.Socket):
            yield one


def target_of(line: Line) -> t.Target:
    """Return what a line does; jumps lead to the chain that nft has."""
    target = line.group.target
    if any(isinstance(one, m.Socket) for one in line.group.conditions):
        return t.Jump(SOCKET_CHAIN)
    if isinstance(target, t.Jump):
        return t.Jump(CHAIN_NAMES.get(target.chain, target.chain))
    return target
