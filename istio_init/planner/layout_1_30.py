"""The rules of Istio 1.30."""

from __future__ import annotations

from istio_init.config.model import LAYOUT_1_30, TPROXY
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.planner.draft import (
    TCP,
    UDP,
    Draft,
    capture_ports,
    for_owner,
    loopback,
    port,
    proxy_owners,
    proxy_redirects,
    tproxy_route,
    warnings,
)
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import LAYOUT, Plan, Reason, Ruleset
from istio_init.rules.names import (
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
    OUTPUT,
    PASSTHROUGH,
    PREROUTING,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Config, Facts
    from istio_init.rules.ranges import Family, Network

_RUN = "istio 1.30, capture/run.go, Run"
_INTERFACES = "istio 1.30, capture/run.go, shortCircuitExcludeInterfaces"
_VIRTUAL = "istio 1.30, capture/run.go, shortCircuitKubeInternalInterface"
_GROUPS = "istio 1.30, capture/run.go, handleCaptureByOwnerGroup"
_PORTS = "istio 1.30, capture/run.go, handleOutboundPortsInclude"
_CIDRS = "istio 1.30, capture/run.go, handleOutboundIncludeRules"

_EXCLUDED_INTERFACE = Reason(
    "-c",
    "",
    "left alone",
    "All traffic of this interface is to be left alone, in and out; the rule stands above every "
    "jump to a chain that captures.",
    _INTERFACES,
)
_NOT_INBOUND = Reason(
    "-k",
    "",
    "left alone",
    "What a virtual machine sends comes in by this interface though it is outbound traffic; "
    "without this rule it would be captured as inbound.",
    _VIRTUAL,
)
_VIRTUAL_MACHINE = Reason(
    "-k",
    "",
    "captures a virtual machine",
    "A virtual machine's outbound connections pass PREROUTING and never OUTPUT; only here can they "
    "be captured.",
    _CIDRS,
)
_INVALID = Reason(
    "--drop-invalid",
    "",
    "drops invalid",
    "A packet that belongs to no tracked connection goes past the proxy, and the kernel answers it "
    "with a reset that ends the client's connection.",
    _RUN,
)
_TUNNEL = Reason(
    "-e",
    "",
    "left alone",
    "HBONE connections are meant for the proxy and come to its own port; they must not be "
    "redirected to another one.",
    _RUN,
)
_OUTBOUND = Reason(
    LAYOUT,
    LAYOUT_1_30,
    "captures outbound",
    "What the pod sends passes OUTPUT; without this jump nothing outbound is captured.",
    _RUN,
)
_EXCLUDED_PORT = Reason(
    "-o",
    "",
    "left alone",
    "This port is to be left alone whatever the destination; the rule stands above all that "
    "capture, because the first rule that matches decides.",
    _RUN,
)
_DELIVERY = Reason(
    LAYOUT,
    LAYOUT_1_30,
    "delivers to the application",
    "The proxy binds this address when it hands an inbound connection to the application; "
    "captured, the connection would come back to the proxy in an endless loop.",
    _RUN,
)
_PROXY_SELF_CALL = Reason(
    "-u",
    "",
    "self-call through the proxy",
    "The application called a service and the proxy chose its own pod; the connection goes in by "
    "the inbound port, like one from another pod.",
    _RUN,
)
_APPLICATION_SELF_CALL = Reason(
    "-u",
    "",
    "left alone",
    "A call of the application to its own pod leaves by lo and needs no proxy on either side; the "
    "rule is not written when -i names a loopback range, which asks for such calls.",
    _RUN,
)
_PROXY = Reason(
    "-u",
    "",
    "the proxy's own traffic",
    "The proxy's own connections have to leave the pod; if they were captured they would come back "
    "to the proxy in an endless loop.",
    _RUN,
)
_EXCLUDED_GROUP = Reason(
    "--outbound-owner-groups-exclude",
    "",
    "left alone",
    "Processes of this group are to reach the network past the proxy; the rule stands above those "
    "that capture, because the first rule that matches decides.",
    _GROUPS,
)
_OTHER_GROUPS = Reason(
    "--outbound-owner-groups",
    "",
    "left alone",
    "Only processes of these groups are to be captured; one rule with all of them matches "
    "everybody else.",
    _GROUPS,
)
_DNS = Reason(
    "--redirect-dns",
    "",
    "captures DNS",
    "DNS queries leave the pod by OUTPUT like all traffic; without this jump none reaches the "
    "agent.",
    _RUN,
)
_LOOPBACK_IPV4 = Reason(
    "--outbound-ipv4-loopback-cidr",
    "",
    "left alone",
    "The containers of a pod call each other over loopback; such calls do not go through the "
    "proxy.",
    _RUN,
)
_LOOPBACK_IPV6 = _LOOPBACK_IPV4.replace(flag=LAYOUT, value=LAYOUT_1_30)
_EXCLUDED = Reason(
    "-x",
    "",
    "left alone",
    "This destination is to be left alone; the rule stands above those that capture, because the "
    "first rule that matches decides.",
    _RUN,
)
_PORT = Reason(
    "-q",
    "",
    "captures outbound",
    "This port is to be captured whatever the destination, also where -i does not name it.",
    _PORTS,
)
_EVERYTHING = Reason(
    "-i",
    "*",
    "captures outbound",
    "Every destination is to be captured; what no rule above has left alone goes to the proxy.",
    _CIDRS,
)
_INCLUDED = Reason(
    "-i",
    "",
    "captures outbound",
    "This destination is to be captured; connections to one that no rule names leave the pod past "
    "the proxy.",
    _CIDRS,
)


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
    tproxy = config.mode == TPROXY
    _exclude_interfaces(draft, config)
    for name in config.virtual_interfaces:
        reason = _NOT_INBOUND.of(name)
        draft.insert(NAT, PREROUTING, m.InInterface(name), target=t.Return(), reason=reason)
    if config.drop_invalid:
        invalid = m.CtState(("INVALID",))
        draft.append(MANGLE, PREROUTING, invalid, target=t.Jump(ISTIO_DROP), reason=_INVALID)
        draft.append(MANGLE, ISTIO_DROP, target=t.Drop(), reason=_INVALID)
    to_tunnel = port("tcp", "dport", PortRange(config.tunnel_port, config.tunnel_port))
    reason = _TUNNEL.of(config.tunnel_port)
    draft.append(NAT, ISTIO_INBOUND, TCP, to_tunnel, target=t.Return(), reason=reason)
    proxy_redirects(draft, config)
    if tproxy:
        from istio_init.planner.tproxy import tproxy_guards

        tproxy_guards(draft, config)
    capture_ports(
        draft,
        config,
        exemptions=(),
        established=(m.CtState(("RELATED", "ESTABLISHED")),),
        repeat=1,
        on_port=config.inbound_port,
    )
    draft.append(NAT, OUTPUT, target=t.Jump(ISTIO_OUTPUT), reason=_OUTBOUND)
    _outbound(draft, config, dns)
    if dns.on:
        from istio_init.planner.dns import dns_redirects, dns_zones

        dns_redirects(draft, dns.destinations(family))
        if config.dns_zones:
            dns_zones(draft, config, dns.destinations(family))
    if tproxy:
        from istio_init.planner.tproxy import tproxy_marks

        tproxy_marks(draft, config)
    return draft.ruleset()


def _exclude_interfaces(draft: Draft, config: Config) -> None:
    """Add the rules that leave the traffic of whole interfaces alone."""
    tables = (NAT, MANGLE) if config.mode == TPROXY else (NAT,)
    for name in config.exclude_interfaces:
        reason = _EXCLUDED_INTERFACE.of(name)
        for table in tables:
            incoming, outgoing = m.InInterface(name), m.OutInterface(name)
            draft.append(table, PREROUTING, incoming, target=t.Return(), reason=reason)
            draft.append(table, OUTPUT, outgoing, target=t.Return(), reason=reason)


def _outbound(draft: Draft, config: Config, dns: _Dns) -> None:
    """Add ISTIO_OUTPUT: what of the pod's outbound traffic goes to the proxy."""
    family = draft.family

    def add(*matches: m.Match, target: t.Jump | t.Return, reason: Reason) -> None:
        draft.append(NAT, ISTIO_OUTPUT, *matches, target=target, reason=reason)

    for ports in config.outbound_exclude_ports:
        reason = _EXCLUDED_PORT.of(ports)
        add(TCP, port("tcp", "dport", ports), target=t.Return(), reason=reason)
        add(UDP, port("udp", "dport", ports), target=t.Return(), reason=reason)
    delivered = m.Source(PASSTHROUGH[family])
    add(delivered, m.OutInterface("lo"), target=t.Return(), reason=_DELIVERY)
    for owner in proxy_owners(config):
        _proxy_owner(draft, config, dns, owner)
    _owner_groups(draft, config)
    if dns.captured(family):
        add(target=t.Jump(ISTIO_OUTPUT_DNS), reason=_DNS)
    local = loopback(config, family)
    reason = _LOOPBACK_IPV4.of(local) if family == IPV4 else _LOOPBACK_IPV6
    add(m.Destination(local), target=t.Return(), reason=reason)
    for cidr in config.outbound_exclude_cidrs:
        if cidr.family == family:
            add(m.Destination(cidr), target=t.Return(), reason=_EXCLUDED.of(cidr))
    capture = t.Jump(ISTIO_REDIRECT)
    for ports in config.outbound_ports:
        add(TCP, port("tcp", "dport", ports), target=capture, reason=_PORT.of(ports))
    if config.outbound_all:
        _virtual_machines(draft, config)
        add(target=capture, reason=_EVERYTHING)
    for cidr in config.outbound_cidrs:
        if cidr.family == family:
            to_cidr = m.Destination(cidr)
            _virtual_machines(draft, config, to_cidr)
            add(to_cidr, target=capture, reason=_INCLUDED.of(cidr))


def _virtual_machines(draft: Draft, config: Config, *destination: m.Match) -> None:
    """Add the rules that capture what virtual machines send to one destination, or to any."""
    for name in config.virtual_interfaces:
        matches = (*destination, m.InInterface(name))
        reason = _VIRTUAL_MACHINE.of(name)
        draft.insert(NAT, PREROUTING, *matches, target=t.Jump(ISTIO_REDIRECT), reason=reason)


def _proxy_owner(draft: Draft, config: Config, dns: _Dns, owner: m.Owner) -> None:
    """Add the three rules for the traffic of one of the proxy's users or groups."""
    tunnel = PortRange(config.tunnel_port, config.tunnel_port)
    to_lo = m.OutInterface("lo")

    def add(*matches: m.Match, target: t.Jump | t.Return, reason: Reason) -> None:
        reason = for_owner(reason, owner)
        draft.append(NAT, ISTIO_OUTPUT, *matches, target=target, reason=reason)

    not_tunnel: m.Match = port("tcp", "dport", tunnel, negated=True)
    if dns.on and owner.kind == "uid":
        not_tunnel = m.MultiPorts("dport", (DNS_PORT, tunnel), negated=True)
    not_local = m.Destination(loopback(config, draft.family), negated=True)
    add(
        *(not_local, to_lo, TCP, not_tunnel, owner),
        target=t.Jump(ISTIO_IN_REDIRECT),
        reason=_PROXY_SELF_CALL,
    )
    if not _captures_loopback(config):
        not_dns: tuple[m.Match, ...] = ()
        if dns.on:
            not_dns = (TCP, port("tcp", "dport", DNS_PORT, negated=True))
        others = owner.replace(negated=True)
        add(to_lo, *not_dns, others, target=t.Return(), reason=_APPLICATION_SELF_CALL)
    add(owner, target=t.Return(), reason=_PROXY)


def _captures_loopback(config: Config) -> bool:
    return any(
        cidr.packed[0] == 127 if cidr.family == IPV4 else cidr.packed == LOOPBACK_IPV6.packed
        for cidr in config.outbound_cidrs
    )


def _owner_groups(draft: Draft, config: Config) -> None:
    """Add the rules that capture, or leave alone, the traffic of some groups only.

    Groups to leave alone count only while every group is captured.
    """
    if config.owner_groups is None:
        for gids in config.owner_groups_exclude:
            group, reason = m.Owner("gid", gids), _EXCLUDED_GROUP.of(gids)
            draft.append(NAT, ISTIO_OUTPUT, group, target=t.Return(), reason=reason)
        return
    others = [m.Owner("gid", gids, negated=True) for gids in config.owner_groups]
    reason = _OTHER_GROUPS.of(",".join(str(gids) for gids in config.owner_groups))
    draft.append(NAT, ISTIO_OUTPUT, *others, target=t.Return(), reason=reason)


def _warnings(config: Config, facts: Facts, dns: _Dns) -> tuple[str, ...]:
    """Return sentences about settings that do in Istio what few callers mean."""
    texts = [*warnings(config)]
    if len(config.proxy_uids) > 1:
        texts.append(
            f"-u lists several users: the loopback rules of {config.proxy_uids[0]} hide those of "
            "the others, whose calls to the pod's own address are not captured"
        )
    if config.mode == TPROXY:
        texts.append(
            "in TPROXY mode a proxy that runs as a user of -u catches its own upstream "
            "connections; run it as uid 0 with a group of -g"
        )
        if config.virtual_interfaces and config.captures_inbound:
            texts.append(
                "-k in TPROXY mode: what a virtual machine sends to a port of -b reaches the "
                "inbound listener after its port was changed; the original destination is lost"
            )
    if config.owner_groups == ():
        texts.append(
            "ISTIO_OUTBOUND_OWNER_GROUPS is empty: no outbound traffic of any group is captured"
        )
    if config.owner_groups is not None and config.owner_groups_exclude:
        texts.append(
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE counts only while ISTIO_OUTBOUND_OWNER_GROUPS is *"
        )
    if config.redirect_dns:
        texts += facts.skipped_nameservers
    if config.redirect_dns and not dns.on:
        texts.append("there is no DNS server in resolv.conf: DNS is not captured")
    if config.capture_all_dns and not config.redirect_dns:
        texts.append("--capture-all-dns does nothing without --redirect-dns")
    return tuple(texts)
