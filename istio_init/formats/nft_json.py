"""What ``nft -j list table`` prints of a table of ours, as rules of both families.

The rules are in canonical form as far as each line allows, one for each value of
a set. A line counts as understood only when every part of it is something that
``istio_init.formats.nft_script`` writes; any other is kept as a ForeignRule, and what
else is in the table as a chain of that name, so that it counts as a difference.
"""

from __future__ import annotations

from _json import make_scanner
from _socket import inet_pton

from istio_init.config.values import network
from istio_init.errors import ParseError
from istio_init.formats.nft_script import CHAIN_NAMES, SOCKET_CHAIN, hook_of
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Chain, ForeignRule, make_table
from istio_init.rules.names import NATIVE_TABLES, OWN_CHAINS
from istio_init.rules.ranges import ADDRESS_FAMILY, FAMILIES, FULL_MASK, IPV4, IPV6
from istio_init.rules.sets import (
    AddressField,
    InSet,
    OwnerField,
    PortField,
    SetRule,
    expand,
    in_order,
    joined,
    networks,
    span_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from istio_init.rules.model import Rule, Table
    from istio_init.rules.ranges import Family, Protocol
    from istio_init.rules.sets import Address, Condition, Field, Span

    Statement = dict[str, Any]
    Number = Callable[[object], int]
    T = TypeVar("T")

_NAMES = {nft: name for name, nft in NATIVE_TABLES.items()}
_MODEL_NAMES = {nft: name for name, nft in CHAIN_NAMES.items()}
_NFPROTO: dict[str, Family] = {"ipv4": IPV4, "ipv6": IPV6}
_ADDRESS_WORDS: dict[str, Family] = {"ip": IPV4, "ip6": IPV6}
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp"}
_SIDES: dict[str, m.Side] = {"sport": "sport", "dport": "dport"}
_ENDS: dict[str, Address] = {"saddr": "saddr", "daddr": "daddr"}
_META_MARK = {"meta": {"key": "mark"}}
_CT_MARK = {"ct": {"key": "mark"}}
_CT_STATE = {"ct": {"key": "state"}}
_PLAIN_SET = frozenset({"family", "name", "table", "type", "handle", "flags", "elem"})
_PLAIN_SET_FLAGS = frozenset({"interval", "constant"})
# What answers as icmpx does where a line is for one family only.
_ICMP_OF: dict[tuple[Family, ...], tuple[str, ...]] = {(IPV4,): ("icmp",), (IPV6,): ("icmpv6",)}
_WILDCARD = {"match": {"op": "==", "left": {"socket": {"key": "wildcard"}}, "right": 1}}
_ANY_SOCKET = {
    "match": {"op": "==", "left": {"socket": {"key": "transparent"}}, "right": {"range": [0, 1]}}
}


class _Json:
    """What the C half of the json module is to make of JSON; the other half imports re."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


class _Listing:
    """The objects of one table, sorted by what they are."""

    def __init__(self) -> None:
        self.has_flags = False
        self.chains: dict[str, dict[str, Any]] = {}
        self.sets: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, list[list[Statement]]] = {}
        self.others: list[str] = []

    @property
    def uses_socket(self) -> bool:
        """Whether any line leads to the chain behind -m socket."""
        leads = {"jump": {"target": SOCKET_CHAIN}}
        return any(leads in line for lines in self.lines.values() for line in lines)

    def add(self, kind: str, found: dict[str, Any]) -> None:
        """Take one object in."""
        match kind:
            case "table":
                self.has_flags = "flags" in found
            case "chain":
                self.chains[found["name"]] = found
            case "set":
                self.sets[found["name"]] = found
            case "element":
                # In an echo these come one by one.
                self.sets[found["name"]].setdefault("elem", []).extend(found["elem"]["set"])
            case "rule":
                self.lines.setdefault(found["chain"], []).append(_bare(found["expr"]))
            case _:
                self.others.append(f"{kind} {found.get('name', '')}")


def _bare(statements: list[Statement]) -> list[Statement]:
    """Return a line without its own counter; one that has a name is an object of others."""
    return [one for one in statements if not isinstance(one.get("counter"), dict)]


class _Line(Record):
    """A line and whom it is for; ``group`` is None where it is not understood."""

    families: tuple[Family, ...]
    group: SetRule | None
    statements: list[Statement]
    jump: str = ""

    def rules(self) -> Iterator[Rule | ForeignRule]:
        """Yield the rules that the line stands for."""
        if self.group is None:
            import json

            yield ForeignRule(json.dumps(self.statements), self.jump)
        else:
            yield from expand(self.group)


def parse_tables(text: str) -> dict[str, dict[Family, Table]]:
    """Return what each family has in our tables, by name, from a listing in JSON.

    An echo of what was added counts as a listing, and tables of others are left out.

    Raises:
        ParseError: the text is no such listing.
    """
    listings: dict[str, _Listing] = {}
    try:
        for kind, found in _objects(_decoded(text)):
            table = _NAMES.get(found["name"] if kind == "table" else found["table"])
            if table and found["family"] == "inet":
                listings.setdefault(table, _Listing()).add(kind, found)
        return {name: _table(listing, name) for name, listing in listings.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParseError(f"not what nft -j lists of a table: {text[:80]!r}") from error


def _decoded(text: str) -> dict[str, list[dict[str, Any]]]:
    scanner: Any = make_scanner
    try:
        decoded: dict[str, list[dict[str, Any]]] = scanner(_Json)(text, 0)[0]
    except StopIteration as end:
        raise ValueError("the text ends too soon") from end
    return decoded


def _objects(listing: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and contents of each object."""
    for one in listing["nftables"]:
        ((kind, found),) = one.items()
        if kind in ("add", "create"):
            ((kind, found),) = found.items()
        if kind != "metainfo":
            yield kind, found


def _table(listing: _Listing, name: str) -> dict[Family, Table]:
    divert = _divert(listing)
    lines = {
        chain: _with_tproxy([_line(one, listing, divert) for one in found])
        for chain, found in listing.lines.items()
    }
    found: dict[Family, dict[str, Chain]] = {family: {} for family in FAMILIES}
    for chain, declared in listing.chains.items():
        if chain == SOCKET_CHAIN and divert:
            continue
        understood = _MODEL_NAMES.get(chain, "")
        builtin = understood in BUILTIN_CHAINS[name]
        if not _is_as_written(name, understood, declared, used=chain in lines):
            understood, builtin = f"chain {chain}", False
        for family, chains in found.items():
            of_family = [one for one in lines.get(chain, ()) if family in one.families]
            if of_family or builtin or chain not in lines:
                rules = tuple(rule for one in of_family for rule in one.rules())
                policy = "ACCEPT" if builtin else None
                chains[understood] = Chain(understood, policy, rules)
    for strange in _strange(listing):
        for chains in found.values():
            chains[strange] = Chain(strange, None)
    return {family: make_table(name, chains) for family, chains in found.items()}


def _is_as_written(table: str, chain: str, declared: dict[str, Any], *, used: bool) -> bool:
    """Whether a chain is declared as this program declares it, if it ever does."""
    if chain not in BUILTIN_CHAINS[table]:
        return chain in OWN_CHAINS and "hook" not in declared
    hook = hook_of(table, chain)
    return used and (
        declared.get("type"),
        declared.get("hook"),
        declared.get("prio"),
        declared.get("policy"),
    ) == (hook.type, hook.hook, hook.priority, "accept")


def _strange(listing: _Listing) -> Iterator[str]:
    """Yield the names of what this program never leaves in a table."""
    yield from listing.others
    if listing.has_flags:
        yield "flags"
    if not listing.chains:
        yield "nothing"
    mentioned = set(_texts(list(listing.lines.values())))
    yield from (f"set {name}" for name in listing.sets if f"@{name}" not in mentioned)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a value, however deep."""
    match value:
        case str():
            yield value
        case [*items]:
            for one in items:
                yield from _texts(one)
        case dict():
            for one in value.values():
                yield from _texts(one)
        case _:
            pass


def _divert(listing: _Listing) -> str:
    """Return where the chain behind -m socket leads, as the model calls it, or ``""``."""
    match listing.lines.get(SOCKET_CHAIN):
        case [[wildcard, {"return": None}], [any_socket, {"jump": {"target": target}}]]:
            if wildcard == _WILDCARD and any_socket == _ANY_SOCKET and listing.uses_socket:
                return _own_chain(target) or ""
        case _:
            pass
    return ""


def _own_chain(name: object) -> str | None:
    found = _MODEL_NAMES.get(name) if isinstance(name, str) else None
    return found if found in OWN_CHAINS else None


def _with_tproxy(lines: list[_Line]) -> list[_Line]:
    """Return the lines without those that stand behind a tproxy for what it leaves.

    A tproxy without such a line is none of ours.
    """
    found: list[_Line] = []
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


def _line(statements: list[Statement], listing: _Listing, divert: str) -> _Line:
    reader = _Reader(listing.sets, divert)
    try:
        group = reader.group(statements)
    except ValueError:
        # In doubt it is for both.
        return _Line(reader.families or FAMILIES, None, statements, _jump(statements))
    return _Line(reader.families, group, statements)


def _jump(statements: list[Statement]) -> str:
    for one in statements:
        match one:
            case {"jump": {"target": str(target)}} | {"goto": {"target": str(target)}}:
                return _own_chain(target) or target
            case _:
                pass
    return ""


class _Reader:
    """Takes a line apart; every part has to be one that this program writes."""

    def __init__(self, sets: dict[str, dict[str, Any]], divert: str) -> None:
        self._sets = sets
        self._divert = divert
        self._conditions: list[Condition] = []
        # Whom the line is for, as far as it was read.
        self.families: tuple[Family, ...] = FAMILIES

    def group(self, statements: list[Statement]) -> SetRule:
        """Return what the line says.

        Raises:
            ValueError: a part of it is nothing that this program writes.
        """
        ends = next(
            (position for position, one in enumerate(statements) if "match" not in one),
            len(statements),
        )
        for one in statements[:ends]:
            match one:
                case {"match": {"op": op, "left": left, "right": right}}:
                    self._match(op, left, right)
                case _:
                    raise ValueError("two sides and how they compare")
        target = self._target(statements[ends:])
        conditions = in_order(self._conditions)
        if not self.families or sum(_has_alternatives(one) for one in conditions) > 1:
            raise ValueError("a family, and one set of values")
        return SetRule(conditions, target)

    def _only(self, family: Family) -> None:
        self.families = (family,) if family in self.families else ()

    def _match(self, op: object, left: object, right: object) -> None:
        if op not in ("==", "!=") and (op, left) != ("in", _CT_STATE):
            raise ValueError("a comparison this program writes")
        negated = op == "!="
        match left:
            case {"meta": {"key": "nfproto"}} if not negated:
                self._only(_known(_NFPROTO, right))
            case {"meta": {"key": "l4proto"}}:
                self._conditions.append(m.Proto(_known(_PROTOCOLS, right), negated))
            case {"meta": {"key": "iifname"}}:
                self._conditions.append(m.InInterface(_interface(right), negated))
            case {"meta": {"key": "oifname"}}:
                self._conditions.append(m.OutInterface(_interface(right), negated))
            case {"meta": {"key": "skuid"}}:
                self._one_of(OwnerField("uid"), right, _number, negated=negated)
            case {"meta": {"key": "skgid"}}:
                self._one_of(OwnerField("gid"), right, _number, negated=negated)
            case {"meta": {"key": "mark"}}:
                self._conditions.append(m.Mark(_number(right), FULL_MASK, negated))
            case {"&": [{"meta": {"key": "mark"}}, mask]}:
                self._conditions.append(m.Mark(_number(right), _number(mask), negated))
            case {"ct": {"key": "mark"}}:
                self._conditions.append(m.ConnMark(_number(right), FULL_MASK, negated))
            case {"&": [{"ct": {"key": "mark"}}, mask]}:
                self._conditions.append(m.ConnMark(_number(right), _number(mask), negated))
            case _ if left == _CT_STATE:
                self._conditions.append(_ct_state(op, right))
            case {"payload": {"protocol": protocol, "field": field}}:
                self._payload(protocol, field, right, negated=negated)
            case _:
                raise ValueError("a match this program writes")

    def _payload(self, protocol: object, name: object, right: object, *, negated: bool) -> None:
        if protocol in _PROTOCOLS:
            of = _known(_PROTOCOLS, protocol)
            self._conditions.append(m.Proto(of))
            self._one_of(PortField(_known(_SIDES, name), of), right, _number, negated=negated)
        else:
            family = _known(_ADDRESS_WORDS, protocol)
            self._only(family)
            field = AddressField(_known(_ENDS, name), family)
            self._one_of(field, right, _address_of(family), negated=negated)

    def _one_of(self, field: Field, right: object, number: Number, *, negated: bool) -> None:
        spans = joined(self._spans(right, number))
        if not spans:
            raise ValueError("a set with something in it")
        self._conditions.append(InSet(field, spans, negated))

    def _spans(self, value: object, number: Number) -> Iterator[Span]:
        match value:
            case str() if value.startswith("@"):
                for one in _elements(self._sets.get(value[1:], {})):
                    yield from self._spans(one, number)
            case {"set": [*items], **rest} if not rest:
                for one in items:
                    yield from self._spans(one, number)
            case {"range": [low, high], **rest} if not rest:
                yield number(low), number(high)
            case {"prefix": {"addr": str(address), "len": int(length)}, **rest} if not rest:
                yield span_of(network(f"{address}/{length}")[0])
            case _:
                yield number(value), number(value)

    def _target(self, statements: list[Statement]) -> t.Target:
        match statements:
            case [
                {"tproxy": {"family": word, "port": int(port), **rest}},
                {"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}},
                {"accept": None},
            ] if not rest and self.families == (_known(_ADDRESS_WORDS, word),):
                flipped, mask = _of_mark(value)
                return t.Tproxy(port, flipped, mask)
            case [one]:
                return self._single_target(one)
            case _:
                raise ValueError("one target")

    def _single_target(self, one: Statement) -> t.Target:
        match one:
            case {"accept": None}:
                return t.Accept()
            case {"drop": None}:
                return t.Drop()
            case {"return": None}:
                return t.Return()
            case {"jump": {"target": target}} if target == SOCKET_CHAIN and self._divert:
                self._conditions.append(m.Socket())
                return t.Jump(self._divert)
            case {"jump": {"target": target}}:
                chain = _own_chain(target)
                if chain is None:
                    raise ValueError("a chain of ours")
                return t.Jump(chain)
            case {"reject": {"type": kind, "expr": "port-unreachable", **rest}} if (
                not rest and kind in ("icmpx", *_ICMP_OF.get(self.families, ()))
            ):
                return t.Reject()
            case {"redirect": {"port": int(port), **rest}} if not rest:
                return t.Redirect(port)
            case {"mangle": {"key": key, "value": value}}:
                return _mangled(key, value)
            case _:
                raise ValueError("a target this program writes")


def _mangled(key: object, value: object) -> t.Target:
    if (key, value) == (_META_MARK, _CT_MARK):
        return t.RestoreMark()
    if (key, value) == (_CT_MARK, _META_MARK):
        return t.SaveMark()
    if key == {"ct": {"key": "zone"}}:
        return t.CtZone(_number(value))
    if key == _META_MARK:
        return t.SetMark(*_of_mark(value))
    raise ValueError("a target this program writes")


def _of_mark(value: object) -> tuple[int, int]:
    """Return a new mark made of the old one as value and mask of MARK --set-xmark.

    However nft writes it: a chain of and, or and exclusive or with constants
    comes down to bits that are kept and bits that are then flipped.
    """
    match value:
        case {"&": [inner, number]}:
            flipped, mask = _of_mark(inner)
            return flipped & _number(number), mask | _number(number) ^ FULL_MASK
        case {"|": [inner, number]}:
            flipped, mask = _of_mark(inner)
            return flipped | _number(number), mask | _number(number)
        case {"^": [inner, number]}:
            flipped, mask = _of_mark(inner)
            return flipped ^ _number(number), mask
        case _ if value == _META_MARK:
            return 0, 0
        case _:
            return _number(value), FULL_MASK


def _ct_state(op: object, right: object) -> m.CtState:
    match right:
        case str():
            names: list[object] = [right]
        case [*items] if op == "in":
            names = items
        case {"set": [*items], **rest} if op != "in" and not rest:
            names = items
        case _:
            raise ValueError("conntrack states")
    found = {name.upper() for name in names if isinstance(name, str)}
    if len(found) != len(names) or not found <= m.CT_STATES.keys():
        raise ValueError("conntrack states")
    return m.CtState(tuple(one for one in m.CT_STATES if one in found), "conntrack", op == "!=")


def _elements(found: dict[str, Any]) -> list[object]:
    """Return what is in a named set, if it has no more to it than values."""
    flags = found.get("flags", [])
    if not found.keys() <= _PLAIN_SET or not _PLAIN_SET_FLAGS.issuperset(flags):
        raise ValueError("a plain set")
    elements = found.get("elem", [])
    return elements if isinstance(elements, list) else [elements]


def _has_alternatives(condition: Condition) -> bool:
    """Whether iptables takes more than one rule for a condition."""
    if not isinstance(condition, InSet) or condition.negated:
        return False
    field = condition.field
    if len(condition.spans) == 1 and isinstance(field, AddressField):
        return len(tuple(networks(condition.spans[0], field.family))) > 1
    return len(condition.spans) > 1


def _known(names: dict[str, T], name: object) -> T:
    found = names.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError("a name this program writes")
    return found


def _number(value: object) -> int:
    # JSON's true is an int to Python too.
    if type(value) is not int:
        raise ValueError("a number")
    return value


def _address_of(family: Family) -> Number:
    def number(value: object) -> int:
        try:
            return int.from_bytes(inet_pton(ADDRESS_FAMILY[family], str(value)), "big")
        except OSError as error:
            raise ValueError("an address") from error

    return number


def _interface(value: object) -> str:
    if not isinstance(value, str) or value.endswith("+"):
        raise ValueError("an interface that the model can name")
    if value.endswith("\\*"):
        return f"{value[:-2]}*"
    return f"{value[:-1]}+" if value.endswith("*") else value
