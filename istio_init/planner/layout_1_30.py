"""The rules of Istio 1.30."""

from __future__ import annotations

from istio_init.config.model import TPROXY
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.planner.draft import (
    TCP,
    UDP,
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
from istio_init.rules.model import Plan, Ruleset, rule
from istio_init.rules.names import (
    AGENT_DNS_PORT,
    APP_ZONE,
    DNS_PORT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    LOOPBACK_IPV6,
    MANGLE,
    NAT,
    OUTBOUND_MARK,
    OUTPUT,
    PASSTHROUGH,
    PREROUTING,
    PROXY_ZONE,
    RAW,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Config, Facts
    from istio_init.rules.ranges import Family, Network


class _Dns(Record):
    """Whether DNS is captured, and the servers whose queries are (all when ``everything``)."""

    on: bool
    everything: bool
    servers: tuple[Network, ...]

    def of(self, family: Family) -> tuple[Network, ...]:
        return tuple(server for server in self.servers if server.family == family)

    def captured(self, family: Family) -> bool:
        """Whether queries of this family are captured; the other family may still be."""
        return self.on and (self.everything or bool(self.of(family)))

    def destinations(self, family: Family) -> tuple[tuple[m.Destination, ...], ...]:
        """Return the destination matches of each redirect; one without any for all."""
        if self.everything:
            return ((),)
        return tuple((m.Destination(server),) for server in self.of(family))


def plan(config: Config, facts: Facts) -> Plan:
    """Return the plan of layout 1.30: IPv4 always, IPv6 where the pod has it.

    Source: istio 1.30, tools/istio-iptables/pkg/capture/run.go, Run, and
    tools/common/tproxy/run_linux.go.
    """
    dns = _dns(config, facts)
    families = [family for family in FAMILIES if family == IPV4 or ipv6_on(config, facts)]
    rulesets = tuple(
        _rules(config, dns, family) if family in families else Ruleset(family, ())
        for family in FAMILIES
    )
    routes = tuple(route for family in families for route in tproxy_route(config, family))
    addresses = (PASSTHROUGH[IPV6],) if IPV6 in families else ()
    return Plan(config.layout, rulesets, routes, addresses, _warnings(config, facts, dns))


def ipv6_on(config: Config, facts: Facts) -> bool:
    """Whether IPv6 is captured too.

    The flag decides; without it the first address does, or with ``--dual-stack``
    any address.

    Source: istio 1.30, tools/istio-iptables/pkg/cmd/root.go, getLocalIP.
    """
    if config.ipv6 is not None:
        return config.ipv6
    looked_at = facts.addresses if config.dual_stack else facts.addresses[:1]
    return any(address.family == IPV6 for address in looked_at)


def _dns(config: Config, facts: Facts) -> _Dns:
    servers = facts.nameservers if config.dns_servers is None else config.dns_servers
    on = config.redirect_dns and (config.capture_all_dns or bool(servers))
    return _Dns(on, config.capture_all_dns, () if config.capture_all_dns else servers)


def _rules(config: Config, dns: _Dns, family: Family) -> Ruleset:
    draft = Draft(family)
    _spare_interfaces(draft, config)
    _enter_from_virtual_interfaces(draft, config)
    if config.drop_invalid:
        _drop_invalid(draft)
    draft.append(
        NAT,
        ISTIO_INBOUND,
        rule(
            TCP,
            port("tcp", "dport", PortRange(config.tunnel_port, config.tunnel_port)),
            then=t.Return(),
            why="the tunnel port is the proxy's own",
            flag="-e",
        ),
    )
    proxy_redirects(draft, config)
    if config.mode == TPROXY:
        _tproxy_guards(draft, config)
    capture_ports(
        draft,
        config,
        spared=(),
        established=(m.CtState(("RELATED", "ESTABLISHED")),),
        times=1,
        on_port=config.inbound_port,
    )
    draft.append(
        NAT,
        OUTPUT,
        rule(then=t.Jump(ISTIO_OUTPUT), why="everything outbound is looked at", flag="-i"),
    )
    _outbound(draft, config, dns)
    if dns.on:
        _dns_redirects(draft, dns)
    if dns.on and config.dns_zones:
        _dns_zones(draft, config, dns)
    if config.mode == TPROXY:
        _tproxy_marks(draft, config)
    return draft.ruleset()


def _spare_interfaces(draft: Draft, config: Config) -> None:
    """Add the rules that leave the traffic of whole interfaces alone.

    Source: istio 1.30, capture/run.go, shortCircuitExcludeInterfaces.
    """
    tables = (NAT, MANGLE) if config.mode == TPROXY else (NAT,)
    for name in config.exclude_interfaces:
        for table in tables:
            why = "interface left alone"
            draft.append(
                table, PREROUTING, rule(m.InInterface(name), then=t.Return(), why=why, flag="-c")
            )
            draft.append(
                table, OUTPUT, rule(m.OutInterface(name), then=t.Return(), why=why, flag="-c")
            )


def _enter_from_virtual_interfaces(draft: Draft, config: Config) -> None:
    """Add the rules that take virtual interfaces out of the inbound rules.

    Source: istio 1.30, capture/run.go, shortCircuitKubeInternalInterface.
    """
    for name in config.virtual_interfaces:
        draft.insert(
            NAT,
            PREROUTING,
            rule(
                m.InInterface(name),
                then=t.Return(),
                why="a virtual machine's outbound traffic is not inbound",
                flag="-k",
            ),
        )


def _drop_invalid(draft: Draft) -> None:
    """Add the rules that drop packets outside every tracked connection.

    Without them the kernel answers such a packet with a reset.

    Source: istio 1.30, capture/run.go, Run.
    """
    why = "packet of no tracked connection"
    draft.append(
        MANGLE,
        PREROUTING,
        rule(m.CtState(("INVALID",)), then=t.Jump(ISTIO_DROP), why=why, flag="--drop-invalid"),
    )
    draft.append(MANGLE, ISTIO_DROP, rule(then=t.Drop(), why=why, flag="--drop-invalid"))


def _outbound(draft: Draft, config: Config, dns: _Dns) -> None:
    """Add ISTIO_OUTPUT: what of the pod's outbound traffic goes to the proxy.

    Source: istio 1.30, capture/run.go, Run, handleOutboundPortsInclude and
    handleOutboundIncludeRules.
    """
    family = draft.family
    local = loopback(config, family)

    def add(*matches: m.Match, then: t.Jump | t.Return, why: str, flag: str) -> None:
        draft.append(NAT, ISTIO_OUTPUT, rule(*matches, then=then, why=why, flag=flag))

    for excluded in config.outbound_exclude_ports:
        why = "outbound port left alone"
        add(TCP, port("tcp", "dport", excluded), then=t.Return(), why=why, flag="-o")
        add(UDP, port("udp", "dport", excluded), then=t.Return(), why=why, flag="-o")
    add(
        m.Source(PASSTHROUGH[family]),
        m.OutInterface("lo"),
        then=t.Return(),
        why="the proxy delivers an inbound connection to the application",
        flag="-b",
    )
    for owner in proxy_owners(config):
        _owned_by_proxy(draft, config, dns, owner)
    _owner_groups(draft, config)
    if dns.captured(family):
        add(
            then=t.Jump(ISTIO_OUTPUT_DNS),
            why="DNS queries are looked at",
            flag="--redirect-dns",
        )
    add(m.Destination(local), then=t.Return(), why="traffic to loopback", flag="-i")
    for cidr in config.outbound_exclude_cidrs:
        if cidr.family == family:
            add(
                m.Destination(cidr),
                then=t.Return(),
                why="outbound destination left alone",
                flag="-x",
            )
    for included in config.outbound_ports:
        add(
            TCP,
            port("tcp", "dport", included),
            then=t.Jump(ISTIO_REDIRECT),
            why="outbound port captured",
            flag="-q",
        )
    destinations: tuple[tuple[m.Match, ...], ...] = tuple(
        (m.Destination(cidr),) for cidr in config.outbound_cidrs if cidr.family == family
    )
    if config.outbound_all:
        destinations = ((),)
    for destination in destinations:
        for name in config.virtual_interfaces:
            draft.insert(
                NAT,
                PREROUTING,
                rule(
                    *destination,
                    m.InInterface(name),
                    then=t.Jump(ISTIO_REDIRECT),
                    why="a virtual machine's outbound traffic goes to the proxy",
                    flag="-k",
                ),
            )
        why = "outbound destination captured" if destination else "every destination captured"
        add(*destination, then=t.Jump(ISTIO_REDIRECT), why=why, flag="-i")


def _owned_by_proxy(draft: Draft, config: Config, dns: _Dns, owner: m.Owner) -> None:
    """Add the three rules for the traffic of one of the proxy's users or groups.

    Source: istio 1.30, capture/run.go, Run (the loops over ProxyUID and ProxyGID).
    """
    tunnel = PortRange(config.tunnel_port, config.tunnel_port)
    flag = owner_flag(owner)
    to_self: m.Match = port("tcp", "dport", tunnel, negated=True)
    if dns.on and owner.kind == "uid":
        to_self = m.MultiPorts("dport", (DNS_PORT, tunnel), negated=True)
    draft.append(
        NAT,
        ISTIO_OUTPUT,
        rule(
            m.Destination(loopback(config, draft.family), negated=True),
            m.OutInterface("lo"),
            TCP,
            to_self,
            owner,
            then=t.Jump(ISTIO_IN_REDIRECT),
            why="the proxy calls the pod's own address: in again by the inbound listener",
            flag=flag,
        ),
    )
    if not _captures_loopback(config):
        not_dns: tuple[m.Match, ...] = ()
        if dns.on:
            not_dns = (TCP, port("tcp", "dport", DNS_PORT, negated=True))
        draft.append(
            NAT,
            ISTIO_OUTPUT,
            rule(
                m.OutInterface("lo"),
                *not_dns,
                owner.replace(negated=True),
                then=t.Return(),
                why="the application calls itself",
                flag=flag,
            ),
        )
    draft.append(
        NAT,
        ISTIO_OUTPUT,
        rule(owner, then=t.Return(), why="the proxy's own traffic", flag=flag),
    )


def _captures_loopback(config: Config) -> bool:
    return any(
        cidr.packed[0] == 127 if cidr.family == IPV4 else cidr.packed == LOOPBACK_IPV6.packed
        for cidr in config.outbound_cidrs
    )


def _owner_groups(draft: Draft, config: Config) -> None:
    """Add the rules that capture, or leave alone, the traffic of some groups only.

    Groups to leave alone count only while every group is captured.

    Source: istio 1.30, capture/run.go, handleCaptureByOwnerGroup.
    """
    if config.owner_groups is None:
        for gids in config.owner_groups_exclude:
            draft.append(
                NAT,
                ISTIO_OUTPUT,
                rule(
                    m.Owner("gid", gids),
                    then=t.Return(),
                    why="group left alone",
                    flag="ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
                ),
            )
        return
    draft.append(
        NAT,
        ISTIO_OUTPUT,
        rule(
            *(m.Owner("gid", gids, negated=True) for gids in config.owner_groups),
            then=t.Return(),
            why="not one of the captured groups",
            flag="ISTIO_OUTBOUND_OWNER_GROUPS",
        ),
    )


def _dns_redirects(draft: Draft, dns: _Dns) -> None:
    """Add the rules that send DNS queries to the agent.

    Source: istio 1.30, capture/run.go, SetupDNSRedir.
    """
    for proto in (TCP, UDP):
        for destination in dns.destinations(draft.family):
            draft.append(
                NAT,
                ISTIO_OUTPUT_DNS,
                rule(
                    proto,
                    *destination,
                    port(proto.name, "dport", DNS_PORT),
                    then=t.Redirect(AGENT_DNS_PORT),
                    why="DNS query answered by the agent",
                    flag="--redirect-dns",
                ),
            )


def _dns_zones(draft: Draft, config: Config, dns: _Dns) -> None:
    """Add the rules that track the agent's DNS connections apart from the application's.

    Both may use the same source port to the same server; in one conntrack zone
    an answer to the one would be taken for an answer to the other.

    Source: istio 1.30, capture/run.go, addDNSConntrackZones.
    """
    flag = "--redirect-dns"
    draft.append(
        RAW,
        OUTPUT,
        rule(then=t.Jump(ISTIO_OUTPUT_DNS), why="DNS connections are told apart", flag=flag),
    )

    def zone(chain: str, number: int, why: str, *matches: m.Match) -> None:
        draft.append(RAW, chain, rule(UDP, *matches, then=t.CtZone(number), why=why, flag=flag))

    query = port("udp", "dport", DNS_PORT)
    agent_answer = port("udp", "sport", PortRange(AGENT_DNS_PORT, AGENT_DNS_PORT))
    for owner in proxy_owners(config):
        zone(ISTIO_OUTPUT_DNS, PROXY_ZONE, "the agent asks the DNS server", query, owner)
        zone(ISTIO_OUTPUT_DNS, APP_ZONE, "the agent answers the application", agent_answer, owner)
    if not dns.captured(draft.family):
        return
    draft.append(
        RAW,
        PREROUTING,
        rule(then=t.Jump(ISTIO_INBOUND), why="DNS connections are told apart", flag=flag),
    )
    server_answer = port("udp", "sport", DNS_PORT)
    for destination in dns.destinations(draft.family):
        source = tuple(m.Source(match.network) for match in destination)
        zone(ISTIO_OUTPUT_DNS, APP_ZONE, "the application asks", *destination, query)
        zone(ISTIO_INBOUND, PROXY_ZONE, "the DNS server answers the agent", *source, server_answer)


def _tproxy_guards(draft: Draft, config: Config) -> None:
    """Add what stands at the head of mangle ISTIO_INBOUND.

    Source: istio 1.30, capture/run.go, Run (TPROXY part).
    """
    draft.append(
        MANGLE,
        ISTIO_INBOUND,
        rule(
            TCP,
            m.Mark(config.tproxy_mark),
            then=t.Return(),
            why="the proxy delivers an inbound connection to the application",
            flag="-t",
        ),
        rule(
            TCP,
            m.Source(PASSTHROUGH[draft.family]),
            m.InInterface("lo"),
            then=t.Return(),
            why="the proxy delivers an inbound connection to the application",
            flag="-m",
        ),
        rule(
            TCP,
            m.InInterface("lo"),
            m.Mark(OUTBOUND_MARK, negated=True),
            then=t.Return(),
            why="the application calls itself",
            flag="-m",
        ),
    )


def _tproxy_marks(draft: Draft, config: Config) -> None:
    """Add the rules that carry marks between packets and their connections.

    Source: istio 1.30, capture/run.go, Run (TPROXY part).
    """
    mark = config.tproxy_mark

    draft.append(
        MANGLE,
        PREROUTING,
        rule(
            TCP,
            m.Mark(mark),
            then=t.SaveMark(),
            why="answers of this connection find their way back to the proxy",
            flag="-t",
        ),
    )
    draft.append(
        MANGLE,
        OUTPUT,
        rule(
            TCP,
            m.OutInterface("lo"),
            m.Mark(mark),
            then=t.Return(),
            why="the proxy delivers an inbound connection to the application",
            flag="-t",
        ),
    )
    for owner in proxy_owners(config):
        draft.append(
            MANGLE,
            OUTPUT,
            rule(
                TCP,
                m.Destination(loopback(config, draft.family), negated=True),
                m.OutInterface("lo"),
                owner,
                then=t.SetMark(OUTBOUND_MARK),
                why="the proxy calls the pod's own address: in again by the inbound listener",
                flag=owner_flag(owner),
            ),
        )
    draft.append(
        MANGLE,
        OUTPUT,
        rule(
            TCP,
            m.ConnMark(mark),
            then=t.RestoreMark(),
            why="answers of this connection find their way back to the proxy",
            flag="-t",
        ),
    )


def _warnings(config: Config, facts: Facts, dns: _Dns) -> tuple[str, ...]:
    """Return what works as Istio does it, but probably not as its user means it."""
    found = [*warnings(config)]
    if len(config.proxy_uids) > 1:
        found.append(
            f"-u lists several users: the loopback rules of {config.proxy_uids[0]} hide those of "
            "the others, whose calls to the pod's own address are not captured"
        )
    if config.mode == TPROXY:
        found.append(
            "in TPROXY mode a proxy that runs as a user of -u catches its own upstream "
            "connections; run it as uid 0 with a group of -g"
        )
        if config.virtual_interfaces and config.captures_inbound:
            found.append(
                "-k in TPROXY mode: what a virtual machine sends to a port of -b reaches the "
                "inbound listener after its port was changed; the original destination is lost"
            )
    if config.owner_groups == ():
        found.append(
            "ISTIO_OUTBOUND_OWNER_GROUPS is empty: no outbound traffic of any group is captured"
        )
    if config.owner_groups is not None and config.owner_groups_exclude:
        found.append(
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE counts only while ISTIO_OUTBOUND_OWNER_GROUPS is *"
        )
    if config.redirect_dns:
        found += facts.skipped_nameservers
    if config.redirect_dns and not dns.on:
        found.append("there is no DNS server in resolv.conf: DNS is not captured")
    if config.capture_all_dns and not config.redirect_dns:
        found.append("--capture-all-dns does nothing without --redirect-dns")
    return tuple(found)
