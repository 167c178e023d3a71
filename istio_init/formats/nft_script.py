"""The plan as a script for ``nft -f``: tables of our own, both families in one.

The chains are those of the plan in nft's spelling (``ISTIO_OUTPUT`` is
``istio-output``), in the tables and hooks that Istio's own nftables backend
uses. Every rule says which family it is for, by an address or by ``meta
nfproto``, unless both families have it: where IPv6 is off, no rule sees an IPv6
packet.

In three places a rule of iptables and its nearest relative in nft differ, and
the script follows iptables:

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

from _socket import inet_ntop

from istio_init.errors import UnsupportedError
from istio_init.formats.commands import route_commands
from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, ForeignRule
from istio_init.rules.names import MANGLE, NAT, NATIVE_TABLES, OUTPUT, OWN_CHAINS
from istio_init.rules.ranges import ADDRESS_FAMILY, FAMILIES, FULL_MASK, IPV4
from istio_init.rules.sets import (
    ADDRESS_BITS,
    AddressField,
    InSet,
    OwnerField,
    PortField,
    canonical,
    compact,
    networks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.rules.model import Plan, Ruleset, Table
    from istio_init.rules.ranges import Family
    from istio_init.rules.sets import Condition, Field, SetRule, Span

# What nft calls our chains.
CHAIN_NAMES = {
    name: name.lower().replace("_", "-")
    for name in (*OWN_CHAINS, *(name for names in BUILTIN_CHAINS.values() for name in names))
}
# Where -m socket is decided; what it is decided for lies behind the jump.
SOCKET_CHAIN = "istio-socket"

ADDRESS_WORD = {"ipv4": "ip", "ipv6": "ip6"}
_ADDRESS_TYPE = {"ipv4": "ipv4_addr", "ipv6": "ipv6_addr"}
_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
# What a set says that holds more than single values.
SET_OF_RANGES = "flags interval"
_MOST_SINGLES = 64
_SET_NAMES = {
    "saddr": "addresses",
    "daddr": "addresses",
    "sport": "ports",
    "dport": "ports",
    "uid": "users",
    "gid": "groups",
}


class Hook(Record):
    """Where a base chain stands in the kernel."""

    type: str
    hook: str
    priority: int


def render(plan: Plan) -> str:
    """Return the script that builds the plan's tables in place of what bears their names.

    It is what the nftables backend hands to nft; a table that is not there yet
    it creates, where this deletes one first. Policy routes and addresses are not
    nft's and stand as comments.
    """
    rulesets = tuple(canonical(ruleset) for ruleset in plan.rulesets)
    used = [name for name in TABLES if any(ruleset.table(name) for ruleset in rulesets)]
    parts = [script(name, rulesets) for name in used]
    return "".join((*parts, *(f"# {command}\n" for command in route_commands(plan))))


def script(name: str, rulesets: tuple[Ruleset, ...], *, absent: bool = False) -> str:
    """Return the commands that make one table what it is in canonical rule sets.

    A table in which no family has anything is deleted. What is there under its
    name goes in the same transaction, and nothing needs to be. With ``absent``
    nothing may be: the kernel has nft wait 10 ms after anything was deleted.

    Raises:
        UnsupportedError: nft cannot express a rule.
    """
    tables = {
        ruleset.family: table for ruleset in rulesets if (table := ruleset.table(name)) is not None
    }
    body = tuple(_body(name, tables))
    if not body:
        return "".join(f"{line}\n" for line in emptied(name))
    before = (f"create table inet {NATIVE_TABLES[name]}",) if absent else emptied(name)
    return "".join(f"{line}\n" for line in (*before, *_block(name, body)))


def emptied(name: str) -> tuple[str, str]:
    """Return the commands after which a table of ours is not there, whether it was or not."""
    return f"add table inet {NATIVE_TABLES[name]}", f"delete table inet {NATIVE_TABLES[name]}"


def hook_of(table: str, chain: str) -> Hook:
    """Return where a built-in chain stands in the kernel."""
    kind = "filter"
    if table == NAT:
        kind = "nat"
    elif table == MANGLE and chain == OUTPUT:
        # Of type filter, a packet that is marked here would keep its old route.
        kind = "route"
    return Hook(kind, chain.lower(), _PRIORITIES[table])


def _block(name: str, body: tuple[str, ...]) -> Iterator[str]:
    yield f"table inet {NATIVE_TABLES[name]} {{"
    yield from (f"\t{line}" if line else line for line in body)
    yield "}"


def _body(name: str, tables: dict[Family, Table]) -> Iterator[str]:
    sets = _Sets()
    chains = []
    for chain in _chain_names(tables.values()):
        lines = tuple(_chain_lines(name, chain, tables, sets))
        if lines:
            chains.append((CHAIN_NAMES[chain], lines))
    if sets.divert:
        chains.append((SOCKET_CHAIN, tuple(socket_lines(sets.divert))))
    blocks = [*sets.blocks(), *((f"chain {chain}", lines) for chain, lines in chains)]
    for number, (head, lines) in enumerate(blocks):
        if number:
            yield ""
        yield f"{head} {{"
        yield from (f"\t{line}" for line in lines)
        yield "}"


def _chain_names(tables: Iterable[Table]) -> Iterator[str]:
    """Yield each chain once, in the order of the families' tables."""
    yield from dict.fromkeys(chain.name for table in tables for chain in table.chains)


def _chain_lines(table: str, chain: str, tables: dict[Family, Table], sets: _Sets) -> Iterator[str]:
    """Yield a chain's lines; none for a built-in chain without rules."""
    groups = _groups(chain, tables)
    if chain in BUILTIN_CHAINS[table]:
        if not any(groups.values()):
            return
        hook = hook_of(table, chain)
        yield f"type {hook.type} hook {hook.hook} priority {hook.priority}; policy accept;"
    for only, group in _interleaved(groups):
        if isinstance(group, ForeignRule):
            raise UnsupportedError(f"a rule that this program does not write: {group.raw!r}")
        yield from _rule_lines(group, only, sets)


def _groups(
    chain: str, tables: dict[Family, Table]
) -> dict[Family, tuple[SetRule | ForeignRule, ...]]:
    found = {}
    for family, one in tables.items():
        rules = one.chain(chain)
        found[family] = compact(rules.rules, one) if rules else ()
    return found


def flag_of(line: str, name: str, rulesets: tuple[Ruleset, ...]) -> str:
    """Return the flag that asked for the rule on a line of a table's script, or ``""``."""
    tables = {
        ruleset.family: table for ruleset in rulesets if (table := ruleset.table(name)) is not None
    }
    sets = _Sets()
    for chain in _chain_names(tables.values()):
        for only, group in _interleaved(_groups(chain, tables)):
            if not isinstance(group, ForeignRule) and line in _rule_lines(group, only, sets):
                return group.reason.flag
    return ""


def _interleaved(
    groups: dict[Family, tuple[SetRule | ForeignRule, ...]],
) -> Iterator[tuple[Family | None, SetRule | ForeignRule]]:
    """Yield the groups of both families, each family's in order; None for a group of both.

    A group that both have in the same place is written once.
    """
    waiting = {family: list(reversed(groups.get(family, ()))) for family in FAMILIES}
    first, second = (waiting[family] for family in FAMILIES)
    left = {family: _counted(waiting[family]) for family in FAMILIES}

    def take(family: Family) -> SetRule | ForeignRule:
        taken = waiting[family].pop()
        left[family][_meaning(taken)] -= 1
        return taken

    while first and second:
        if _meaning(first[-1]) == _meaning(second[-1]) and _is_for_both(first[-1]):
            take(FAMILIES[1])
            yield None, take(FAMILIES[0])
        elif left[FAMILIES[1]].get(_meaning(first[-1])) and not left[FAMILIES[0]].get(
            _meaning(second[-1])
        ):
            # The other family comes to it later.
            yield FAMILIES[1], take(FAMILIES[1])
        else:
            yield FAMILIES[0], take(FAMILIES[0])
    for family in FAMILIES:
        while waiting[family]:
            yield family, take(family)


def _counted(groups: list[SetRule | ForeignRule]) -> dict[object, int]:
    found: dict[object, int] = {}
    for group in groups:
        found[_meaning(group)] = found.get(_meaning(group), 0) + 1
    return found


def _meaning(group: SetRule | ForeignRule) -> object:
    return group if isinstance(group, ForeignRule) else group.meaning


def _is_for_both(group: SetRule | ForeignRule) -> bool:
    """Whether the line for one family would be the line for the other."""
    return not isinstance(group, ForeignRule) and not isinstance(group.target, t.Tproxy)


class _Sets:
    """The named sets of one table, and where its rules with -m socket lead.

    Sets are named, and of plain types: those without a name carry what newer
    programs note down about them, and older ones that the node may have stumble
    over the note when they list them.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, tuple[Span, ...]], str] = {}
        self._counts: dict[str, int] = {}
        self._blocks: list[tuple[str, tuple[str, ...]]] = []
        self.divert = ""

    def values(self, one: InSet) -> str:
        """Return how a rule refers to the values of a condition."""
        if len(one.spans) == 1:
            return _spelled(one.field, one.spans[0])
        key = _set_type(one.field), one.spans
        if key not in self._names:
            kind = _SET_NAMES[one.field.name]
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[key] = f"{kind}-{self._counts[kind]}"
            self._blocks.append((f"set {self._names[key]}", tuple(_set_lines(one))))
        return f"@{self._names[key]}"

    def blocks(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the head and the lines of each set, in the order of use."""
        return self._blocks


def _set_type(field: Field) -> str:
    match field:
        case AddressField():
            return _ADDRESS_TYPE[field.family]
        case PortField():
            return "inet_service"
        case OwnerField():
            return field.name
        case _:
            assert_never(field)


def _set_lines(one: InSet) -> Iterator[str]:
    spans = _singles(one)
    yield f"type {_set_type(one.field)}"
    if any(low != high for low, high in spans):
        yield SET_OF_RANGES
    yield "elements = {"
    yield from (f"\t{_spelled(one.field, span)}," for span in spans)
    yield "}"


def _singles(one: InSet) -> tuple[Span, ...]:
    """Return short ranges of numbers one by one: the kernel looks these up in a hash."""
    if isinstance(one.field, AddressField):
        return one.spans
    if sum(high - low + 1 for low, high in one.spans) > _MOST_SINGLES:
        return one.spans
    return tuple((value, value) for low, high in one.spans for value in range(low, high + 1))


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


def _rule_lines(group: SetRule, family: Family | None, sets: _Sets) -> Iterator[str]:
    """Yield the lines of one group; ``family`` is None for one of both."""
    conditions = " ".join(_qualified(group.conditions, family, sets))
    target = group.target
    if any(isinstance(one, m.Socket) for one in group.conditions):
        divert = CHAIN_NAMES.get(target.chain, "") if isinstance(target, t.Jump) else ""
        if not divert or divert != (sets.divert or divert):
            raise UnsupportedError("nft can match sockets only for rules that lead to one chain")
        sets.divert, target = divert, t.Jump(SOCKET_CHAIN)
    yield " ".join(filter(None, (conditions, "counter", _statement(target, family))))
    if isinstance(target, t.Tproxy):
        yield " ".join(filter(None, (conditions, "counter drop")))


def _qualified(
    conditions: tuple[Condition, ...], family: Family | None, sets: _Sets
) -> Iterator[str]:
    """Yield the conditions, and the family where no address tells it."""
    told = any(isinstance(one, InSet) and isinstance(one.field, AddressField) for one in conditions)
    if family is not None and not told:
        yield f"meta nfproto {family}"
    # A port's own keyword tells the protocol.
    protocols = {
        one.field.protocol
        for one in conditions
        if isinstance(one, InSet) and isinstance(one.field, PortField)
    }
    for one in conditions:
        if isinstance(one, m.Proto) and not one.negated and one.name in protocols:
            continue
        if not isinstance(one, m.Socket):
            yield _condition(one, sets)


def _condition(one: Condition, sets: _Sets) -> str:
    match one:
        case InSet():
            bang = "!= " if one.negated else ""
            return f"{_keyword(one.field)} {bang}{sets.values(one)}"
        case m.InInterface():
            return f"iifname {_bang(one)}{_interface(one.name)}"
        case m.OutInterface():
            return f"oifname {_bang(one)}{_interface(one.name)}"
        case m.Proto():
            return f"meta l4proto {_bang(one)}{one.name}"
        case m.CtState():
            states = [state.lower() for state in one.states]
            # Negated without braces, it would be compared with the sum of the
            # states' bits, which no packet has.
            return (
                f"ct state != {{ {', '.join(states)} }}"
                if one.negated
                else (f"ct state {','.join(states)}")
            )
        case m.Mark():
            return f"meta mark {_masked(one)}"
        case m.ConnMark():
            return f"ct mark {_masked(one)}"
        case m.Socket():
            raise AssertionError("a chain of its own decides about sockets")
        case _:
            assert_never(one)


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
            return f"jump {CHAIN_NAMES.get(target.chain, target.chain)}"
        case t.Return():
            return "return"
        case t.Accept():
            return "accept"
        case t.Drop():
            return "drop"
        case t.Reject():
            return "reject with icmpx port-unreachable"
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
