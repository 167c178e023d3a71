"""Policy rules, local routes and the address on lo, through pyroute2.

pyroute2 costs 0.3 s to import, and a pod without TPROXY and IPv6 needs none of
this: whether there is anything to do is found out first with one netlink dump
and a look at /proc.
"""

from __future__ import annotations

import errno
import struct
from socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, inet_ntop, socket

from istio_init.config import DEFAULT_MARK, DEFAULT_ROUTE_TABLE
from istio_init.errors import ApplyError
from istio_init.host import ipv6_addresses
from istio_init.model import FAMILIES, FULL_MASK, IPV4, IPV6, Network, PolicyRoute
from istio_init.planner.shared import PASSTHROUGH
from istio_init.render.rules import RULE_PRIORITY
from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Any, Literal

    from istio_init.model import Family, Plan

    Verb = Literal["add", "del"]

_LOOPBACK = "lo"
_LOOPBACK_INDEX = 1
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254
_RTPROT_BOOT = 3
_FR_ACT_TO_TBL = 1
_USUAL_METRIC = {IPV4: None, IPV6: 1024}
_SOCKET_FAMILY = {IPV4: AF_INET, IPV6: AF_INET6}

_RTM_GETRULE = 34
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_DONE = 3
_NLMSG_ERROR = 2
_FRA_FWMARK = 10
# What the kernel tells about a rule that asks for nothing but a mark. One with
# anything more (a protocol, a port, a tunnel, what later kernels add) is not ours.
_PLAIN_RULE = frozenset(
    {
        *("FRA_PRIORITY", "FRA_FWMARK", "FRA_FWMASK", "FRA_TABLE"),
        *("FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN"),
    }
)
_HEADER = struct.Struct("=IHHII")
_RULE_HEADER = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


class PolicyRule(Record):
    """``ip rule``: packets with ``mark`` look up ``table``; duplicates differ in ``priority``."""

    family: Family
    mark: int
    table: int
    priority: int = RULE_PRIORITY

    @property
    def plain(self) -> PolicyRule:
        """The rule as this program writes it, to the same effect."""
        return PolicyRule(self.family, self.mark, self.table)


class LocalRoute(Record):
    """``ip route``: in ``table`` every destination is this host.

    The attributes are those that tell one such route of a table from another; a
    metric of None is what the kernel gives a route without one.
    """

    family: Family
    table: int
    protocol: int = _RTPROT_BOOT
    metric: int | None = None

    @property
    def plain(self) -> LocalRoute:
        """The route as this program writes it, to the same effect."""
        return LocalRoute(self.family, self.table)


class LoAddress(Record):
    """An address on ``lo``."""

    address: Network

    @property
    def plain(self) -> LoAddress:
        """The address itself."""
        return self


Item = PolicyRule | LocalRoute | LoAddress


class Step(Record):
    """One item to add or to remove."""

    verb: Verb
    item: Item


def wanted(plan: Plan) -> tuple[Item, ...]:
    """Return what the plan needs, routes before the rules that lead to them."""
    routes = [LocalRoute(route.family, route.table) for route in plan.routes]
    rules = [PolicyRule(route.family, route.mark, route.table) for route in plan.routes]
    return (*(LoAddress(address) for address in plan.addresses), *routes, *rules)


def live(marks: frozenset[int], hints: tuple[PolicyRoute, ...]) -> tuple[Item, ...]:
    """Return what of ours is in this namespace, every duplicate rule included.

    Ours are rules by one of ``marks`` or the default mark that lead to a local
    default route, those by another mark than the default that lead to nothing at
    all (as after a run that died), those of ``hints`` and the default pair
    wherever they lead, the routes that rules of ours lead to, and ``::6`` on lo.

    Raises:
        ApplyError: netlink does not answer.
    """
    addresses = tuple(
        LoAddress(address)
        for address, interface in ipv6_addresses()
        if interface == _LOOPBACK and address == PASSTHROUGH[IPV6]
    )
    tables = {(hint.family, hint.mark, hint.table) for hint in hints}
    tables |= {(family, DEFAULT_MARK, DEFAULT_ROUTE_TABLE) for family in FAMILIES}
    if not _any_marked_rule() and not hints:
        return addresses
    with _netlink() as ip:
        routes, filled = _routes(ip)
        local = {route.plain for route in routes}
        rules = [
            rule
            for rule in _marked_rules(ip)
            if (rule.family, rule.mark, rule.table) in tables
            or (
                rule.mark in marks | {DEFAULT_MARK} and LocalRoute(rule.family, rule.table) in local
            )
            # The default mark is others' too; one of the caller's own choice is not.
            or (rule.mark in marks - {DEFAULT_MARK} and (rule.family, rule.table) not in filled)
        ]
    led_to = {LocalRoute(rule.family, rule.table) for rule in rules}
    led_to |= {LocalRoute(family, table) for family, _, table in tables}
    return (*addresses, *(route for route in routes if route.plain in led_to), *rules)


def changes(before: tuple[Item, ...], after: tuple[Item, ...]) -> tuple[Step, ...]:
    """Return the steps from one state to another, additions first.

    What differs from the planned only in what makes no difference to packets
    serves as well, and stays where the planned is missing; a second one goes.
    """
    kept = {item for item in before if item in after}
    removed: list[Step] = []
    for item in before:
        if item in after:
            continue
        if item.plain in after and item.plain not in kept:
            kept.add(item.plain)
        else:
            removed.append(Step("del", item))
    added = [Step("add", item) for item in after if item not in kept]
    # Rules go before the routes they lead to.
    return (*added, *reversed(removed))


def way_back(now: tuple[Item, ...], before: tuple[Item, ...]) -> tuple[Step, ...]:
    """Return the steps to a state as it was to the letter, additions first."""
    added = [Step("add", item) for item in before if item not in now]
    removed = [Step("del", item) for item in now if item not in before]
    return (*added, *reversed(removed))


def take(steps: tuple[Step, ...]) -> None:
    """Take the steps in order, up to one that fails.

    Raises:
        ApplyError: the kernel refused.
    """
    if not steps:
        return
    with _netlink() as ip:
        for step in steps:
            try:
                _take(ip, step)
            except Exception as error:
                raise _refused(step, error) from error


def _refused(step: Step, error: Exception) -> ApplyError:
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    remedy = ""
    if number == errno.EPERM:
        remedy = "run as root with the capability NET_ADMIN"
    elif number in (errno.EACCES, errno.EOPNOTSUPP) and isinstance(step.item, LoAddress):
        remedy = (
            "IPv6 is switched off on lo: set net.ipv6.conf.lo.disable_ipv6=0 for the pod, or use "
            "--no-ipv6"
        )
    elif number in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
        remedy = "the kernel needs CONFIG_IP_MULTIPLE_TABLES (CONFIG_IPV6_MULTIPLE_TABLES)"
    what = "add" if step.verb == "add" else "remove"
    return ApplyError(
        f"cannot {what} {_spelled(step.item)}",
        where="routes",
        why=str(error),
        remedy=remedy,
    )


def _spelled(item: Item) -> str:
    match item:
        case PolicyRule():
            return f"the {item.family} rule fwmark {item.mark:#x} lookup {item.table}"
        case LocalRoute():
            return f"the {item.family} local default route of table {item.table}"
        case LoAddress():
            return f"the address {item.address} on lo"


def _netlink() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


def _take(ip: Any, step: Step) -> None:
    item = step.item
    match item:
        case PolicyRule():
            ip.rule(
                step.verb,
                family=_SOCKET_FAMILY[item.family],
                fwmark=item.mark,
                table=item.table,
                priority=item.priority,
            )
        case LocalRoute():
            given = {"priority": item.metric, "scope": _RT_SCOPE_HOST}
            if item.family == IPV6:
                del given["scope"]
            ip.route(
                step.verb,
                family=_SOCKET_FAMILY[item.family],
                type=_RTN_LOCAL,
                dst="default",
                oif=_LOOPBACK_INDEX,
                table=item.table,
                proto=item.protocol,
                **{name: value for name, value in given.items() if value is not None},
            )
        case LoAddress():
            ip.addr(
                step.verb,
                index=_LOOPBACK_INDEX,
                address=inet_ntop(AF_INET6, item.address.packed),
                prefixlen=item.address.prefix,
            )


def _marked_rules(ip: Any) -> list[PolicyRule]:
    """Return the rules that match a mark, whole, and nothing else."""
    found = []
    for family in FAMILIES:
        for message in ip.get_rules(family=_SOCKET_FAMILY[family]):
            attributes = dict(message["attrs"])
            plain = message["src_len"] == message["dst_len"] == message["tos"] == 0
            plain = plain and message["action"] == _FR_ACT_TO_TBL and not message["flags"]
            plain = plain and attributes.keys() <= _PLAIN_RULE
            plain = plain and attributes.get("FRA_SUPPRESS_PREFIXLEN", FULL_MASK) == FULL_MASK
            mark = attributes.get("FRA_FWMARK")
            if plain and mark and attributes.get("FRA_FWMASK", FULL_MASK) == FULL_MASK:
                table = attributes.get("FRA_TABLE", message["table"])
                found.append(PolicyRule(family, mark, table, attributes.get("FRA_PRIORITY", 0)))
    return found


def _routes(ip: Any) -> tuple[tuple[LocalRoute, ...], set[tuple[Family, int]]]:
    """Return the local default routes over lo, and the tables that hold any route."""
    found = []
    filled: set[tuple[Family, int]] = set()
    for family in FAMILIES:
        for message in ip.get_routes(family=_SOCKET_FAMILY[family]):
            attributes = dict(message["attrs"])
            table = attributes.get("RTA_TABLE", message["table"])
            filled.add((family, table))
            over_lo = attributes.get("RTA_OIF") == _LOOPBACK_INDEX
            if message["dst_len"] == 0 and message["type"] == _RTN_LOCAL and over_lo:
                metric = attributes.get("RTA_PRIORITY")
                usual = metric == _USUAL_METRIC[family]
                found.append(LocalRoute(family, table, message["proto"], None if usual else metric))
    return tuple(found), filled


def _any_marked_rule() -> bool:
    """Whether any policy rule of this namespace matches a mark."""
    with socket(AF_NETLINK, SOCK_RAW, 0) as handle:
        return any(_dump_has_mark(handle, _SOCKET_FAMILY[family]) for family in FAMILIES)


def _dump_has_mark(handle: socket, family: int) -> bool:
    size = _HEADER.size + _RULE_HEADER.size
    header = _HEADER.pack(size, _RTM_GETRULE, _NLM_F_REQUEST_DUMP, 0, 0)
    handle.send(header + _RULE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    found = False
    while True:
        data = handle.recv(65536)
        position = 0
        while position < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                return found
            attribute = position + size
            while attribute < position + length:
                step, name = _ATTRIBUTE.unpack_from(data, attribute)
                mark = data[attribute + _ATTRIBUTE.size : attribute + step]
                found = found or (name == _FRA_FWMARK and any(mark))
                attribute += (step + 3) & ~3
            position += (length + 3) & ~3
