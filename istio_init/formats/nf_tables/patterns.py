"""Rules that differ in a few values only, read by comparing bytes.

A block list, or a proxy's services, are thousands of rules of one pattern. The
first one is taken apart expression by expression; of the next ones only the bytes
in which they differ from it are looked at.
"""

from __future__ import annotations

from istio_init.formats.netlink import read_attributes
from istio_init.formats.nf_tables.fields import PORT_SIZE
from istio_init.formats.xt_extensions import match_parts, read_match
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules.model import Rule
from istio_init.rules.ranges import Network, PortRange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from istio_init.rules.ranges import Protocol
    from istio_init.rules.targets import Target

    # Makes a match of the bytes that vary; None where there is no such match.
    Maker = Callable[[bytes], m.Match | None]
    # Where the bytes begin and end, whose match it is, and what makes it.
    Hole = tuple[int, int, int, Maker]

# How the expressions begin that hold values: an attribute for their name.
_CMP = b"\x08\0\x01\0cmp\0"
_MATCH = b"\x0a\0\x01\0match\0"
_RANGE = b"\x0a\0\x01\0range\0"
_COUNTER = b"\x0c\0\x01\0counter\0"
# Behind what tells the register and the operator of a comparison.
_VALUE_OF_CMP = 40
_COUNTS = ((24, 32), (36, 44))
# Each is tried on every rule of its length.
_MOST_OF_A_LENGTH = 8


class Pattern:
    """What rules of one pattern have in common, and what makes the rest of them."""

    def __init__(
        self,
        expressions: bytes,
        holes: Sequence[Hole],
        counts: Sequence[tuple[int, int]],
        rule: Rule,
    ) -> None:
        self._matches = list(rule.matches)
        self._target: Target = rule.target
        self._holes = holes
        spans = sorted([*counts, *(one[:2] for one in holes)])
        starts = (0, *(end for _, end in spans))
        ends = (*(start for start, _ in spans), len(expressions))
        self._fixed = [
            (start, end, expressions[start:end])
            for start, end in zip(starts, ends, strict=True)
            if start < end
        ]

    def rule(self, expressions: bytes) -> Rule | None:
        """Return the rule of expressions as long as these, None if they are of another pattern."""
        for start, end, fixed in self._fixed:
            if expressions[start:end] != fixed:
                return None
        matches = self._matches.copy()
        for start, end, position, make in self._holes:
            found = make(expressions[start:end])
            if found is None:
                return None
            matches[position] = found
        return Rule(tuple(matches), self._target)


class Patterns:
    """The patterns of the rules that were read so far."""

    def __init__(self) -> None:
        self._of_length: dict[int, list[Pattern]] = {}

    def rule(self, expressions: bytes) -> Rule | None:
        """Return the rule of expressions of a known pattern."""
        for one in self._of_length.get(len(expressions), ()):
            found = one.rule(expressions)
            if found is not None:
                return found
        return None

    def learn(self, expressions: bytes, matches: Sequence[m.Match], rule: Rule) -> None:
        """Note the pattern of a rule; ``matches`` are its own, in the order of the expressions."""
        alike = self._of_length.setdefault(len(expressions), [])
        if len(alike) >= _MOST_OF_A_LENGTH:
            return
        values, counts = _places(expressions)
        if len(values) != len(matches) or len(set(matches)) != len(matches):
            # Some of them take several expressions, or cannot be told apart.
            return
        holes = []
        for (start, end, is_of_iptables), match in zip(values, matches, strict=True):
            make = _of_iptables(match) if is_of_iptables else _maker(match, end - start)
            if make is not None and make(expressions[start:end]) == match:
                holes.append((start, end, rule.matches.index(match), make))
        alike.append(Pattern(expressions, holes, counts, rule))


def _places(expressions: bytes) -> tuple[list[tuple[int, int, bool]], list[tuple[int, int]]]:
    """Return where the values of comparisons stand, and the counts of counters.

    Of a value it is told whether it is the data of a match of iptables.
    """
    values: list[tuple[int, int, bool]] = []
    counts: list[tuple[int, int]] = []
    position = 0
    for _, value in read_attributes(expressions):
        if value.startswith(_CMP):
            values.append((position + _VALUE_OF_CMP, position + _end_of_value(value), False))
        elif value.startswith(_MATCH):
            end = position + 4 + len(value)
            values.append((end - _size_of_data(value), end, True))
        elif value.startswith(_RANGE):
            # These are the same in all rules of a pattern.
            values.append((position, position, False))
        elif value.startswith(_COUNTER):
            counts += ((position + start, position + end) for start, end in _COUNTS)
        position += 4 + len(value) + (-len(value) & 3)
    return values, counts


def _end_of_value(value: bytes) -> int:
    """Return where a comparison's value ends, counted from the head of the expression."""
    head = _VALUE_OF_CMP - 4
    length = int.from_bytes(value[head - 4 : head - 2], "little")
    return _VALUE_OF_CMP + length - 4


def _size_of_data(value: bytes) -> int:
    """Return how many bytes of data a match of iptables ends with."""
    *_, (_, outer) = read_attributes(value)
    *_, (_, data) = read_attributes(outer)
    return len(data)


def _maker(match: m.Match, size: int) -> Maker | None:
    """Return what makes matches like this one of ``size`` bytes."""
    match match:
        case m.Source(network, negated) | m.Destination(network, negated) if size:
            kind, family, rest = type(match), network.family, bytes(len(network.packed) - size)
            if network.prefix != 8 * size:
                return None
            return lambda data: kind(Network(family, data + rest, 8 * size), negated)
        case m.Ports(protocol, side, ports, negated) if (
            size == PORT_SIZE and ports.low == ports.high
        ):
            return lambda data: _port(protocol, side, data, negated=negated)
        case _:
            return None


def _of_iptables(match: m.Match) -> Maker:
    """Return what makes matches of iptables of the name and revision of this one."""
    name, revision, _ = match_parts(match)

    def make(data: bytes) -> m.Match | None:
        try:
            return read_match(name, revision, data)
        except ValueError:
            return None

    return make


def _port(protocol: Protocol, side: m.Side, data: bytes, *, negated: bool) -> m.Match | None:
    port = int.from_bytes(data, "big")
    return m.Ports(protocol, side, PortRange(port, port), negated) if port else None
