"""A rule of iptables-nft as expressions, and back.

Written is what iptables-nft 1.8.7 writes, byte for byte: addresses, interfaces
and the protocol by expressions of their own, the rest by the matches and targets
that the legacy tables have too. Later versions write ports and marks by
expressions as well, which 1.8.7 does not show; all of them show this, in the same
words. What any of 1.8.7 to 1.8.11 wrote is read.

Source: iptables 1.8.7, iptables/nft.c, nft-ipv4.c, nft-ipv6.c.
"""

from __future__ import annotations

from istio_init.errors import ParseError
from istio_init.formats.iptables import match_words, target_words
from istio_init.formats.netlink import attribute, read_attributes
from istio_init.formats.nf_tables import expressions as e
from istio_init.formats.nf_tables import fields
from istio_init.formats.nf_tables.messages import comment_in
from istio_init.formats.nf_tables.patterns import Patterns
from istio_init.formats.xt_extensions import (
    match_parts,
    nflog_words,
    read_match,
    read_target,
    spelled_match,
    spelled_target,
    target_parts,
)
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import ForeignRule, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from istio_init.formats.nf_tables.expressions import Statement
    from istio_init.rules.ranges import Family, Network, Protocol

_VERDICTS = {t.Accept(): e.ACCEPT, t.Drop(): e.DROP, t.Return(): e.RETURN}
# The order in which the parts of a rule's header are compared.
_HEADER = (m.InInterface, m.OutInterface, m.Proto, m.Source, m.Destination)
_NAMED_DECISIONS = {e.ACCEPT: "ACCEPT", e.DROP: "DROP", e.RETURN: "RETURN"}


def encode(rule: Rule, family: Family) -> bytes:
    """Return a rule's expressions, counters at zero."""
    header: dict[type[m.Match], bytes] = {}
    extensions = b""
    for match in rule.matches:
        if isinstance(match, m.HEADER_MATCHES):
            header[type(match)] = _header_match(match, family)
        else:
            extensions += e.xt_match(*match_parts(match))
    compared = b"".join(header[kind] for kind in _HEADER if kind in header)
    return compared + extensions + e.COUNTER + _target(rule.target, family)


def foreign(
    expressions: bytes, notes: bytes, statements: Sequence[Statement], families: Sequence[Family]
) -> ForeignRule:
    """Return a rule of others as it was read, with its words as far as they are understood."""
    raw = attribute(_EXPRESSIONS, expressions)
    if notes:
        raw += attribute(_NOTES, notes)
    words = spelled(statements, families[0], comment_in(notes))
    return ForeignRule(raw, jump_of(statements), " ".join(words))


def kept(rule: ForeignRule) -> tuple[bytes, bytes]:
    """Return the expressions of a rule of others, and nft's notes beside it, as they were read.

    Raises:
        ParseError: the rule is not from nf_tables.
    """
    try:
        given = dict(read_attributes(rule.raw if isinstance(rule.raw, bytes) else b""))
        return given[_EXPRESSIONS], given.get(_NOTES, b"")
    except (ValueError, KeyError) as error:
        raise ParseError(f"a rule that does not come from nf_tables: {rule.spelled}") from error


def protocol_of(rule: Rule | ForeignRule) -> tuple[int, bool]:
    """Return the number of the protocol that a rule asks for, and whether it is negated.

    The kernel checks matches and targets of iptables by it; 0 for any protocol.
    """
    if isinstance(rule, Rule):
        for match in rule.matches:
            if isinstance(match, m.Proto):
                return fields.PROTOCOLS[match.name], match.negated
        return 0, False
    for one in e.Reader().statements(kept(rule)[0]):
        if isinstance(one, e.Comparison) and one.operand == _L4PROTO and len(one.data) == 1:
            return one.data[0], one.operator == "!="
    return 0, False


# What of a rule's message a foreign rule is kept as.
_EXPRESSIONS = 4
_NOTES = 7
_L4PROTO = e.Operand("meta", e.META_L4PROTO, 0, 1, b"", b"", False)  # noqa: FBT003


def _header_match(match: m.Match, family: Family) -> bytes:
    operator: e.Operator = "=="
    match match:
        case m.InInterface(name, negated):
            loaded, data = e.meta(e.META_IIFNAME), fields.interface_data(name)
        case m.OutInterface(name, negated):
            loaded, data = e.meta(e.META_OIFNAME), fields.interface_data(name)
        case m.Proto(name, negated):
            loaded, data = e.meta(e.META_L4PROTO), bytes((fields.PROTOCOLS[name],))
        case m.Source(network, negated):
            loaded, data = _address(network, fields.SOURCE_OFFSET[family])
        case m.Destination(network, negated):
            loaded, data = _address(network, fields.DESTINATION_OFFSET[family])
        case _:
            raise AssertionError(f"{match!r} is no part of the header")
    operator = "!=" if negated else "=="
    return loaded + e.compare(operator, data)


def _address(network: Network, offset: int) -> tuple[bytes, bytes]:
    """Return what loads an address as far as a prefix reaches, and what it is compared with."""
    size, rest = divmod(network.prefix, 8)
    if rest or not network.prefix:
        loaded = e.payload(e.NETWORK_HEADER, offset, len(network.packed))
        return loaded + e.masked(fields.network_mask(network)), network.packed
    return e.payload(e.NETWORK_HEADER, offset, size), network.packed[:size]


def _target(target: t.Target, family: Family) -> bytes:
    if isinstance(target, t.Jump):
        return e.verdict(e.JUMP, target.chain)
    if target in _VERDICTS:
        return e.verdict(_VERDICTS[target])
    return e.xt_target(*target_parts(target, family))


class Reader:
    """Reads the rules of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._expressions = e.Reader()
        # What this program writes is known by its bytes.
        self._written: dict[bytes, Rule] = {}
        self._patterns = Patterns()
        self._foreign: dict[tuple[bytes, bytes], ForeignRule] = {}
        # Whether any rule that was read is one that iptables-nft cannot show.
        self.unlisted = False

    def expect(self, rule: Rule) -> bytes:
        """Return a rule's expressions; read later, they are this very rule."""
        found = encode(rule, self._family)
        self._written[found] = rule
        return found

    def rule(self, expressions: bytes, notes: bytes = b"") -> Rule | ForeignRule:
        """Return the rule of live expressions; what is not understood whole is kept as it is.

        ``notes`` are nft's own beside the rule: one with a comment is none that
        this program wrote.
        """
        if not notes:
            found = self._written.get(expressions) or self._patterns.rule(expressions)
            if found is not None:
                return found
        try:
            bare = e.without_counts(expressions)
        except ValueError:
            bare = expressions
        if not notes and bare in self._written:
            return self._written[bare]
        known = self._foreign.get((bare, notes))
        return known or self._read(expressions, bare, notes)

    def _read(self, expressions: bytes, bare: bytes, notes: bytes) -> Rule | ForeignRule:
        statements = self._expressions.statements(bare)
        self.unlisted = self.unlisted or not can_be_listed(statements)
        found: Rule | ForeignRule | None = None
        if not notes:
            found = self._understood(expressions, statements)
        if found is None:
            kept = foreign(bare, notes, statements, (self._family,))
            self._foreign[bare, notes] = found = kept
        return found

    def _understood(self, expressions: bytes, statements: Sequence[Statement]) -> Rule | None:
        try:
            matches, count = self._matches(statements)
            target = self._target(statements[count:])
        except ValueError:
            return None
        found = Rule(tuple(sorted(matches, key=m.print_rank)), target)
        self._patterns.learn(expressions, matches, found)
        return found

    def _matches(self, statements: Sequence[Statement]) -> tuple[list[m.Match], int]:
        """Return the matches of a rule, and how many statements they are."""
        found: list[m.Match] = []
        protocol: Protocol | None = None
        count = 0
        for statement in fields.comparisons(statements):
            count += 1
            for one in fields.apart(statement, self._family):
                match = self._match(one, protocol)
                if isinstance(match, m.Proto) and not match.negated:
                    protocol = match.name
                found.append(match)
        header = [type(one) for one in found if isinstance(one, m.HEADER_MATCHES)]
        if len(header) != len(set(header)) or any(map(m.matches_everything, found)):
            raise ValueError("each part of the header once")
        return found, count

    def _match(self, statement: Statement, protocol: Protocol | None) -> m.Match:
        if isinstance(statement, e.XtMatch):
            found = read_match(statement.name, statement.revision, statement.data)
            if isinstance(found, m.Ports) and found.protocol != protocol:
                raise ValueError("a port of the rule's protocol")
            return found
        return fields.match_of(statement, self._family, protocol)

    def _target(self, statements: Sequence[Statement]) -> t.Target:
        match statements:
            case [e.XtTarget(name, revision, data)]:
                return read_target(name, revision, data, self._family)
            case _:
                return fields.target_of(statements, (self._family,))


def jump_of(statements: Sequence[Statement]) -> str:
    """Return the chain that a rule jumps or goes to, or ``""``."""
    for one in statements:
        if isinstance(one, e.Decision) and one.code in (e.JUMP, e.GOTO):
            return one.chain
    return ""


def can_be_listed(statements: Sequence[Statement]) -> bool:
    """Whether iptables-nft can show a rule; a table with another one it calls incompatible."""
    return not any(isinstance(one, _BEYOND_IPTABLES) for one in statements)


_BEYOND_IPTABLES = (e.SetLookup, e.Assignment, e.LocalRedirect, e.LocalProxy, e.Rejection, e.Opaque)


def spelled(statements: Sequence[Statement], family: Family, comment: str = "") -> Iterator[str]:
    """Yield the words of iptables for a rule, as far as it is understood.

    What iptables has no words for stands as a match or target called after the
    expression, with three dots.
    """
    if comment:
        yield from ("-m", "comment", "--comment", _quoted(comment))
    protocol: Protocol | None = None
    for number, statement in enumerate(statements, 1):
        last = number == len(statements)
        for one in fields.apart(statement, family):
            if isinstance(one, e.Comparison | e.RangeCheck):
                words, named = _compared_words(one, family, protocol)
                protocol = named or protocol
                yield from words
            else:
                yield from _words(one, family, last=last)


def _words(one: Statement, family: Family, *, last: bool) -> list[str]:
    match one:
        case e.XtMatch(name, revision, data):
            return spelled_match(name, revision, data)
        case e.XtTarget(name, revision, data):
            return spelled_target(name, revision, data, family)
        case e.Decision(code, chain):
            verb = "-g" if code == e.GOTO else "-j"
            return [verb, chain or _NAMED_DECISIONS.get(code, str(code))]
        case e.SetLookup(operand, name, negated):
            bang = ["!"] if negated else []
            return ["-m", f"nft:{operand.source}", *bang, "--set", _quoted(name)]
        case e.Report(group, prefix, size, threshold) if last:
            return nflog_words(group, prefix, size, threshold)
        case e.Report():
            return ["-m", "nft:log", "..."]
        case e.Opaque(name) if last and name in _TARGETS_OF_NFT:
            return ["-j", _TARGETS_OF_NFT[name]]
        case e.Opaque(name):
            return ["-m", f"nft:{_quoted(name)}", "..."]
        case e.Assignment(source) if not last:
            return ["-m", f"nft:{source}", "..."]
        case _:
            return _native_words(one, family)


# What iptables calls the expressions of nft that a rule can end with.
_TARGETS_OF_NFT = {
    "dup": "TEE",
    "log": "LOG",
    "masq": "MASQUERADE",
    "nat": "DNAT",
    "notrack": "NOTRACK",
    "queue": "NFQUEUE",
}


def _compared_words(
    one: e.Comparison | e.RangeCheck, family: Family, protocol: Protocol | None
) -> tuple[list[str], Protocol | None]:
    try:
        match = fields.match_of(one, family, protocol)
    except ValueError:
        if isinstance(one, e.Comparison) and one.operand == _L4PROTO and len(one.data) == 1:
            bang = ["!"] if one.operator == "!=" else []
            return [*bang, "-p", str(one.data[0])], None
        return ["-m", f"nft:{one.operand.source}", "..."], None
    named = match.name if isinstance(match, m.Proto) and not match.negated else None
    return match_words(match), named


def _native_words(one: Statement, family: Family) -> list[str]:
    try:
        return target_words(fields.target_of((one,), (family,)), family)
    except ValueError:
        match one:
            case e.LocalRedirect():
                return ["-j", "REDIRECT"]
            case e.Rejection():
                return ["-j", "REJECT"]
            case e.Assignment(source):
                return ["-m", f"nft:{source}", "..."]
            case _:
                return ["-m", "nft:tproxy", "..."]


def _quoted(text: str) -> str:
    if text.replace("_", "").replace("-", "").isalnum():
        return text
    return '"' + "".join(f"\\{char}" if char in "\"'\\" else char for char in text) + '"'
