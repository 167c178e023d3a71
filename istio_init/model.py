"""Rules as typed data, the same for both families and for every backend.

A rule is spelled, encoded, compared and explained from these values only.
Addresses are kept packed, in network byte order; ports, marks and ids are host
integers.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Literal

    Family = Literal["ipv4", "ipv6"]
    Protocol = Literal["tcp", "udp"]
    Side = Literal["sport", "dport"]
    Owned = Literal["uid", "gid"]
    CtModule = Literal["conntrack", "state"]
    Place = Literal["head", "tail"]

IPV4: Family = "ipv4"
IPV6: Family = "ipv6"
FAMILIES: tuple[Family, ...] = (IPV4, IPV6)
ADDRESS_FAMILY = {IPV4: AF_INET, IPV6: AF_INET6}

HEAD: Place = "head"
TAIL: Place = "tail"

FULL_MASK = 0xFFFFFFFF

# In the order in which a packet meets the tables, with the built-in chains in
# the order in which the kernel keeps (and iptables -S prints) them.
BUILTIN_CHAINS: dict[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
TABLES = tuple(BUILTIN_CHAINS)


class Network(Record):
    """An address range; ``packed`` has its host bits cleared."""

    family: Family
    packed: bytes
    prefix: int

    @property
    def address(self) -> str:
        """The first address, spelled as the C library (and so iptables) spells it."""
        return inet_ntop(ADDRESS_FAMILY[self.family], self.packed)

    @property
    def everything(self) -> bool:
        """Whether the range holds every address of its family."""
        return self.prefix == 0

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


class PortRange(Record):
    """Ports ``low`` to ``high``, both included, 1-65535."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


class IdRange(Record):
    """User or group ids ``low`` to ``high``, both included, 0-4294967294."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


class Source(Record):
    """The packet comes from ``network``."""

    network: Network
    negated: bool = False


class Destination(Record):
    """The packet goes to ``network``."""

    network: Network
    negated: bool = False


class InInterface(Record):
    """The packet came in by interface ``name``; a trailing ``+`` is a wildcard."""

    name: str
    negated: bool = False


class OutInterface(Record):
    """The packet leaves by interface ``name``; a trailing ``+`` is a wildcard."""

    name: str
    negated: bool = False


class Proto(Record):
    """The packet's transport protocol."""

    name: Protocol
    negated: bool = False


class Ports(Record):
    """One port or range on one side, by the ``tcp`` or ``udp`` match."""

    protocol: Protocol
    side: Side
    ports: PortRange
    negated: bool = False


class MultiPorts(Record):
    """Up to 15 ports (a range counts as two) on one side, by the ``multiport`` match."""

    side: Side
    ports: tuple[PortRange, ...]
    negated: bool = False


class Owner(Record):
    """The local socket's user or group is one of ``ids``."""

    kind: Owned
    ids: IdRange
    negated: bool = False


class CtState(Record):
    """The packet's conntrack state is one of ``states``, in CT_STATES order.

    ``module`` is the spelling that was asked for: ``state`` is an alias that
    the kernel keeps apart from ``conntrack``.
    """

    states: tuple[str, ...]
    module: CtModule = "conntrack"
    negated: bool = False


class Mark(Record):
    """The packet's mark, under ``mask``, is ``value``."""

    value: int
    mask: int = FULL_MASK
    negated: bool = False


class ConnMark(Record):
    """The connection's mark, under ``mask``, is ``value``."""

    value: int
    mask: int = FULL_MASK
    negated: bool = False


class Socket(Record):
    """An open socket of this namespace is waiting for the packet."""


# The order in which iptables prints the states, with their kernel bits.
CT_STATES = {"INVALID": 1, "NEW": 8, "RELATED": 4, "ESTABLISHED": 2}

# The first five stand in the rule's own header, in the order iptables prints
# them; the rest are extensions and keep the order in which they were written.
HEADER_MATCHES = (Source, Destination, InInterface, OutInterface, Proto)

Match = (
    Source
    | Destination
    | InInterface
    | OutInterface
    | Proto
    | Ports
    | MultiPorts
    | Owner
    | CtState
    | Mark
    | ConnMark
    | Socket
)


class Jump(Record):
    """Go on in a user-defined chain and come back when it returns."""

    chain: str


class Return(Record):
    """Leave this chain; in a built-in chain, take its policy."""


class Accept(Record):
    """Let the packet through this table."""


class Drop(Record):
    """Discard the packet."""


class Reject(Record):
    """Discard the packet and answer "port unreachable"."""


class Redirect(Record):
    """Send the connection to a local port; the original destination is kept."""

    port: int


class Tproxy(Record):
    """Give the packet to a transparent local socket on ``port``, and mark it."""

    port: int
    mark: int
    mask: int = FULL_MASK


class SetMark(Record):
    """Set the packet's mark (``--set-xmark``)."""

    value: int
    mask: int = FULL_MASK


class SaveMark(Record):
    """Copy the packet's mark to its connection."""


class RestoreMark(Record):
    """Copy the connection's mark to the packet."""


class CtZone(Record):
    """Track the packet's connection in conntrack zone ``zone``, 0-65535."""

    zone: int


Target = (
    Jump
    | Return
    | Accept
    | Drop
    | Reject
    | Redirect
    | Tproxy
    | SetMark
    | SaveMark
    | RestoreMark
    | CtZone
)


class Rule(Record):
    """A rule of ours: what it matches, in printing order, and what it does.

    ``place`` says at which end of a chain shared with others it stands, ``why``
    and ``flag`` what it is for and which flag asked for it. The kernel cannot
    give these three back, so two rules are equal without them.
    """

    matches: tuple[Match, ...]
    target: Target
    place: Place = TAIL
    why: str = ""
    flag: str = ""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rule)
            and self.matches == other.matches
            and self.target == other.target
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.matches, self.target))


class ForeignRule(Record):
    """A live rule with parts this program never writes, kept as it was read.

    ``raw`` is the text (after ``-A CHAIN``) or the entry's bytes with counters
    cleared; ``jump`` is the chain it goes to, ``""`` when it goes to none.
    ``text`` stands for bytes as far as they are understood.
    """

    raw: str | bytes
    jump: str = ""
    text: str = ""

    @property
    def spelled(self) -> str:
        """The words that follow ``-A CHAIN``; of bytes, those that are understood."""
        return self.raw if isinstance(self.raw, str) else self.text


def jump_of(found: Rule | ForeignRule) -> str:
    """Return the chain that a rule leads to, or ``""``."""
    if isinstance(found, ForeignRule):
        return found.jump
    return found.target.chain if isinstance(found.target, Jump) else ""


def rule(
    *matches: Match,
    then: Target,
    place: Place = TAIL,
    why: str = "",
    flag: str = "",
) -> Rule:
    """Return a rule with its matches brought into the order in which they print.

    A match on the whole address space or on every interface (``+``) does not
    exist for the kernel, and is left out.
    """
    kept = [match for match in matches if not _matches_everything(match)]
    if len(kept) > 1:
        kept.sort(key=_print_rank)
    return Rule(tuple(kept), then, place, why, flag)


def _matches_everything(match: Match) -> bool:
    if isinstance(match, Source | Destination):
        return match.network.everything and not match.negated
    if isinstance(match, InInterface | OutInterface):
        return match.name == "+" and not match.negated
    return False


def _print_rank(match: Match) -> int:
    for rank, kind in enumerate(HEADER_MATCHES):
        if isinstance(match, kind):
            return rank
    return len(HEADER_MATCHES)


class Chain(Record):
    """A chain; ``policy`` is None for a user-defined one."""

    name: str
    policy: str | None
    rules: tuple[Rule | ForeignRule, ...] = ()


class Table(Record):
    """A table: its built-in chains in kernel order, then the others by name."""

    name: str
    chains: tuple[Chain, ...]

    def chain(self, name: str) -> Chain | None:
        """Return the chain called ``name``, or None."""
        for chain in self.chains:
            if chain.name == name:
                return chain
        return None


def make_table(name: str, chains: dict[str, Chain]) -> Table:
    """Return the table with its chains in the kernel's order.

    Built-in chains that ``chains`` lacks are empty and accept.
    """
    builtin = BUILTIN_CHAINS[name]
    shared = [chains.get(chain, Chain(chain, "ACCEPT")) for chain in builtin]
    own = [chains[chain] for chain in sorted(chains) if chain not in builtin]
    return Table(name, (*shared, *own))


class Ruleset(Record):
    """The tables of one family, in TABLES order; untouched tables are absent."""

    family: Family
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """Return the table called ``name``, or None."""
        for table in self.tables:
            if table.name == name:
                return table
        return None


class PolicyRoute(Record):
    """Packets with ``mark`` are looked up in route table ``table``, where all is local."""

    family: Family
    mark: int
    table: int


class Plan(Record):
    """Everything one run puts in place.

    ``rulesets`` holds IPv4 first, then IPv6; a family without rules has a
    ruleset without tables. ``addresses`` go on ``lo``. ``warnings`` are
    sentences for the operator, not errors.
    """

    layout: str
    rulesets: tuple[Ruleset, ...]
    routes: tuple[PolicyRoute, ...] = ()
    addresses: tuple[Network, ...] = ()
    warnings: tuple[str, ...] = ()

    def ruleset(self, family: Family) -> Ruleset:
        """Return the rules of one family."""
        for ruleset in self.rulesets:
            if ruleset.family == family:
                return ruleset
        return Ruleset(family, ())
