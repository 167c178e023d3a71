"""The plan as a script for ``nft -f``: tables of our own, both families in one.

What stands in the tables is decided in ``nf_tables.own_tables``; these are the
words for it. Every rule says which family it is for, by an address or by ``meta
nfproto``, unless both families have it: where IPv6 is off, no rule sees an IPv6
packet.
"""

from __future__ import annotations

from _socket import inet_ntop

from istio_init.errors import UnsupportedError
from istio_init.formats.commands import route_commands
from istio_init.formats.nf_tables.own_tables import (
    SOCKET_CHAIN,
    conditions_of,
    has_address,
    named_set,
    native_table,
    singles,
    target_of,
)
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import TABLES, ForeignRule
from istio_init.rules.names import NATIVE_TABLES
from istio_init.rules.ranges import ADDRESS_FAMILY, FULL_MASK, IPV4
from istio_init.rules.sets import (
    ADDRESS_BITS,
    AddressField,
    InSet,
    OwnerField,
    PortField,
    canonical,
    networks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.formats.nf_tables.messages import Hooked
    from istio_init.formats.nf_tables.own_tables import Line, NamedSet, NativeChain, NativeTable
    from istio_init.rules.model import Plan, Ruleset
    from istio_init.rules.ranges import Family
    from istio_init.rules.sets import Condition, Field, Span

ADDRESS_WORD = {"ipv4": "ip", "ipv6": "ip6"}


def render(plan: Plan) -> str:
    """Return the script that builds the plan's tables in place of what bears their names.

    It leads to what the nftables backend makes without nft. Policy routes and
    addresses are not nft's and stand as comments.
    """
    rulesets = tuple(canonical(ruleset) for ruleset in plan.rulesets)
    used = [name for name in TABLES if any(ruleset.table(name) for ruleset in rulesets)]
    parts = [script(name, rulesets) for name in used]
    return "".join((*parts, *(f"# {command}\n" for command in route_commands(plan))))


def script(name: str, rulesets: tuple[Ruleset, ...]) -> str:
    """Return the commands that make one table what it is in canonical rule sets.

    A table in which no family has anything is deleted. What is there under its
    name goes in the same transaction, and nothing needs to be.

    Raises:
        UnsupportedError: nft cannot express a rule.
    """
    table = native_table(name, rulesets)
    native = NATIVE_TABLES[name]
    lines = [f"add table inet {native}", f"delete table inet {native}"]
    if table.chains:
        lines += _block(native, tuple(_body(table)))
    return "".join(f"{line}\n" for line in lines)


def _block(native: str, body: tuple[str, ...]) -> Iterator[str]:
    yield f"table inet {native} {{"
    yield from (f"\t{line}" if line else line for line in body)
    yield "}"


def _body(table: NativeTable) -> Iterator[str]:
    blocks = [(f"set {one.name}", tuple(_set_lines(one))) for one in table.sets]
    blocks += [(f"chain {chain.name}", tuple(_chain_lines(chain))) for chain in table.chains]
    if table.divert:
        blocks.append((f"chain {SOCKET_CHAIN}", tuple(socket_lines(table.divert))))
    for number, (head, lines) in enumerate(blocks):
        if number:
            yield ""
        yield f"{head} {{"
        yield from (f"\t{line}" for line in lines)
        yield "}"


def _chain_lines(chain: NativeChain) -> Iterator[str]:
    if chain.hooked is not None:
        yield hook_line(chain.hooked)
    for line in chain.lines:
        if isinstance(line, ForeignRule):
            raise UnsupportedError(f"a rule that this program does not write: {line.spelled}")
        yield from rule_lines(line)


def hook_line(hooked: Hooked) -> str:
    """Return how a chain says where it stands."""
    return f"type {hooked.type} hook {hooked.hook} priority {hooked.priority}; policy accept;"


def _set_lines(one: NamedSet) -> Iterator[str]:
    spans = one.spans if one.intervals else singles(one.field, one.spans)
    yield f"type {one.type.name}"
    yield "flags constant,interval" if one.intervals else "flags constant"
    yield "elements = {"
    yield from (f"\t{_spelled(one.field, span)}," for span in spans)
    yield "}"


def _spelled(field: Field, span: Span) -> str:
    """Return one value or range of a field."""
    low, high = span
    if isinstance(field, AddressField):
        found = tuple(networks(span, field.family))
        if len(found) == 1:
            single = found[0].prefix == ADDRESS_BITS[field.family]
            return found[0].address if single else str(found[0])
        return f"{_address(low, field.family)}-{_address(high, field.family)}"
    return str(low) if low == high else f"{low}-{high}"


def _address(value: int, family: Family) -> str:
    return inet_ntop(ADDRESS_FAMILY[family], value.to_bytes(ADDRESS_BITS[family] // 8, "big"))


def socket_lines(divert: str) -> Iterator[str]:
    """Yield the lines of the chain that leads to ``divert`` what -m socket matches."""
    # Whether a socket listens on all addresses cannot be asked of one in
    # TIME-WAIT: such a rule does not match. Whether it is transparent can.
    yield "socket wildcard 1 counter return"
    yield f"socket transparent 0-1 counter jump {divert}"


def rule_lines(line: Line) -> Iterator[str]:
    """Yield a line's rule, and behind one with tproxy what drops the packets that it leaves."""
    conditions = " ".join(_qualified(line))
    target = target_of(line)
    yield " ".join(filter(None, (conditions, "counter", _statement(target, line.family))))
    if isinstance(target, t.Tproxy):
        yield " ".join(filter(None, (conditions, "counter drop")))


def _qualified(line: Line) -> Iterator[str]:
    """Yield the conditions, and the family where no address tells it."""
    if line.family is not None and not has_address(line):
        yield f"meta nfproto {line.family}"
    for one in conditions_of(line):
        yield _condition(one)


def _condition(one: Condition) -> str:
    match one:
        case InSet():
            bang = "!= " if one.negated else ""
            return f"{_keyword(one.field)} {bang}{_values(one)}"
        case m.InInterface():
            return f"iifname {_bang(one)}{_interface(one.name)}"
        case m.OutInterface():
            return f"oifname {_bang(one)}{_interface(one.name)}"
        case m.Proto():
            return f"meta l4proto {_bang(one)}{one.name}"
        case m.CtState():
            states = [state.lower() for state in one.states]
            # Behind "!=" they would be compared with the sum of the states'
            # bits, which no packet has.
            if one.negated:
                return f"ct state & ({' | '.join(states)}) == 0"
            return f"ct state {','.join(states)}"
        case m.Mark():
            return f"meta mark {_masked(one)}"
        case m.ConnMark():
            return f"ct mark {_masked(one)}"
        case m.Socket():
            raise AssertionError("a chain of its own decides about sockets")
        case _:
            assert_never(one)


def _values(one: InSet) -> str:
    if len(one.spans) == 1:
        return _spelled(one.field, one.spans[0])
    return f"@{named_set(one).name}"


def _bang(one: m.InInterface | m.OutInterface | m.Proto) -> str:
    return "!= " if one.negated else ""


def _keyword(field: Field) -> str:
    match field:
        case AddressField():
            return f"{ADDRESS_WORD[field.family]} {field.name}"
        case PortField():
            return f"{field.protocol} {field.name}"
        case OwnerField():
            return f"meta sk{field.name}"
        case _:
            assert_never(field)


def _masked(one: m.Mark | m.ConnMark) -> str:
    sign = "!=" if one.negated else "=="
    mask = "" if one.mask == FULL_MASK else f"& {one.mask:#010x} "
    return f"{mask}{sign} {one.value:#010x}"


def _interface(name: str) -> str:
    """Return an interface name in quotes; a trailing ``+`` is ``*``, a ``*`` is escaped."""
    kept = name.removesuffix("+")
    if kept.removesuffix("*").endswith("\\") or not kept:
        raise UnsupportedError(f"nft cannot express the interface {name!r}")
    if name.endswith("+"):
        return f'"{kept}*"'
    if name.endswith("*"):
        return f'"{name[:-1]}\\*"'
    return f'"{name}"'


def _statement(target: t.Target, family: Family | None) -> str:
    match target:
        case t.Jump():
            return f"jump {target.chain}"
        case t.Return():
            return "return"
        case t.Accept():
            return "accept"
        case t.Drop():
            return "drop"
        case t.Reject():
            # As nft before 1.0 wants it; later ones take it too.
            return "reject with icmpx type port-unreachable"
        case t.Redirect():
            return f"redirect to :{target.port}"
        case t.Tproxy():
            word = ADDRESS_WORD[family or IPV4]
            marked = _set_mark(target.mark, target.mask)
            return f"tproxy {word} to :{target.port} {marked} accept"
        case t.SetMark():
            return _set_mark(target.value, target.mask)
        case t.SaveMark():
            return "ct mark set meta mark"
        case t.RestoreMark():
            return "meta mark set ct mark"
        case t.CtZone():
            return f"ct zone set {target.zone}"
        case _:
            assert_never(target)


def _set_mark(value: int, mask: int) -> str:
    if mask == FULL_MASK:
        return f"meta mark set {value:#010x}"
    return f"meta mark set meta mark & {mask ^ FULL_MASK:#010x} ^ {value:#010x}"
