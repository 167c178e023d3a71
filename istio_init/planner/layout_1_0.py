"""The rules of proxy_init 1.0.2."""

from __future__ import annotations

from istio_init.model import (
    IPV4,
    IPV6,
    Accept,
    CtState,
    Destination,
    Jump,
    OutInterface,
    Plan,
    PortRange,
    Reject,
    Return,
    Socket,
    rule,
)
from istio_init.planner.shared import (
    FILTER,
    INPUT,
    NAT,
    OUTBOUND,
    OUTPUT,
    REDIRECT,
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
from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from istio_init.config import Config
    from istio_init.model import Ruleset

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
                then=Return(),
                why="SSH into the pod is never captured in this layout",
                flag="--layout",
            ),
        ),
        established=(Socket(),),
        times=2,
        on_port=config.outbound_port,
    )
    draft.append(
        NAT, OUTPUT, rule(TCP, then=Jump(OUTBOUND), why="outbound TCP is looked at", flag="-i")
    )
    local = loopback(config, IPV4)
    draft.append(
        NAT,
        OUTBOUND,
        rule(
            Destination(local, negated=True),
            OutInterface("lo"),
            then=Jump(REDIRECT),
            why="a call to the pod's own address goes through the proxy",
            flag="-i",
        ),
    )
    for owner in proxy_owners(config):
        draft.append(
            NAT,
            OUTBOUND,
            rule(owner, then=Return(), why="the proxy's own traffic", flag=owner_flag(owner)),
        )
    draft.append(
        NAT,
        OUTBOUND,
        rule(Destination(local), then=Return(), why="traffic to loopback", flag="-i"),
    )
    for excluded in config.outbound_exclude_cidrs:
        if excluded.family == IPV4:
            draft.append(
                NAT,
                OUTBOUND,
                rule(
                    Destination(excluded),
                    then=Return(),
                    why="outbound destination left alone",
                    flag="-x",
                ),
            )
    if config.outbound_all:
        draft.append(
            NAT,
            OUTBOUND,
            rule(then=Jump(REDIRECT), why="every outbound destination captured", flag="-i"),
        )
    included = [cidr for cidr in config.outbound_cidrs if cidr.family == IPV4]
    for cidr in included:
        draft.append(
            NAT,
            OUTBOUND,
            rule(
                Destination(cidr),
                then=Jump(REDIRECT),
                why="outbound destination captured",
                flag="-i",
            ),
        )
    if included:
        draft.append(
            NAT,
            OUTBOUND,
            rule(then=Return(), why="every other outbound destination left alone", flag="-i"),
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
        draft.insert(FILTER, INPUT, rule(then=Reject(), why=why, flag=flag))
        draft.insert(
            FILTER,
            INPUT,
            rule(
                CtState(("ESTABLISHED",), "state"),
                then=Accept(),
                why="answers to the pod's own IPv6 connections",
                flag=flag,
            ),
        )
    return draft.ruleset()
