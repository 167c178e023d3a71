"""The rules of proxy_init 1.0.2."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING
from istio_init.planner.draft import (
    TCP,
    Draft,
    capture_ports,
    loopback,
    owner_flag,
    port,
    proxy_owners,
    proxy_redirects,
    tproxy_route,
    warnings,
)
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Plan, rule
from istio_init.rules.names import FILTER, INPUT, ISTIO_OUTPUT, ISTIO_REDIRECT, NAT, OUTPUT
from istio_init.rules.ranges import IPV4, IPV6, PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.rules.model import Ruleset

_SSH = PortRange(22, 22)


def plan(config: Config) -> Plan:
    """Return the plan of layout 1.0: IPv4 captured, IPv6 shut unless it is enabled.

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
        spared=(
            rule(
                TCP,
                port("tcp", "dport", _SSH),
                then=t.Return(),
                why="SSH into the pod is never captured in this layout",
                flag="--layout",
            ),
        ),
        established=(m.Socket(),),
        times=2,
        on_port=config.outbound_port,
    )
    draft.append(
        NAT,
        OUTPUT,
        rule(TCP, then=t.Jump(ISTIO_OUTPUT), why="outbound TCP is looked at", flag="-i"),
    )
    local = loopback(config, IPV4)
    draft.append(
        NAT,
        ISTIO_OUTPUT,
        rule(
            m.Destination(local, negated=True),
            m.OutInterface("lo"),
            then=t.Jump(ISTIO_REDIRECT),
            why="a call to the pod's own address goes through the proxy",
            flag="-i",
        ),
    )
    for owner in proxy_owners(config):
        draft.append(
            NAT,
            ISTIO_OUTPUT,
            rule(owner, then=t.Return(), why="the proxy's own traffic", flag=owner_flag(owner)),
        )
    draft.append(
        NAT,
        ISTIO_OUTPUT,
        rule(m.Destination(local), then=t.Return(), why="traffic to loopback", flag="-i"),
    )
    for excluded in config.outbound_exclude_cidrs:
        if excluded.family == IPV4:
            draft.append(
                NAT,
                ISTIO_OUTPUT,
                rule(
                    m.Destination(excluded),
                    then=t.Return(),
                    why="outbound destination left alone",
                    flag="-x",
                ),
            )
    if config.outbound_all:
        draft.append(
            NAT,
            ISTIO_OUTPUT,
            rule(then=t.Jump(ISTIO_REDIRECT), why="every outbound destination captured", flag="-i"),
        )
    included = [cidr for cidr in config.outbound_cidrs if cidr.family == IPV4]
    for cidr in included:
        draft.append(
            NAT,
            ISTIO_OUTPUT,
            rule(
                m.Destination(cidr),
                then=t.Jump(ISTIO_REDIRECT),
                why="outbound destination captured",
                flag="-i",
            ),
        )
    if included:
        draft.append(
            NAT,
            ISTIO_OUTPUT,
            rule(then=t.Return(), why="every other outbound destination left alone", flag="-i"),
        )
    return draft.ruleset()


def _ipv6(config: Config) -> Ruleset:
    """Return the two rules that keep inbound IPv6 from passing beside the proxy.

    The original flushed INPUT first; at the head of INPUT the rules have the
    same effect on packets and leave what others put there.
    """
    draft = Draft(IPV6)
    if not config.ipv6:
        why = "inbound IPv6 would pass beside the proxy"
        flag = "--no-ipv6"
        draft.insert(FILTER, INPUT, rule(then=t.Reject(), why=why, flag=flag))
        draft.insert(
            FILTER,
            INPUT,
            rule(
                m.CtState(("ESTABLISHED",), "state"),
                then=t.Accept(),
                why="answers to the pod's own IPv6 connections",
                flag=flag,
            ),
        )
    return draft.ruleset()
