"""Policy rules, local routes and the address on lo: the owned ones, and the steps to the plan."""

from __future__ import annotations

import errno

from istio_init.errors import ApplyError
from istio_init.kernel import rtnetlink
from istio_init.kernel.host import ipv6_addresses
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.model import PolicyRoute
from istio_init.rules.names import DEFAULT_MARK, DEFAULT_ROUTE_TABLE, PASSTHROUGH, RULE_PRIORITY
from istio_init.rules.ranges import FAMILIES, IPV6, Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from istio_init.kernel.rtnetlink import RouteVerb
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

    T = TypeVar("T")

_LOOPBACK = "lo"


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

    def __str__(self) -> str:
        return f"the {self.family} rule fwmark {self.mark:#x} lookup {self.table}"


class LocalRoute(Record):
    """``ip route``: in ``table`` every destination is this host.

    The attributes are those that tell one such route of a table from another; a
    metric of None is what the kernel gives a route without one.
    """

    family: Family
    table: int
    protocol: int = rtnetlink.RTPROT_BOOT
    metric: int | None = None

    @property
    def plain(self) -> LocalRoute:
        """The route as this program writes it, to the same effect."""
        return LocalRoute(self.family, self.table)

    def __str__(self) -> str:
        return f"the {self.family} local default route of table {self.table}"


class LoAddress(Record):
    """An address on ``lo``."""

    address: Network

    @property
    def plain(self) -> LoAddress:
        """The address itself."""
        return self

    def __str__(self) -> str:
        return f"the address {self.address} on lo"


Item = PolicyRule | LocalRoute | LoAddress


class RouteStep(Record):
    """One item to add or to remove."""

    verb: RouteVerb
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
    marked = _marked_rules()
    if not marked and not hints:
        return addresses
    routes, filled = _routes()
    local = {route.plain for route in routes}
    rules = [
        rule
        for rule in marked
        if (rule.family, rule.mark, rule.table) in tables
        or (rule.mark in marks | {DEFAULT_MARK} and LocalRoute(rule.family, rule.table) in local)
        # The default mark is others' too; one of the caller's own choice is not.
        or (rule.mark in marks - {DEFAULT_MARK} and (rule.family, rule.table) not in filled)
    ]
    led_to = {LocalRoute(rule.family, rule.table) for rule in rules}
    led_to |= {LocalRoute(family, table) for family, _, table in tables}
    return (*addresses, *(route for route in routes if route.plain in led_to), *rules)


def marks_to_local_routes(marks: frozenset[int]) -> tuple[PolicyRoute, ...]:
    """Return the marks that lead to a local route now, by rules that ``live`` finds.

    Raises:
        ApplyError: netlink does not answer.
    """
    items = live(marks, ())
    local = {(item.family, item.table) for item in items if isinstance(item, LocalRoute)}
    return tuple(
        PolicyRoute(item.family, item.mark, item.table)
        for item in items
        if isinstance(item, PolicyRule) and (item.family, item.table) in local
    )


def changes(before: tuple[Item, ...], after: tuple[Item, ...]) -> tuple[RouteStep, ...]:
    """Return the steps from one state to another, additions first.

    What differs from the planned only in what makes no difference to packets
    serves as well, and stays where the planned is missing; a second one goes.
    """
    kept = {item for item in before if item in after}
    removed: list[RouteStep] = []
    for item in before:
        if item in after:
            continue
        if item.plain in after and item.plain not in kept:
            kept.add(item.plain)
        else:
            removed.append(RouteStep("del", item))
    added = [RouteStep("add", item) for item in after if item not in kept]
    # Rules go before the routes they lead to.
    return (*added, *reversed(removed))


def restore_steps(now: tuple[Item, ...], before: tuple[Item, ...]) -> tuple[RouteStep, ...]:
    """Return the steps to a state as it was to the letter, additions first."""
    added = [RouteStep("add", item) for item in before if item not in now]
    removed = [RouteStep("del", item) for item in now if item not in before]
    return (*added, *reversed(removed))


def apply_steps(steps: tuple[RouteStep, ...]) -> None:
    """Take the steps in order, up to one that fails.

    Raises:
        ApplyError: the kernel refused.
    """
    for step in steps:
        try:
            _apply_step(step)
        except OSError as error:
            raise _refused(step, error) from error


def _refused(step: RouteStep, error: OSError) -> ApplyError:
    number = error.errno
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
        f"cannot {what} {step.item}",
        where="routes",
        why=error.strerror or str(error),
        remedy=remedy,
    )


def _apply_step(step: RouteStep) -> None:
    item = step.item
    match item:
        case PolicyRule():
            rule = rtnetlink.MarkRule(item.mark, item.table, item.priority)
            rtnetlink.change_rule(step.verb, item.family, rule)
        case LocalRoute():
            rtnetlink.change_local_route(
                step.verb, item.family, item.table, item.protocol, item.metric
            )
        case LoAddress():
            rtnetlink.change_lo_address(step.verb, item.address)


def _marked_rules() -> list[PolicyRule]:
    """Return the rules that match a mark, whole, and nothing else."""
    return [
        PolicyRule(family, rule.mark, rule.table, rule.priority)
        for family in FAMILIES
        for rule in _listed(rtnetlink.mark_rules, family)
    ]


def _routes() -> tuple[tuple[LocalRoute, ...], set[tuple[Family, int]]]:
    """Return the local default routes over lo, and the tables that hold any route."""
    local_routes = []
    filled: set[tuple[Family, int]] = set()
    for family in FAMILIES:
        for route in _listed(rtnetlink.routes, family):
            filled.add((family, route.table))
            if route.local:
                local_routes.append(LocalRoute(family, route.table, route.protocol, route.metric))
    return tuple(local_routes), filled


def _listed(dump: Callable[[Family], list[T]], family: Family) -> list[T]:
    try:
        return dump(family)
    except OSError as error:
        # A kernel without policy rules, or without IPv6, has none of them.
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return []
        raise ApplyError(
            "cannot list policy rules and routes",
            where=f"routes, {family}",
            why=error.strerror or str(error),
        ) from error
