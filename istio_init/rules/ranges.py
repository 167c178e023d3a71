"""Address families, and ranges of addresses, ports and ids.

Addresses are kept packed, in network byte order; ports and ids are host integers.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Literal

    Family = Literal["ipv4", "ipv6"]
    Protocol = Literal["tcp", "udp"]

IPV4: Family = "ipv4"


IPV6: Family = "ipv6"


FAMILIES: tuple[Family, ...] = (IPV4, IPV6)


ADDRESS_FAMILY = {IPV4: AF_INET, IPV6: AF_INET6}


FULL_MASK = 0xFFFFFFFF


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
