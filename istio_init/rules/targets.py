"""What a rule does with a packet: one record for each kind of target."""

from __future__ import annotations

from istio_init.lean import Record
from istio_init.rules.ranges import FULL_MASK


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
