"""From live rules back to the call that built them: the planner, backwards.

What cannot be seen in the rules is what makes no difference to them. A rule that
is missing may hide a flag, so whoever compares has to say what was inferred.
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
from istio_init.rules.ownership import has_ours, traces
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, Network, PortRange
from istio_init.rules.sets import ADDRESS_BITS, joined, networks, span_of

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
    found = _Live(rulesets)
    layout = found.layout()
    old = layout == LAYOUT_1_0
    mode = found.mode()
    mark = found.mark()
    outbound_port = found.port(ISTIO_REDIRECT, OUTBOUND_PORT)
    tunnel = TUNNEL_PORT if old else found.tunnel_port()
    uids, gids = found.owners("uid"), found.owners("gid")
    capture, inbound_table = (ISTIO_TPROXY, MANGLE) if mode == TPROXY else (ISTIO_IN_REDIRECT, NAT)
    inbound_all = any(
        rule.matches == (m.Proto("tcp"),)
        for rule in found.leading(inbound_table, ISTIO_INBOUND, capture)
    )
    on_port = found.tproxy_port()
    inbound_port = found.port(ISTIO_IN_REDIRECT, outbound_port if old else on_port or INBOUND_PORT)
    own_port = (_SSH,) if old else () if mode == TPROXY else (PortRange(tunnel, tunnel),)
    ipv6 = found.ipv6(old=old, passthrough=passthrough)
    servers = found.dns_servers()
    dns = found.spares_dns() or any(
        found.has_chain(table, ISTIO_OUTPUT_DNS) for table in (NAT, RAW)
    )
    if dns and not servers and not ipv6:
        # Servers of the other family alone bring the zones; which, nothing tells.
        servers = () if found.captures_all_dns() else (LOOPBACK_IPV6,)
    outbound_all = found.captures_all(old=old)
    return Config(
        layout,
        mode=mode,
        outbound_port=outbound_port,
        inbound_port=inbound_port,
        tunnel_port=tunnel,
        proxy_uids=uids or (DEFAULT_PROXY_ID,),
        proxy_gids=gids or (DEFAULT_PROXY_ID,),
        inbound_all=inbound_all,
        inbound_ports=()
        if inbound_all
        else found.ports(inbound_table, ISTIO_INBOUND, t.Jump(capture)),
        inbound_exclude_ports=found.ports(inbound_table, ISTIO_INBOUND, t.Return(), but=own_port)
        if inbound_all
        else (),
        outbound_all=outbound_all,
        outbound_cidrs=() if outbound_all else found.included(),
        outbound_exclude_cidrs=found.excluded(),
        outbound_ports=found.ports(NAT, ISTIO_OUTPUT, t.Jump(ISTIO_REDIRECT)),
        outbound_exclude_ports=found.ports(NAT, ISTIO_OUTPUT, t.Return()),
        exclude_interfaces=found.spared_interfaces(),
        virtual_interfaces=found.virtual_interfaces(native=native),
        tproxy_mark=mark,
        tproxy_table=next(
            (route.table for route in routes if route.mark == mark), DEFAULT_ROUTE_TABLE
        ),
        redirect_dns=dns,
        capture_all_dns=dns and not servers,
        dns_servers=servers,
        dns_zones=not dns or found.has_chain(RAW, ISTIO_OUTPUT_DNS),
        drop_invalid=found.has_chain(MANGLE, ISTIO_DROP),
        owner_groups=found.owner_groups() if not old else None,
        owner_groups_exclude=found.excluded_groups(gids) if not old else (),
        loopback=found.loopback(),
        ipv6=ipv6,
    )


class _Live:
    """Asks of both families' rules together; what one of them lacks the other may have."""

    def __init__(self, rulesets: tuple[Ruleset, ...]) -> None:
        self._rulesets = rulesets
        self._traces = traces(rulesets)

    def rules(
        self, table: str, chain: str, families: tuple[Family, ...] = FAMILIES
    ) -> Iterator[Rule]:
        """Yield the rules of a chain that are understood, IPv4's first."""
        for ruleset in self._rulesets:
            if ruleset.family not in families:
                continue
            found = ruleset.table(table)
            named = found.chain(chain) if found else None
            if named:
                yield from (rule for rule in named.rules if isinstance(rule, Rule))

    def _merged(self, table: str, chain: str, asked: Callable[[Rule], Iterable[T]]) -> list[T]:
        """Return what the rules of a chain say, in order; what both families say counts once."""
        found: list[T] = []
        for family in FAMILIES:
            left = list(found)
            for rule in self.rules(table, chain, (family,)):
                for one in asked(rule):
                    if one in left:
                        left.remove(one)
                    else:
                        found.append(one)
        return found

    def has_chain(self, table: str, chain: str) -> bool:
        """Whether either family has a chain of that name."""
        return any(
            (found := ruleset.table(table)) and found.chain(chain) for ruleset in self._rulesets
        )

    def leading(self, table: str, chain: str, to: str) -> Iterator[Rule]:
        """Yield the rules of a chain that lead to another one."""
        return (rule for rule in self.rules(table, chain) if rule.target == t.Jump(to))

    def layout(self) -> Layout:
        """Return the layout for which there are more signs."""
        if not self._traces.layout_1_0:
            return LAYOUT_1_30
        new = any(rule.matches == () for rule in self.leading(NAT, OUTPUT, ISTIO_OUTPUT)) + any(
            isinstance(one, m.Source) and one.network in PASSTHROUGH.values()
            for rule in self.rules(NAT, ISTIO_OUTPUT)
            for one in rule.matches
        )
        return LAYOUT_1_30 if new > 1 else LAYOUT_1_0

    def mode(self) -> Mode:
        """Return the mode in which inbound connections are captured."""
        chains = (ISTIO_TPROXY, ISTIO_DIVERT, ISTIO_INBOUND)
        if any(self.has_chain(MANGLE, chain) for chain in chains):
            return TPROXY
        return REDIRECT

    def mark(self) -> int:
        """Return the TPROXY mark."""
        marks = sorted(self._traces.marks - {DEFAULT_MARK, OUTBOUND_MARK})
        for rule in (*self.rules(MANGLE, ISTIO_TPROXY), *self.rules(MANGLE, ISTIO_DIVERT)):
            if isinstance(rule.target, t.Tproxy):
                return rule.target.mark
            if isinstance(rule.target, t.SetMark):
                return rule.target.value
        return marks[0] if marks else DEFAULT_MARK

    def port(self, chain: str, default: int) -> int:
        """Return the port to which a chain of nat redirects."""
        targets = (rule.target for rule in self.rules(NAT, chain))
        return next((one.port for one in targets if isinstance(one, t.Redirect)), default)

    def tproxy_port(self) -> int:
        """Return the port on which TPROXY hands over, 0 where it does not."""
        targets = (rule.target for rule in self.rules(MANGLE, ISTIO_TPROXY))
        return next((one.port for one in targets if isinstance(one, t.Tproxy)), 0)

    def tunnel_port(self) -> int:
        """Return the port that is never redirected."""
        for rule in self.leading(NAT, ISTIO_OUTPUT, ISTIO_IN_REDIRECT):
            for one in rule.matches:
                match one:
                    # Beside DNS the port may have been joined to 53.
                    case m.Ports(_, _, PortRange(low, high), True) if low == high != DNS_PORT.low:
                        return low
                    case _:
                        pass
        returns = (rule for rule in self.rules(NAT, ISTIO_INBOUND) if rule.target == t.Return())
        ports = (one for rule in returns for one in rule.matches if isinstance(one, m.Ports))
        return next((one.ports.low for one in ports), TUNNEL_PORT)

    def owners(self, kind: m.Owned) -> tuple[IdRange, ...]:
        """Return the proxy's users or groups, in order.

        Of the three rules for each, that which cannot be joined with the next
        one's is asked first.
        """

        def asked(which: Callable[[Rule, m.Owner], bool]) -> list[IdRange]:
            return self._merged(
                NAT,
                ISTIO_OUTPUT,
                lambda rule: [
                    one.ids
                    for one in rule.matches
                    if isinstance(one, m.Owner) and one.kind == kind and which(rule, one)
                ],
            )

        apart = asked(lambda rule, one: one.negated and _LO in rule.matches)
        inward = asked(
            lambda rule, one: not one.negated and rule.target == t.Jump(ISTIO_IN_REDIRECT)
        )
        alone = asked(lambda rule, one: not one.negated and _is_alone(rule))
        if kind == "gid" and (apart or inward):
            # What else is left alone are groups of the application's.
            alone = []
        found = apart or inward or alone
        for ids in (*inward, *alone):
            if not _covered(ids, found):
                found.append(ids)
        return tuple(found)

    def excluded_groups(self, proxy: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
        """Return the groups whose traffic is left alone though they are not the proxy's."""
        alone = self._merged(
            NAT,
            ISTIO_OUTPUT,
            lambda rule: [
                one.ids
                for one in rule.matches
                if isinstance(one, m.Owner)
                and one.kind == "gid"
                and not one.negated
                and _is_alone(rule)
            ],
        )
        return tuple(_without(alone, proxy, _id_span, lambda span: (IdRange(*span),)))

    def owner_groups(self) -> tuple[IdRange, ...] | None:
        """Return the groups that alone are captured, None for all."""
        for rule in self.rules(NAT, ISTIO_OUTPUT):
            if _spares_destination(rule):
                # Behind it a bare RETURN is somebody's -x.
                return None
            owners = [one for one in rule.matches if isinstance(one, m.Owner) and one.negated]
            if rule.target == t.Return() and len(owners) == len(rule.matches):
                return tuple(one.ids for one in owners)
        return None

    def ports(
        self, table: str, chain: str, target: t.Target, *, but: tuple[PortRange, ...] = ()
    ) -> tuple[PortRange, ...]:
        """Return the TCP ports on which a chain alone decides so, without one ``but``."""

        def asked(rule: Rule) -> list[PortRange]:
            match rule.matches:
                case (m.Proto("tcp", False), m.Ports("tcp", "dport", ports, False)):
                    return [ports] if rule.target == target else []
                case _:
                    return []

        found = self._merged(table, chain, asked)
        return tuple(_without(found, but, _port_span, lambda span: (PortRange(*span),)))

    def included(self) -> tuple[Network, ...]:
        """Return the outbound destinations that are captured, IPv4's first."""
        return tuple(one for family in FAMILIES for one in self._included(family))

    def _included(self, family: Family) -> list[Network]:
        rules = self.rules(NAT, ISTIO_OUTPUT, (family,))
        return _destinations(rules, family, t.Jump(ISTIO_REDIRECT))

    def excluded(self) -> tuple[Network, ...]:
        """Return the outbound destinations that are left alone, IPv4's first.

        They stand between the rule for loopback and the first that captures.
        """
        found: list[Network] = []
        for family in FAMILIES:

            def back(span: Span, family: Family = family) -> Iterable[Network]:
                return networks(span, family)

            rules = list(self.rules(NAT, ISTIO_OUTPUT, (family,)))
            start = next((n for n, rule in enumerate(rules) if _spares_destination(rule)), 0)
            end = next((n for n in range(start, len(rules)) if _captures(rules[n])), len(rules))
            local = self.loopback() if family == IPV4 else LOOPBACK_IPV6
            own = _destinations(rules[start:end], family, t.Return())
            found += _without(own, (local,), span_of, back)
        return tuple(found)

    def captures_all(self, *, old: bool) -> bool:
        """Whether every outbound destination is captured.

        A family from which none is, beside one from which all are, lacks a rule.
        """
        found = [included for family in FAMILIES if (included := self._included(family))]
        last = [list(self.rules(NAT, ISTIO_OUTPUT, (family,)))[-1:] for family in FAMILIES]
        ends_list = old and [Rule((), t.Return())] in last
        return bool(found) and not ends_list and all(_is_everything(one) for one in found)

    def spared_interfaces(self) -> tuple[str, ...]:
        """Return the interfaces that are left alone in both directions."""

        def asked(rule: Rule) -> list[str]:
            match rule.matches, rule.target:
                case (m.OutInterface(name, False),), t.Return():
                    return [name] if name in self._traces.interfaces else []
                case _:
                    return []

        return tuple(self._merged(NAT, OUTPUT, asked))

    def virtual_interfaces(self, *, native: bool) -> tuple[str, ...]:
        """Return the interfaces whose inbound traffic is treated as outbound, in order.

        Each rule was inserted above those before it. Where no destination is
        captured from them, only in tables of our own are the rules known as ours.
        """
        led = self._merged(
            NAT,
            PREROUTING,
            lambda rule: [
                one.name
                for one in rule.matches
                if rule.target == t.Jump(ISTIO_REDIRECT) and isinstance(one, m.InInterface)
            ],
        )
        names = self._merged(NAT, PREROUTING, _returned_from)
        names.reverse()
        spared = self.spared_interfaces()
        for name in spared:
            if name in names:
                names.remove(name)
        found = [name for name in names if native or name in led or name in spared]
        return (*found, *dict.fromkeys(name for name in reversed(led) if name not in found))

    def dns_servers(self) -> tuple[Network, ...]:
        """Return the servers whose queries are captured, each as often as it was given."""

        def servers(table: str, protocol: Protocol) -> list[Network]:
            return self._merged(
                table,
                ISTIO_OUTPUT_DNS,
                lambda rule: [
                    one.network
                    for one in rule.matches
                    if isinstance(one, m.Destination) and m.Proto(protocol) in rule.matches
                ],
            )

        found: list[Network] = []
        for named in (servers(RAW, "udp"), servers(NAT, "tcp"), servers(NAT, "udp")):
            spans = joined(span_of(one) for one in found)
            for one in named:
                low, high = span_of(one)
                if not found or not any(first <= low and high <= last for first, last in spans):
                    found.append(one)
        return tuple(found)

    def spares_dns(self) -> bool:
        """Whether the rules for the proxy's own traffic leave DNS to be captured."""
        return any(
            isinstance(one, m.MultiPorts)
            or (isinstance(one, m.Ports) and one.negated and one.ports == DNS_PORT)
            for rule in self.rules(NAT, ISTIO_OUTPUT)
            for one in rule.matches
        )

    def captures_all_dns(self) -> bool:
        """Whether queries are captured whatever the server."""
        return any(
            isinstance(rule.target, t.Redirect)
            and not any(isinstance(one, m.Destination) for one in rule.matches)
            for rule in self.rules(NAT, ISTIO_OUTPUT_DNS)
        )

    def loopback(self) -> Network:
        """Return the IPv4 range by which the pod talks to itself."""
        for rule in self.rules(NAT, ISTIO_OUTPUT):
            if _LO in rule.matches and isinstance(rule.target, t.Jump):
                match rule.matches[0]:
                    case m.Destination(Network("ipv4") as network, True):
                        return network
                    case _:
                        pass
        return DEFAULT_LOOPBACK

    def ipv6(self, *, old: bool, passthrough: bool) -> bool:
        """Whether IPv6 is captured or, in layout 1.0, left open."""
        if old:
            return not any(
                isinstance(rule.target, t.Reject) and rule.matches == ()
                for rule in self.rules(FILTER, INPUT)
            )
        return passthrough or any(
            has_ours(ruleset) for ruleset in self._rulesets if ruleset.family == IPV6
        )


def _is_alone(rule: Rule) -> bool:
    return len(rule.matches) == 1 and rule.target == t.Return()


def _returned_from(rule: Rule) -> list[str]:
    match rule.matches, rule.target:
        case (m.InInterface(name, False),), t.Return():
            return [name]
        case _:
            return []


def _spares_destination(rule: Rule) -> bool:
    match rule.matches, rule.target:
        case (m.Destination(_, False),), t.Return():
            return True
        case _:
            return False


def _is_everything(included: list[Network]) -> bool:
    return len(included) == 1 and included[0].everything


def _captures(rule: Rule) -> bool:
    return rule.target == t.Jump(ISTIO_REDIRECT) and _LO not in rule.matches


def _destinations(rules: Iterable[Rule], family: Family, target: t.Target) -> list[Network]:
    """Return the destinations for which rules alone decide so; a bare rule is for all."""
    everything = Network(family, bytes(ADDRESS_BITS[family] // 8), 0)
    found = []
    for rule in rules:
        match rule.matches:
            case (m.Destination(network, False),) if rule.target == target:
                found.append(network)
            case () if rule.target == target:
                found.append(everything)
            case _:
                pass
    return found


def _covered(ids: IdRange, found: Iterable[IdRange]) -> bool:
    spans = joined(_id_span(one) for one in found)
    return any(low <= ids.low and ids.high <= high for low, high in spans)


def _without(
    found: list[T],
    but: Iterable[T],
    span: Callable[[T], Span],
    back: Callable[[Span], Iterable[T]],
) -> list[T]:
    """Return ``found`` less one of each ``but``, cut out of a range where it was joined to one."""
    for one in but:
        if one in found:
            found.remove(one)
            continue
        low, high = span(one)
        for position, wide in enumerate(found):
            first, last = span(wide)
            if first <= low and high <= last:
                rest = [(first, low - 1), (high + 1, last)]
                kept = [part for edges in rest if edges[0] <= edges[1] for part in back(edges)]
                found[position : position + 1] = kept
                break
    return found


def _port_span(ports: PortRange) -> Span:
    return ports.low, ports.high


def _id_span(ids: IdRange) -> Span:
    return ids.low, ids.high


def as_arguments(config: Config) -> tuple[str, ...]:
    """Return the arguments of a call that asks for a config in which IPv6 is settled.

    It begins with the command for the layout. What is left to its default is left
    out, except for the ports, the proxy's users and what is captured.
    """
    command = APPLY if config.layout == LAYOUT_1_0 else ISTIO_IPTABLES
    flags = (option.words(config) for option in OPTIONS if option.field != "layout")
    return (command, *(word for words in flags for word in words))
