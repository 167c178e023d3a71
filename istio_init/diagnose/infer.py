"""From live rules back to the call that built them: the planner, backwards.

A function for each field of the config that needs one. What makes no difference to
the rules cannot be seen in them, and a rule that is missing may hide a flag: whoever
compares live rules with a config from here has to say that it was inferred.
"""

from __future__ import annotations

from istio_init.config.model import (
    APPLY,
    ISTIO_IPTABLES,
    LAYOUT_1_0,
    LAYOUT_1_30,
    REDIRECT,
    TPROXY,
    Config,
)
from istio_init.config.options import OPTIONS
from istio_init.diagnose.rule_reader import Covered, RuleReader, cut_out, id_span, port_span
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Rule
from istio_init.rules.names import (
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DEFAULT_PROXY_ID,
    DEFAULT_ROUTE_TABLE,
    DNS_PORT,
    FILTER,
    INBOUND_PORT,
    INPUT,
    ISTIO_DIVERT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
    LOOPBACK_IPV6,
    MANGLE,
    NAT,
    OUTBOUND_MARK,
    OUTBOUND_PORT,
    OUTPUT,
    PASSTHROUGH,
    PREROUTING,
    RAW,
    TUNNEL_PORT,
)
from istio_init.rules.ownership import excluded_interfaces, has_ours
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, Network, PortRange
from istio_init.rules.sets import ADDRESS_BITS, networks, span_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from istio_init.config.model import Layout, Mode
    from istio_init.rules.model import PolicyRoute, Ruleset
    from istio_init.rules.ranges import Family, Protocol
    from istio_init.rules.sets import Span

    T = TypeVar("T")

_SSH = PortRange(22, 22)
_LO = m.OutInterface("lo")


def infer_config(
    rulesets: tuple[Ruleset, ...],
    routes: tuple[PolicyRoute, ...] = (),
    *,
    passthrough: bool = False,
    native: bool = False,
) -> Config | None:
    """Return the config whose plan comes closest to live rules, None without any of ours.

    ``routes`` are the live policy routes by a mark of ours; ``passthrough`` says
    that ``::6`` is on lo, ``native`` that the rules stand in tables of our own. IPv6
    and the DNS servers, which the host may have decided, are settled in it.
    """
    if not any(has_ours(ruleset) for ruleset in rulesets):
        return None
    live = RuleReader(rulesets)
    layout = _layout(live)
    ipv6 = _ipv6(live, layout, passthrough=passthrough)
    config = Config(layout, mode=_mode(live), ipv6=ipv6)
    config = _with_proxy(config, live, routes)
    config = _with_inbound(config, live)
    config = _with_outbound(config, live, native=native)
    return _with_dns(config, live)


def _layout(live: RuleReader) -> Layout:
    """Return the layout for which there are more signs."""
    if not live.evidence.layout_1_0:
        return LAYOUT_1_30
    every_protocol = any(rule.matches == () for rule in live.jumps(NAT, OUTPUT, ISTIO_OUTPUT))
    delivery = any(
        isinstance(one, m.Source) and one.network in PASSTHROUGH.values()
        for rule in live.rules(NAT, ISTIO_OUTPUT)
        for one in rule.matches
    )
    return LAYOUT_1_30 if every_protocol and delivery else LAYOUT_1_0


def _mode(live: RuleReader) -> Mode:
    """Return the mode in which inbound connections are captured."""
    chains = (ISTIO_TPROXY, ISTIO_DIVERT, ISTIO_INBOUND)
    return TPROXY if any(live.has_chain(MANGLE, chain) for chain in chains) else REDIRECT


def _ipv6(live: RuleReader, layout: Layout, *, passthrough: bool) -> bool:
    """Whether IPv6 is captured or, in layout 1.0, left open."""
    if layout == LAYOUT_1_0:
        return not any(
            isinstance(rule.target, t.Reject) and rule.matches == ()
            for rule in live.rules(FILTER, INPUT)
        )
    ours = (has_ours(ruleset) for ruleset in live.rulesets if ruleset.family == IPV6)
    return passthrough or any(ours)


# The proxy: its ports, its users and groups, its mark.


def _with_proxy(config: Config, live: RuleReader, routes: tuple[PolicyRoute, ...]) -> Config:
    outbound = _redirect_port(live, ISTIO_REDIRECT) or OUTBOUND_PORT
    default = outbound if config.layout == LAYOUT_1_0 else _tproxy_port(live) or INBOUND_PORT
    tunnel = TUNNEL_PORT if config.layout == LAYOUT_1_0 else _tunnel_port(live)
    mark = _mark(live)
    tables = (route.table for route in routes if route.mark == mark)
    return config.replace(
        outbound_port=outbound,
        inbound_port=_redirect_port(live, ISTIO_IN_REDIRECT) or default,
        tunnel_port=tunnel,
        proxy_uids=_proxy_ids(live, "uid") or (DEFAULT_PROXY_ID,),
        proxy_gids=_proxy_ids(live, "gid") or (DEFAULT_PROXY_ID,),
        tproxy_mark=mark,
        tproxy_table=next(tables, DEFAULT_ROUTE_TABLE),
    )


def _redirect_port(live: RuleReader, chain: str) -> int:
    """Return the port to which a chain of nat redirects, 0 if it does not."""
    targets = (rule.target for rule in live.rules(NAT, chain))
    return next((one.port for one in targets if isinstance(one, t.Redirect)), 0)


def _tproxy_port(live: RuleReader) -> int:
    """Return the port on which TPROXY hands over, 0 if it does not."""
    targets = (rule.target for rule in live.rules(MANGLE, ISTIO_TPROXY))
    return next((one.port for one in targets if isinstance(one, t.Tproxy)), 0)


def _tunnel_port(live: RuleReader) -> int:
    """Return the port that is never redirected."""
    for rule in live.jumps(NAT, ISTIO_OUTPUT, ISTIO_IN_REDIRECT):
        for one in rule.matches:
            match one:
                # Beside DNS the port may have been joined to 53.
                case m.Ports(_, _, PortRange(low, high), True) if low == high != DNS_PORT.low:
                    return low
                case _:
                    pass
    returns = (rule for rule in live.rules(NAT, ISTIO_INBOUND) if rule.target == t.Return())
    ports = (one for rule in returns for one in rule.matches if isinstance(one, m.Ports))
    return next((one.ports.low for one in ports), TUNNEL_PORT)


def _mark(live: RuleReader) -> int:
    """Return the TPROXY mark."""
    for rule in (*live.rules(MANGLE, ISTIO_TPROXY), *live.rules(MANGLE, ISTIO_DIVERT)):
        if isinstance(rule.target, t.Tproxy):
            return rule.target.mark
        if isinstance(rule.target, t.SetMark):
            return rule.target.value
    marks = sorted(live.evidence.marks - {DEFAULT_MARK, OUTBOUND_MARK})
    return marks[0] if marks else DEFAULT_MARK


def _proxy_ids(live: RuleReader, kind: m.Owned) -> tuple[IdRange, ...]:
    """Return the proxy's users or groups, in order.

    There are three rules for each. The one that cannot be joined with that of the
    next user or group tells them best, and the others add what it lacks.
    """
    negated = _owner_ids(live, kind, lambda rule, one: one.negated and _LO in rule.matches)
    inward = _owner_ids(
        live,
        kind,
        lambda rule, one: not one.negated and rule.target == t.Jump(ISTIO_IN_REDIRECT),
    )
    alone = _owner_ids(live, kind, lambda rule, one: not one.negated and _is_alone(rule))
    if kind == "gid" and (negated or inward):
        # Other groups that are left alone are the application's.
        alone = []
    ids = negated or inward or alone
    known = Covered(id_span(one) for one in ids)
    for one in (*inward, *alone):
        if id_span(one) not in known:
            known.add(id_span(one))
            ids.append(one)
    return tuple(ids)


def _owner_ids(
    live: RuleReader, kind: m.Owned, which: Callable[[Rule, m.Owner], bool]
) -> list[IdRange]:
    """Return the ids of those owner matches in nat ISTIO_OUTPUT for which ``which`` holds."""
    return live.values(
        NAT,
        ISTIO_OUTPUT,
        lambda rule: [
            one.ids
            for one in rule.matches
            if isinstance(one, m.Owner) and one.kind == kind and which(rule, one)
        ],
    )


def _is_alone(rule: Rule) -> bool:
    return len(rule.matches) == 1 and rule.target == t.Return()


# What is captured inbound.


def _with_inbound(config: Config, live: RuleReader) -> Config:
    tproxy = config.mode == TPROXY
    table, capture = (MANGLE, ISTIO_TPROXY) if tproxy else (NAT, ISTIO_IN_REDIRECT)
    config = config.replace(drop_invalid=live.has_chain(MANGLE, ISTIO_DROP))
    tcp = (m.Proto("tcp"),)
    if any(rule.matches == tcp for rule in live.jumps(table, ISTIO_INBOUND, capture)):
        excluded = _ports(live, table, ISTIO_INBOUND, t.Return())
        own = _exempt_ports(config)
        excluded = cut_out(excluded, own, port_span, lambda span: (PortRange(*span),))
        return config.replace(inbound_all=True, inbound_exclude_ports=tuple(excluded))
    return config.replace(inbound_ports=tuple(_ports(live, table, ISTIO_INBOUND, t.Jump(capture))))


def _exempt_ports(config: Config) -> tuple[PortRange, ...]:
    """Return the inbound ports that the layout itself leaves alone beside those of -d."""
    if config.layout == LAYOUT_1_0:
        return (_SSH,)
    return () if config.mode == TPROXY else (PortRange(config.tunnel_port, config.tunnel_port),)


def _ports(live: RuleReader, table: str, chain: str, target: t.Target) -> list[PortRange]:
    """Return the TCP ports for which alone rules of a chain have a target."""

    def of(rule: Rule) -> list[PortRange]:
        match rule.matches:
            case (m.Proto("tcp", False), m.Ports("tcp", "dport", ports, False)):
                return [ports] if rule.target == target else []
            case _:
                return []

    return live.values(table, chain, of)


# What is captured outbound.


def _with_outbound(config: Config, live: RuleReader, *, native: bool) -> Config:
    old = config.layout == LAYOUT_1_0
    config = config.replace(loopback=_loopback(live))
    everything = _captures_everything(live, old=old)
    return config.replace(
        outbound_all=everything,
        outbound_cidrs=() if everything else tuple(_included(live)),
        outbound_exclude_cidrs=tuple(_excluded(live, config.loopback)),
        outbound_ports=tuple(_ports(live, NAT, ISTIO_OUTPUT, t.Jump(ISTIO_REDIRECT))),
        outbound_exclude_ports=tuple(_ports(live, NAT, ISTIO_OUTPUT, t.Return())),
        exclude_interfaces=_excluded_interfaces(live),
        virtual_interfaces=_virtual_interfaces(live, native=native),
        owner_groups=None if old else _owner_groups(live),
        owner_groups_exclude=() if old else _excluded_groups(live, config.proxy_gids),
    )


def _loopback(live: RuleReader) -> Network:
    """Return the IPv4 range by which the pod talks to itself."""
    for rule in live.rules(NAT, ISTIO_OUTPUT):
        if _LO in rule.matches and isinstance(rule.target, t.Jump):
            match rule.matches[0]:
                case m.Destination(Network("ipv4") as network, True):
                    return network
                case _:
                    pass
    return DEFAULT_LOOPBACK


def _captures_everything(live: RuleReader, *, old: bool) -> bool:
    """Whether every outbound destination is captured.

    A family from which none is, beside one from which all are, lacks a rule.
    """
    of_families = [list(live.rules(NAT, ISTIO_OUTPUT, (family,))) for family in FAMILIES]
    if old and any(rules[-1:] == [Rule((), t.Return())] for rules in of_families):
        # It ends a list.
        return False
    included = [some for family in FAMILIES if (some := _included(live, (family,)))]
    return bool(included) and all(_is_everything(some) for some in included)


def _is_everything(included: list[Network]) -> bool:
    return len(included) == 1 and included[0].everything


def _included(live: RuleReader, families: tuple[Family, ...] = FAMILIES) -> list[Network]:
    """Return the outbound destinations that are captured, IPv4's first."""
    capture = t.Jump(ISTIO_REDIRECT)
    return [
        network
        for family in families
        for network in _destinations(live.rules(NAT, ISTIO_OUTPUT, (family,)), family, capture)
    ]


def _excluded(live: RuleReader, loopback: Network) -> Iterator[Network]:
    """Yield the outbound destinations that are left alone, IPv4's first.

    They stand between the rule for loopback and the first that captures.
    """
    for family in FAMILIES:

        def back(span: Span, family: Family = family) -> Iterable[Network]:
            return networks(span, family)

        rules = list(live.rules(NAT, ISTIO_OUTPUT, (family,)))
        start = next((n for n, rule in enumerate(rules) if _excludes_destination(rule)), 0)
        end = next((n for n in range(start, len(rules)) if _captures(rules[n])), len(rules))
        local = loopback if family == IPV4 else LOOPBACK_IPV6
        destinations = _destinations(rules[start:end], family, t.Return())
        yield from cut_out(destinations, (local,), span_of, back)


def _excludes_destination(rule: Rule) -> bool:
    match rule.matches, rule.target:
        case (m.Destination(_, False),), t.Return():
            return True
        case _:
            return False


def _captures(rule: Rule) -> bool:
    return rule.target == t.Jump(ISTIO_REDIRECT) and _LO not in rule.matches


def _destinations(rules: Iterable[Rule], family: Family, target: t.Target) -> list[Network]:
    """Return the destinations for which alone rules have a target; a bare rule is for all."""
    everything = Network(family, bytes(ADDRESS_BITS[family] // 8), 0)
    destinations = []
    for rule in rules:
        match rule.matches:
            case (m.Destination(network, False),) if rule.target == target:
                destinations.append(network)
            case () if rule.target == target:
                destinations.append(everything)
            case _:
                pass
    return destinations


def _excluded_interfaces(live: RuleReader) -> tuple[str, ...]:
    """Return the interfaces that are left alone in both directions."""
    pairs = {
        name
        for ruleset in live.rulesets
        if (table := ruleset.table(NAT)) is not None
        for name in excluded_interfaces(table)
    }

    def of(rule: Rule) -> list[str]:
        match rule.matches, rule.target:
            case (m.OutInterface(name, False),), t.Return():
                return [name] if name in pairs else []
            case _:
                return []

    return tuple(live.values(NAT, OUTPUT, of))


def _virtual_interfaces(live: RuleReader, *, native: bool) -> tuple[str, ...]:
    """Return the interfaces whose inbound traffic is treated as outbound, in order.

    Each rule was inserted above those before it. Where no destination is
    captured from them, only in tables of our own are the rules known as ours.
    """
    captured = live.values(
        NAT,
        PREROUTING,
        lambda rule: [
            one.name
            for one in rule.matches
            if rule.target == t.Jump(ISTIO_REDIRECT) and isinstance(one, m.InInterface)
        ],
    )
    returned = live.values(NAT, PREROUTING, _returned_interface)
    returned.reverse()
    excluded = _excluded_interfaces(live)
    left = dict.fromkeys(excluded, 0)
    for name in excluded:
        left[name] += 1
    known = {*captured, *excluded}
    names = []
    for name in returned:
        if left.get(name):
            left[name] -= 1
        elif native or name in known:
            names.append(name)
    taken = set(names)
    return (*names, *dict.fromkeys(name for name in reversed(captured) if name not in taken))


def _returned_interface(rule: Rule) -> list[str]:
    match rule.matches, rule.target:
        case (m.InInterface(name, False),), t.Return():
            return [name]
        case _:
            return []


def _owner_groups(live: RuleReader) -> tuple[IdRange, ...] | None:
    """Return the groups that alone are captured, None for all."""
    for rule in live.rules(NAT, ISTIO_OUTPUT):
        if _excludes_destination(rule):
            # Behind it a bare RETURN comes from -x.
            return None
        owners = [one for one in rule.matches if isinstance(one, m.Owner) and one.negated]
        if rule.target == t.Return() and len(owners) == len(rule.matches):
            return tuple(one.ids for one in owners)
    return None


def _excluded_groups(live: RuleReader, proxy: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
    """Return the groups that are left alone though they are not the proxy's."""
    alone = _owner_ids(live, "gid", lambda rule, one: not one.negated and _is_alone(rule))
    return tuple(cut_out(alone, proxy, id_span, lambda span: (IdRange(*span),)))


# DNS.


def _with_dns(config: Config, live: RuleReader) -> Config:
    servers = _dns_servers(live)
    chains = any(live.has_chain(table, ISTIO_OUTPUT_DNS) for table in (NAT, RAW))
    on = chains or _leaves_dns_to_the_agent(live)
    if on and not servers and not config.ipv6 and not _captures_all_dns(live):
        # Servers of the other family alone bring the zones; which, nothing tells.
        servers = (LOOPBACK_IPV6,)
    return config.replace(
        redirect_dns=on,
        capture_all_dns=on and not servers,
        dns_servers=servers,
        dns_zones=not on or live.has_chain(RAW, ISTIO_OUTPUT_DNS),
    )


def _dns_servers(live: RuleReader) -> tuple[Network, ...]:
    """Return the servers whose queries are captured, each as often as it was given."""

    def of_protocol(table: str, protocol: Protocol) -> list[Network]:
        return live.values(
            table,
            ISTIO_OUTPUT_DNS,
            lambda rule: [
                one.network
                for one in rule.matches
                if isinstance(one, m.Destination) and m.Proto(protocol) in rule.matches
            ],
        )

    servers: list[Network] = []
    for some in (of_protocol(RAW, "udp"), of_protocol(NAT, "tcp"), of_protocol(NAT, "udp")):
        known = Covered(span_of(one) for one in servers)
        servers += [one for one in some if span_of(one) not in known]
    return tuple(servers)


def _leaves_dns_to_the_agent(live: RuleReader) -> bool:
    """Whether the rules for the proxy's own traffic leave DNS to be captured."""
    return any(
        isinstance(one, m.MultiPorts)
        or (isinstance(one, m.Ports) and one.negated and one.ports == DNS_PORT)
        for rule in live.rules(NAT, ISTIO_OUTPUT)
        for one in rule.matches
    )


def _captures_all_dns(live: RuleReader) -> bool:
    """Whether queries are captured whatever the server."""
    return any(
        isinstance(rule.target, t.Redirect)
        and not any(isinstance(one, m.Destination) for one in rule.matches)
        for rule in live.rules(NAT, ISTIO_OUTPUT_DNS)
    )


def as_arguments(config: Config) -> tuple[str, ...]:
    """Return the arguments of a call that asks for a config in which IPv6 is settled.

    It begins with the command for the layout. What is left to its default is left
    out, except for the ports, the proxy's users and what is captured.
    """
    command = APPLY if config.layout == LAYOUT_1_0 else ISTIO_IPTABLES
    flags = (option.words(config) for option in OPTIONS if option.field != "layout")
    return (command, *(word for words in flags for word in words))
