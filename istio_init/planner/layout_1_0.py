"""The rules of proxy_init 1.0.2."""

from __future__ import annotations

from istio_init.config.model import LAYOUT_1_0
from istio_init.lean import TYPE_CHECKING
from istio_init.planner.draft import (
    TCP,
    Draft,
    capture_ports,
    for_owner,
    loopback,
    proxy_owners,
    proxy_redirects,
    tproxy_route,
    warnings,
)
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import LAYOUT, Plan, Reason
from istio_init.rules.names import FILTER, INPUT, ISTIO_OUTPUT, ISTIO_REDIRECT, NAT, OUTPUT
from istio_init.rules.ranges import IPV4, IPV6, PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.rules.model import Ruleset

_SCRIPT = "proxy_init 1.0.2, istio-iptables.sh"
_SSH = (
    PortRange(22, 22),
    Reason(
        LAYOUT,
        LAYOUT_1_0,
        "left alone",
        "SSH into the pod does not go through the proxy in this layout, even with -b '*'.",
        _SCRIPT,
    ),
)
_OUTBOUND = Reason(
    LAYOUT,
    LAYOUT_1_0,
    "captures outbound",
    "Every connection that the pod opens passes OUTPUT; without this jump none is captured.",
    _SCRIPT,
)
_SELF_CALL = Reason(
    LAYOUT,
    LAYOUT_1_0,
    "self-call through the proxy",
    "A call to the pod's own address leaves by lo; it goes through the proxy too, so the rule "
    "stands above those that let traffic pass.",
    _SCRIPT,
)
_PROXY = Reason(
    "-u",
    "",
    "the proxy's own traffic",
    "The proxy's own connections have to leave the pod; if they were captured they would come back "
    "to the proxy in an endless loop.",
    _SCRIPT,
)
_LOOPBACK = Reason(
    LAYOUT,
    LAYOUT_1_0,
    "left alone",
    "The containers of a pod call each other over loopback; such calls do not go through the "
    "proxy.",
    _SCRIPT,
)
_EXCLUDED = Reason(
    "-x",
    "",
    "left alone",
    "This destination is to be left alone; the rule stands above those that capture, because the "
    "first rule that matches decides.",
    _SCRIPT,
)
_EVERYTHING = Reason(
    "-i",
    "*",
    "captures outbound",
    "Every destination is to be captured; what no rule above has left alone goes to the proxy.",
    _SCRIPT,
)
_INCLUDED = Reason(
    "-i",
    "",
    "captures outbound",
    "This destination is to be captured; connections to one that no rule names leave the pod past "
    "the proxy.",
    _SCRIPT,
)
_END = Reason(
    "-i",
    "",
    "ends the chain",
    "Every other destination is left alone; the end of the chain does the same, and the rule only "
    "says it.",
    _SCRIPT,
)
_REJECT = Reason(
    "--no-ipv6",
    "",
    "shuts IPv6",
    "This layout captures no IPv6; inbound IPv6 that was let in would pass the proxy by.",
    _SCRIPT,
)
_ANSWERS = Reason(
    "--no-ipv6",
    "",
    "admits answers",
    "The pod may open IPv6 connections; without this rule the next one would reject their answers.",
    _SCRIPT,
)


def plan(config: Config) -> Plan:
    """Return the plan of layout 1.0: IPv4 is captured, IPv6 is shut unless it is enabled.

    Source: proxy_init 1.0.2, istio-iptables.sh.
    """
    return Plan(
        config.layout,
        (_ipv4(config), _ipv6(config)),
        routes=tproxy_route(config, IPV4),
        warnings=warnings(config),
    )


def _ipv4(config: Config) -> Ruleset:
    draft = Draft(IPV4)
    proxy_redirects(draft, config)
    capture_ports(
        draft,
        config,
        exemptions=(_SSH,),
        established=(m.Socket(),),
        repeat=2,
        on_port=config.outbound_port,
    )
    draft.append(NAT, OUTPUT, TCP, target=t.Jump(ISTIO_OUTPUT), reason=_OUTBOUND)
    _outbound(draft, config)
    return draft.ruleset()


def _outbound(draft: Draft, config: Config) -> None:
    """Add ISTIO_OUTPUT: which of the pod's outbound TCP goes to the proxy."""
    local = loopback(config, IPV4)
    capture = t.Jump(ISTIO_REDIRECT)

    def add(*matches: m.Match, target: t.Jump | t.Return, reason: Reason) -> None:
        draft.append(NAT, ISTIO_OUTPUT, *matches, target=target, reason=reason)

    not_local = m.Destination(local, negated=True)
    add(not_local, m.OutInterface("lo"), target=capture, reason=_SELF_CALL)
    for owner in proxy_owners(config):
        add(owner, target=t.Return(), reason=for_owner(_PROXY, owner))
    add(m.Destination(local), target=t.Return(), reason=_LOOPBACK)
    for cidr in config.outbound_exclude_cidrs:
        if cidr.family == IPV4:
            add(m.Destination(cidr), target=t.Return(), reason=_EXCLUDED.of(cidr))
    if config.outbound_all:
        add(target=capture, reason=_EVERYTHING)
    included = [cidr for cidr in config.outbound_cidrs if cidr.family == IPV4]
    for cidr in included:
        add(m.Destination(cidr), target=capture, reason=_INCLUDED.of(cidr))
    if included:
        add(target=t.Return(), reason=_END)


def _ipv6(config: Config) -> Ruleset:
    """Return the two rules that keep inbound IPv6 from passing the proxy by.

    The original flushed INPUT first; at the head of INPUT the rules have the
    same effect on packets and leave what others put there.
    """
    draft = Draft(IPV6)
    if not config.ipv6:
        established = m.CtState(("ESTABLISHED",), "state")
        draft.insert(FILTER, INPUT, target=t.Reject(), reason=_REJECT)
        draft.insert(FILTER, INPUT, established, target=t.Accept(), reason=_ANSWERS)
    return draft.ruleset()
