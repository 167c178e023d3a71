"""The conditions of a rule: one record for each kind of match."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.ranges import FULL_MASK

if TYPE_CHECKING:
    from typing import Literal

    from istio_init.rules.ranges import IdRange, Network, PortRange, Protocol

    Side = Literal["sport", "dport"]
    Owned = Literal["uid", "gid"]
    CtModule = Literal["conntrack", "state"]


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


def matches_everything(match: Match) -> bool:
    """Whether a match holds for every packet, so that the kernel has no such match."""
    # A tuple of classes, asked for every match of a plan, is twice as fast as a union.
    if isinstance(match, (Source, Destination)):
        return match.network.prefix == 0 and not match.negated
    if isinstance(match, (InInterface, OutInterface)):
        return match.name == "+" and not match.negated
    return False


def print_rank(match: Match) -> int:
    """Return the place of a match among those of its rule, in the order iptables prints."""
    for rank, kind in enumerate(HEADER_MATCHES):
        if isinstance(match, kind):
            return rank
    return len(HEADER_MATCHES)
