"""A table of our own as the kernel keeps it: lines as expressions, and back.

Written is what nft makes of the script, byte for byte. Read is what any nft from
0.9.8 on, or an earlier release of this program, wrote; what nobody here writes is
a rule of others, and what else there is an oddity.
"""

from __future__ import annotations

from istio_init.formats.nf_tables import expressions as e
from istio_init.formats.nf_tables import fields, messages
from istio_init.formats.nf_tables.iptables import foreign
from istio_init.formats.nf_tables.own_tables import (
    MODEL_NAMES,
    SET_TYPES,
    SOCKET_CHAIN,
    conditions_of,
    named_set,
    spans_of,
    target_of,
    type_of,
)
from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Chain, Oddity, Rule, make_table
from istio_init.rules.names import NATIVE_TABLES, OWN_CHAINS
from istio_init.rules.ranges import FAMILIES, FULL_MASK, IPV4
from istio_init.rules.sets import (
    AddressField,
    InSet,
    OwnerField,
    PortField,
    SetRule,
    expand,
    group_of,
    in_order,
    joined,
    networks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from istio_init.formats.nf_tables.expressions import Statement
    from istio_init.formats.nf_tables.messages import Contents, KernelChain, KernelRule
    from istio_init.formats.nf_tables.own_tables import Line
    from istio_init.rules.model import ForeignRule, Table
    from istio_init.rules.ranges import Family, Protocol
    from istio_init.rules.sets import Condition, Field, Span

_VERDICTS = {t.Accept(): e.ACCEPT, t.Drop(): e.DROP, t.Return(): e.RETURN}
_IFNAME_SIZE = 16
# Sets that are no more than values.
_PLAIN_SET = messages.INTERVAL | messages.CONSTANT | messages.ANONYMOUS


# Writing.


def encode(line: Line) -> tuple[bytes, ...]:
    """Return the expressions of the one or two rules that a line is in the kernel."""
    asked = b"".join(_asked(line)) + e.COUNTER
    target = target_of(line)
    if isinstance(target, t.Tproxy):
        # TPROXY of iptables drops what it finds no socket for.
        return asked + _target(target, line.family), asked + e.verdict(e.DROP)
    return (asked + _target(target, line.family),)


def socket_rules(divert: str) -> tuple[bytes, bytes]:
    """Return the rules of the chain that leads to ``divert`` what -m socket matches."""
    # Whether a socket listens on all addresses cannot be asked of one in
    # TIME-WAIT: such a rule does not match. Whether it is transparent can.
    wildcard = e.socket(e.SOCKET_WILDCARD) + e.compare("==", b"\1")
    transparent = e.socket(e.SOCKET_TRANSPARENT) + e.compare(">=", b"\0") + e.compare("<=", b"\1")
    return (
        wildcard + e.COUNTER + e.verdict(e.RETURN),
        transparent + e.COUNTER + e.verdict(e.JUMP, divert),
    )


def _asked(line: Line) -> Iterator[bytes]:
    if line.family is not None:
        yield e.meta(e.META_NFPROTO) + e.compare("==", bytes((fields.NFPROTO[line.family],)))
    told: Protocol | None = None
    for one in conditions_of(line):
        if isinstance(one, m.Proto) and not one.negated:
            told = one.name
        if isinstance(one, InSet) and isinstance(one.field, PortField):
            if one.field.protocol != told:
                yield _condition(m.Proto(one.field.protocol))
            told = one.field.protocol
        yield _condition(one)


def _condition(one: Condition) -> bytes:
    match one:
        case InSet():
            return _in_set(one)
        case m.InInterface():
            return e.meta(e.META_IIFNAME) + _interface(one)
        case m.OutInterface():
            return e.meta(e.META_OIFNAME) + _interface(one)
        case m.Proto():
            return e.meta(e.META_L4PROTO) + _compared(
                bytes((fields.PROTOCOLS[one.name],)), negated=one.negated
            )
        case m.CtState():
            bits = fields.WORD.pack(sum(m.CT_STATES[state] for state in one.states))
            # A packet has one state: that it has one of these, or none of them.
            return e.ct(e.CT_STATE) + e.masked(bits) + _compared(bytes(4), negated=not one.negated)
        case m.Mark():
            return e.meta(e.META_MARK) + _masked(one)
        case m.ConnMark():
            return e.ct(e.CT_MARK) + _masked(one)
        case m.Socket():
            raise AssertionError("a chain of its own decides about sockets")
        case _:
            assert_never(one)


def _compared(data: bytes, *, negated: bool) -> bytes:
    return e.compare("!=" if negated else "==", data)


def _interface(one: m.InInterface | m.OutInterface) -> bytes:
    data = fields.interface_data(one.name)
    if data.endswith(b"\0"):
        data = data.ljust(_IFNAME_SIZE, b"\0")
    return _compared(data, negated=one.negated)


def _masked(one: m.Mark | m.ConnMark) -> bytes:
    mask = b"" if one.mask == FULL_MASK else e.masked(fields.WORD.pack(one.mask))
    return mask + _compared(fields.WORD.pack(one.value), negated=one.negated)


def _in_set(one: InSet) -> bytes:
    field = one.field
    if len(one.spans) > 1:
        found = named_set(one)
        swapped = found.type.host_order and found.intervals
        order = e.network_order(found.type.size) if swapped else b""
        return _load(field) + order + e.lookup(found.name, negated=one.negated)
    ((low, high),) = one.spans
    if isinstance(field, AddressField):
        found_networks = tuple(networks((low, high), field.family))
        if len(found_networks) == 1:
            return _in_network(one, field, found_networks[0].prefix)
    size = type_of(field).size
    if low == high:
        host = isinstance(field, OwnerField)
        data = fields.WORD.pack(low) if host else low.to_bytes(size, "big")
        return _load(field) + _compared(data, negated=one.negated)
    order = e.network_order(size) if isinstance(field, OwnerField) else b""
    ends = low.to_bytes(size, "big"), high.to_bytes(size, "big")
    if one.negated:
        return _load(field) + order + e.within(*ends, negated=True)
    return _load(field) + order + e.compare(">=", ends[0]) + e.compare("<=", ends[1])


def _in_network(one: InSet, field: AddressField, prefix: int) -> bytes:
    """Return the comparison of an address as far as a prefix reaches."""
    size = fields.ADDRESS_SIZE[field.family]
    packed = one.spans[0][0].to_bytes(size, "big")
    whole, rest = divmod(prefix, 8)
    if rest or not prefix:
        mask = ((1 << 8 * size) - (1 << (8 * size - prefix))).to_bytes(size, "big")
        return _load(field) + e.masked(mask) + _compared(packed, negated=one.negated)
    loaded = e.payload(e.NETWORK_HEADER, _offset(field), whole)
    return loaded + _compared(packed[:whole], negated=one.negated)


def _load(field: Field) -> bytes:
    match field:
        case AddressField():
            size = fields.ADDRESS_SIZE[field.family]
            return e.payload(e.NETWORK_HEADER, _offset(field), size)
        case PortField():
            offset = fields.PORT_OFFSET[field.name]
            return e.payload(e.TRANSPORT_HEADER, offset, fields.PORT_SIZE)
        case OwnerField():
            return e.meta(e.META_SKUID if field.name == "uid" else e.META_SKGID)
        case _:
            assert_never(field)


def _offset(field: AddressField) -> int:
    offsets = fields.SOURCE_OFFSET if field.name == "saddr" else fields.DESTINATION_OFFSET
    return offsets[field.family]


def _target(target: t.Target, family: Family | None) -> bytes:
    match target:
        case t.Jump():
            return e.verdict(e.JUMP, target.chain)
        case t.Return() | t.Accept() | t.Drop():
            return e.verdict(_VERDICTS[target])
        case t.Reject():
            return e.reject(e.REJECT_ICMPX, e.ICMPX_PORT_UNREACHABLE)
        case t.Redirect():
            return e.redirect(target.port)
        case t.Tproxy():
            to_port = e.tproxy(fields.NFPROTO[family or IPV4], target.port)
            return to_port + _set_mark(target.mark, target.mask) + e.verdict(e.ACCEPT)
        case t.SetMark():
            return _set_mark(target.value, target.mask)
        case t.SaveMark():
            return e.meta(e.META_MARK) + e.set_ct(e.CT_MARK)
        case t.RestoreMark():
            return e.ct(e.CT_MARK) + e.set_meta(e.META_MARK)
        case t.CtZone():
            return e.immediate(fields.zone_data(target.zone)) + e.set_ct(e.CT_ZONE)
        case _:
            assert_never(target)


def _set_mark(value: int, mask: int) -> bytes:
    flip = fields.WORD.pack(value)
    if mask == FULL_MASK:
        return e.immediate(flip) + e.set_meta(e.META_MARK)
    kept = fields.WORD.pack(mask ^ FULL_MASK)
    return e.meta(e.META_MARK) + e.masked(kept, flip) + e.set_meta(e.META_MARK)


# Reading.


class _LiveLine(Record):
    """A rule and whom it is for; ``group`` is None where it is not understood."""

    families: tuple[Family, ...]
    group: SetRule | None
    rule: KernelRule
    statements: tuple[Statement, ...]

    def rules(self) -> Iterator[Rule | ForeignRule]:
        """Yield the rules that the line stands for."""
        if self.group is None:
            rule = self.rule
            found = foreign(rule.expressions, rule.notes, self.statements, self.families)
            yield found.replace(jump=MODEL_NAMES.get(found.jump, found.jump))
        else:
            yield from expand(self.group)


def read_table(name: str, contents: Contents, reader: e.Reader) -> dict[Family, Table] | None:
    """Return what each family has in a table of our own, None where it is not there.

    The rules are in canonical form as far as each of them allows, one for each
    value of a set.
    """
    native = NATIVE_TABLES[name]
    flags = [one.flags for one in contents.tables if one.name == native]
    if not flags:
        return None
    live = _LiveTable(name, contents, reader)
    found = live.families()
    oddities = (*_of_flags(flags[0]), *live.oddities())
    return {family: make_table(name, chains, oddities) for family, chains in found.items()}


def _of_flags(flags: int) -> Iterator[Oddity]:
    if flags & messages.DORMANT:
        text = "a table that is dormant sees no packet: everything bypasses the proxy"
        yield Oddity("flags dormant", text, idle=True)
    if flags & ~messages.DORMANT:
        yield Oddity("flags", _UNKNOWN)


_UNKNOWN = "this program writes no such thing, and what it does is not known"


class _LiveTable:
    """The objects of one table, taken apart."""

    def __init__(self, name: str, contents: Contents, reader: e.Reader) -> None:
        self._name = name
        native = NATIVE_TABLES[name]
        self._others = len(contents.others)
        self._chains = [one for one in contents.chains if one.table == native]
        self._sets = {one.name: (one, body) for one, body in contents.sets if one.table == native}
        self._values: dict[str, tuple[int, bool, list[Span]] | None] = {}
        self._used: set[str] = set()
        self._socket_used = False
        rules: dict[str, list[KernelRule]] = {}
        for one in contents.rules:
            if one.table == native:
                bare = one.replace(expressions=_bare(one.expressions))
                rules.setdefault(one.chain, []).append(bare)
        statements = {
            chain: [reader.statements(one.expressions) for one in some]
            for chain, some in rules.items()
        }
        self._divert = _divert(statements)
        self._lines = {
            chain: _with_tproxy(
                [self._line(one, read) for one, read in zip(some, statements[chain], strict=True)]
            )
            for chain, some in rules.items()
        }
        if self._divert and not self._socket_used:
            self._divert = ""

    def families(self) -> dict[Family, dict[str, Chain]]:
        """Return the chains of each family, by what the model calls them."""
        found: dict[Family, dict[str, Chain]] = {family: {} for family in FAMILIES}
        for one in self._chains:
            if one.name == SOCKET_CHAIN and self._divert:
                continue
            name = MODEL_NAMES.get(one.name, one.name)
            builtin = name in BUILTIN_CHAINS[self._name]
            for family, chains in found.items():
                lines = self._lines.get(one.name, [])
                of_family = [line for line in lines if family in line.families]
                # A chain whose rules are all for the other family is the other's.
                if of_family or builtin or not lines:
                    rules = tuple(rule for line in of_family for rule in line.rules())
                    chains[name] = Chain(name, "ACCEPT" if builtin else None, rules)
        return found

    def oddities(self) -> Iterator[Oddity]:
        """Yield what this program never leaves in a table."""
        if not self._lines and all(one.hooked for one in self._chains):
            yield Oddity("nothing", "a table without rules: left over, it changes nothing")
        for chain in self._chains:
            if not self._is_as_written(chain):
                idle = MODEL_NAMES.get(chain.name) in BUILTIN_CHAINS[self._name]
                yield Oddity(f"chain {chain.name}", _UNKNOWN, idle)
        for name, (one, _) in self._sets.items():
            if name not in self._used and not one.flags & messages.ANONYMOUS:
                yield Oddity(f"set {name}", "no rule of ours uses it: it changes nothing")
        if self._others:
            yield Oddity("objects", _UNKNOWN)

    def _is_as_written(self, chain: KernelChain) -> bool:
        """Whether a chain is declared as this program declares it, if it ever does."""
        name = MODEL_NAMES.get(chain.name, "")
        if name in BUILTIN_CHAINS[self._name]:
            return chain.hooked == messages.hook_of(self._name, name)
        ours = name in OWN_CHAINS or (chain.name == SOCKET_CHAIN and bool(self._divert))
        return ours and chain.hooked is None

    def _line(self, rule: KernelRule, statements: tuple[Statement, ...]) -> _LiveLine:
        families: list[tuple[Family, ...]] = [FAMILIES]
        group = None
        try:
            if not rule.notes:
                group = self._group(statements, families)
        except ValueError:
            # In doubt it is for both.
            pass
        if group is not None:
            self._used |= {one.name for one in statements if isinstance(one, e.SetLookup)}
        return _LiveLine(families[-1] or FAMILIES, group, rule, statements)

    def _group(
        self, statements: Sequence[Statement], families: list[tuple[Family, ...]]
    ) -> SetRule | None:
        """Return what a rule says; ``families`` takes whom it is for as that becomes known.

        Raises:
            ValueError: a part of it is nothing that this program writes.
        """
        conditions: list[Condition] = []
        matches: list[m.Match] = []
        count = 0
        for statement in fields.comparisons(statements):
            count += 1
            only = _nfproto(statement)
            if only is not None:
                families.append(tuple(one for one in families[-1] if one == only))
                continue
            family = families[-1][0] if len(families[-1]) == 1 else None
            for one in fields.apart(statement, family):
                protocol = fields.protocol_of(matches)
                among = self._among(one, family, protocol)
                if among is not None:
                    conditions.append(among)
                else:
                    matches.append(fields.match_of(one, family, protocol))
        target = fields.target_of(statements[count:], families[-1])
        socket: tuple[m.Match, ...] = ()
        if isinstance(target, t.Jump):
            target, socket = self._jump(target.chain)
        rest = group_of(Rule((*matches, *socket), target))
        conditions = list(in_order((*rest.conditions, *conditions)))
        if not families[-1] or sum(map(_has_alternatives, conditions)) > 1:
            raise ValueError("a family, and one set of values")
        return SetRule(tuple(conditions), target)

    def _jump(self, chain: str) -> tuple[t.Jump, tuple[m.Match, ...]]:
        if chain == SOCKET_CHAIN and self._divert:
            self._socket_used = True
            return t.Jump(self._divert), (m.Socket(),)
        name = MODEL_NAMES.get(chain, "")
        if name not in OWN_CHAINS:
            raise ValueError("a chain of ours")
        return t.Jump(name), ()

    def _among(
        self, one: Statement, family: Family | None, protocol: Protocol | None
    ) -> InSet | None:
        """Return a condition on values that no single match of iptables has."""
        if isinstance(one, e.SetLookup):
            field = _field(one.operand, family, protocol)
            number, intervals, spans = self._spans(one.name)
            kind = type_of(field)
            # Host integers are looked up in a hash as they are, in a set of ranges swapped.
            swapped = kind.host_order and intervals
            if number != kind.number or one.operand.swapped != swapped:
                raise ValueError("a set of such values")
            return InSet(field, joined(spans), one.negated)
        if isinstance(one, e.RangeCheck) and _is_in_network_header(one.operand):
            field = _field(one.operand, family, protocol)
            low, high = (int.from_bytes(end, "big") for end in (one.low, one.high))
            if low > high:
                raise ValueError("a range that holds something")
            return InSet(field, ((low, high),), one.negated)
        return None

    def _spans(self, name: str) -> tuple[int, bool, list[Span]]:
        if name not in self._values:
            self._values[name] = self._read_set(name)
        found = self._values[name]
        if found is None:
            raise ValueError("a plain set with something in it")
        return found

    def _read_set(self, name: str) -> tuple[int, bool, list[Span]] | None:
        one, bodies = self._sets.get(name, (None, ()))
        if one is None or one.flags & ~_PLAIN_SET or one.key_type not in SET_TYPES:
            return None
        kind = SET_TYPES[one.key_type]
        intervals = bool(one.flags & messages.INTERVAL)
        try:
            elements = [found for body in bodies for found in messages.read_elements(body)]
            spans = spans_of(elements, kind, intervals=intervals)
        except (ValueError, KeyError):
            return None
        return (one.key_type, intervals, spans) if spans else None


def _bare(expressions: bytes) -> bytes:
    try:
        return e.without_counts(expressions)
    except ValueError:
        return expressions


def _is_in_network_header(operand: e.Operand) -> bool:
    return (operand.source, operand.key) == ("payload", e.NETWORK_HEADER)


def _nfproto(statement: Statement) -> Family | None:
    if (
        isinstance(statement, e.Comparison)
        and (statement.operand.source, statement.operand.key) == ("meta", e.META_NFPROTO)
        and statement.operator == "=="
    ):
        for family in FAMILIES:
            if statement.data == bytes((fields.NFPROTO[family],)):
                return family
    return None


def _field(operand: e.Operand, family: Family | None, protocol: Protocol | None) -> Field:
    """Return the field whose values are looked up.

    Raises:
        ValueError: this program looks up no such field.
    """
    if operand.mask:
        raise ValueError("a field as it is")
    place = operand.offset, operand.length
    match operand.source, operand.key:
        case "payload", e.NETWORK_HEADER if family is not None:
            size = fields.ADDRESS_SIZE[family]
            if place == (fields.SOURCE_OFFSET[family], size):
                return AddressField("saddr", family)
            if place == (fields.DESTINATION_OFFSET[family], size):
                return AddressField("daddr", family)
        case "payload", e.TRANSPORT_HEADER if protocol is not None:
            for side, offset in fields.PORT_OFFSET.items():
                if place == (offset, fields.PORT_SIZE):
                    return PortField(side, protocol)
        case "meta", e.META_SKUID:
            return OwnerField("uid")
        case "meta", e.META_SKGID:
            return OwnerField("gid")
        case _:
            pass
    raise ValueError("a field that is looked up")


def _has_alternatives(condition: Condition) -> bool:
    """Whether iptables takes more than one rule for a condition."""
    if not isinstance(condition, InSet) or condition.negated:
        return False
    field = condition.field
    if len(condition.spans) == 1 and isinstance(field, AddressField):
        return len(tuple(networks(condition.spans[0], field.family))) > 1
    return len(condition.spans) > 1


def _divert(statements: dict[str, list[tuple[Statement, ...]]]) -> str:
    """Return where the chain behind -m socket leads, as the model calls it, or ``""``."""
    match statements.get(SOCKET_CHAIN):
        case [
            (wildcard, e.Decision(e.RETURN, _)),
            (transparent, e.Decision(e.JUMP, chain)),
        ] if (wildcard, transparent) == (_WILDCARD, _ANY_SOCKET):
            name = MODEL_NAMES.get(chain, "")
            return name if name in OWN_CHAINS else ""
        case _:
            return ""


def _socket_operand(key: int) -> e.Operand:
    return e.Operand("socket", key, 0, 1, b"", b"", False)  # noqa: FBT003


_WILDCARD = e.Comparison(_socket_operand(e.SOCKET_WILDCARD), "==", b"\1")
_ANY_SOCKET = e.RangeCheck(_socket_operand(e.SOCKET_TRANSPARENT), b"\0", b"\1", negated=False)


def _with_tproxy(lines: list[_LiveLine]) -> list[_LiveLine]:
    """Return the lines without those that stand behind a tproxy for what it leaves.

    A tproxy without such a line is none of ours.
    """
    found: list[_LiveLine] = []
    skip = False
    for line, behind in zip(lines, [*lines[1:], None], strict=True):
        if skip:
            skip = False
            continue
        group = line.group
        if group is not None and isinstance(group.target, t.Tproxy):
            dropped = group.replace(target=t.Drop())
            skip = (
                behind is not None and behind.group == dropped and behind.families == line.families
            )
            found.append(line if skip else line.replace(group=None))
        else:
            found.append(line)
    return found
