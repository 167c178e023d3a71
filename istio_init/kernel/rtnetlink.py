"""Policy rules, routes and addresses of this namespace, read and written over rtnetlink.

Sources: linux/fib_rules.h, linux/rtnetlink.h, linux/if_addr.h.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6
from _struct import Struct

from istio_init.formats.netlink import attribute, read_attributes
from istio_init.kernel import netlink
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.ranges import FULL_MASK, IPV4, IPV6

if TYPE_CHECKING:
    from typing import Literal

    from istio_init.rules.ranges import Family, Network

    RouteVerb = Literal["add", "del"]

_RTM_ADDRESS = {"add": 20, "del": 21}
_RTM_ROUTE = {"add": 24, "del": 25}
_RTM_GETROUTE = 26
_RTM_RULE = {"add": 32, "del": 33}
_RTM_GETRULE = 34
# NLM_F_CREATE and NLM_F_EXCL: what is there already is an error.
_FLAGS = {"add": 0x600, "del": 0}

# struct fib_rule_hdr: family, destination and source length, tos, table, two
# reserved bytes, action, flags.
_RULE = Struct("=BBBBBBBBI")
# struct rtmsg: family, destination and source length, tos, table, protocol,
# scope, type, flags.
_ROUTE = Struct("=BBBBBBBBI")
# struct ifaddrmsg: family, prefix length, flags, scope, index.
_ADDRESS = Struct("=BBBBI")
_WORD = Struct("=I")

_FRA_PRIORITY = 6
_FRA_FWMARK = 10
_FRA_SUPPRESS_PREFIXLEN = 14
_FRA_TABLE = 15
_FRA_FWMASK = 16
_FRA_PROTOCOL = 21
_FR_ACT_TO_TBL = 1
# What the kernel tells about a rule that asks for nothing but a mark. One with
# anything more (a protocol, a port, a tunnel, what later kernels add) is another.
_OF_PLAIN_RULES = frozenset(
    {
        *(_FRA_PRIORITY, _FRA_FWMARK, _FRA_FWMASK, _FRA_TABLE),
        *(_FRA_PROTOCOL, _FRA_SUPPRESS_PREFIXLEN),
    }
)

_RTA_DST = 1
_RTA_OIF = 4
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_TABLE = 15
_RTA_MARK = 16
_RTA_UID = 25
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254
RTPROT_BOOT = 3
# Tables above 255 stand in an attribute alone.
_RT_TABLE_COMPAT = 252
_USUAL_METRIC = {IPV4: None, IPV6: 1024}

_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_LOOPBACK_INDEX = 1
_SOCKET_FAMILY = {IPV4: AF_INET, IPV6: AF_INET6}


class MarkRule(Record):
    """A rule by which packets with ``mark``, and by no other condition, look up ``table``."""

    mark: int
    table: int
    priority: int


class Route(Record):
    """A route, by the table that it stands in.

    ``local`` says that by it every destination is this host, over lo;
    ``metric`` is None for what the kernel gives a route without one.
    """

    table: int
    local: bool
    protocol: int
    metric: int | None


def mark_rules(family: Family) -> list[MarkRule]:
    """Return the rules of a family that match a mark, whole, and nothing else.

    Raises:
        OSError: the kernel refused; it may be built without policy rules.
    """
    found = []
    request = _RULE.pack(_SOCKET_FAMILY[family], 0, 0, 0, 0, 0, 0, 0, 0)
    for body in netlink.dump(netlink.ROUTE, _RTM_GETRULE, request):
        _, to_length, from_length, tos, table, _, _, action, flags = _RULE.unpack_from(body)
        attributes = dict(read_attributes(body[_RULE.size :]))
        mark = _number(attributes, _FRA_FWMARK)
        plain = not (to_length or from_length or tos or flags) and action == _FR_ACT_TO_TBL
        plain = plain and attributes.keys() <= _OF_PLAIN_RULES
        plain = plain and _number(attributes, _FRA_SUPPRESS_PREFIXLEN, FULL_MASK) == FULL_MASK
        if plain and mark and _number(attributes, _FRA_FWMASK, FULL_MASK) == FULL_MASK:
            table = _number(attributes, _FRA_TABLE, table)
            found.append(MarkRule(mark, table, _number(attributes, _FRA_PRIORITY)))
    return found


def routes(family: Family) -> list[Route]:
    """Return every route of a family.

    Raises:
        OSError: the kernel refused.
    """
    found = []
    request = _ROUTE.pack(_SOCKET_FAMILY[family], 0, 0, 0, 0, 0, 0, 0, 0)
    for body in netlink.dump(netlink.ROUTE, _RTM_GETROUTE, request):
        _, to_length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        attributes = dict(read_attributes(body[_ROUTE.size :]))
        local = to_length == 0 and kind == _RTN_LOCAL
        local = local and _number(attributes, _RTA_OIF) == _LOOPBACK_INDEX
        metric = _number(attributes, _RTA_PRIORITY) if _RTA_PRIORITY in attributes else None
        if metric == _USUAL_METRIC[family]:
            metric = None
        found.append(Route(_number(attributes, _RTA_TABLE, table), local, protocol, metric))
    return found


class RouteLookup(Record):
    """How a packet leaves; ``local`` if it is for this namespace itself.

    ``source`` is the address that it gets unless it has one, packed.
    """

    interface: int
    source: bytes | None
    local: bool


def route_get(destination: Network, mark: int = 0, uid: int | None = None) -> RouteLookup:
    """Return how the kernel would send a packet to an address.

    Raises:
        OSError: it would not, or refused.
    """
    request = _ROUTE.pack(
        _SOCKET_FAMILY[destination.family], destination.prefix, 0, 0, 0, 0, 0, 0, 0
    )
    request += attribute(_RTA_DST, destination.packed) + _attribute(_RTA_MARK, mark)
    if uid is not None:
        request += _attribute(_RTA_UID, uid)
    body = netlink.ask(netlink.ROUTE, _RTM_GETROUTE, request)
    attributes = dict(read_attributes(body[_ROUTE.size :]))
    kind = _ROUTE.unpack_from(body)[7]
    return RouteLookup(
        _number(attributes, _RTA_OIF), attributes.get(_RTA_PREFSRC), kind == _RTN_LOCAL
    )


def change_rule(verb: RouteVerb, family: Family, rule: MarkRule) -> None:
    """Add or remove a policy rule.

    Raises:
        OSError: the kernel refused.
    """
    header = _RULE.pack(
        _SOCKET_FAMILY[family], 0, 0, 0, _in_header(rule.table), 0, 0, _FR_ACT_TO_TBL, 0
    )
    attributes = _attribute(_FRA_FWMARK, rule.mark)
    attributes += _attribute(_FRA_PRIORITY, rule.priority) + _attribute(_FRA_TABLE, rule.table)
    netlink.change(netlink.ROUTE, _RTM_RULE[verb], _FLAGS[verb], header + attributes)


def change_local_route(
    verb: RouteVerb, family: Family, table: int, protocol: int, metric: int | None
) -> None:
    """Add or remove the route by which every destination is this host.

    Raises:
        OSError: the kernel refused.
    """
    scope = _RT_SCOPE_HOST if family == IPV4 else 0
    header = _ROUTE.pack(
        _SOCKET_FAMILY[family], 0, 0, 0, _in_header(table), protocol, scope, _RTN_LOCAL, 0
    )
    attributes = _attribute(_RTA_TABLE, table) + _attribute(_RTA_OIF, _LOOPBACK_INDEX)
    if metric is not None:
        attributes += _attribute(_RTA_PRIORITY, metric)
    netlink.change(netlink.ROUTE, _RTM_ROUTE[verb], _FLAGS[verb], header + attributes)


def change_lo_address(verb: RouteVerb, address: Network) -> None:
    """Add an address to lo, or remove it.

    Raises:
        OSError: the kernel refused.
    """
    family = _SOCKET_FAMILY[address.family]
    header = _ADDRESS.pack(family, address.prefix, 0, 0, _LOOPBACK_INDEX)
    attributes = b"".join(attribute(kind, address.packed) for kind in (_IFA_LOCAL, _IFA_ADDRESS))
    netlink.change(netlink.ROUTE, _RTM_ADDRESS[verb], _FLAGS[verb], header + attributes)


def _in_header(table: int) -> int:
    return table if table < 1 << 8 else _RT_TABLE_COMPAT


def _attribute(kind: int, number: int) -> bytes:
    return attribute(kind, _WORD.pack(number))


def _number(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = attributes.get(kind)
    return default if value is None else int(_WORD.unpack(value)[0])
