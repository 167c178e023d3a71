"""The parts that both layouts share, and what collects them."""

from __future__ import annotations

from istio_init.config.model import TPROXY
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    HEAD,
    TABLES,
    Chain,
    PolicyRoute,
    Reason,
    Ruleset,
    make_table,
    rule,
)
from istio_init.rules.names import (
    ISTIO_DIVERT,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
    LOOPBACK_IPV6,
    MANGLE,
    NAT,
    PREROUTING,
)
from istio_init.rules.ranges import IPV4, Network

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.rules.model import Rule
    from istio_init.rules.ranges import Family, PortRange, Protocol


TCP = m.Proto("tcp")
UDP = m.Proto("udp")

_RUN = "proxy_init 1.0.2, istio-iptables.sh; istio 1.30, capture/run.go, Run"
_PORTS = (
    "proxy_init 1.0.2, istio-iptables.sh; istio 1.30, capture/run.go, handleInboundPortsInclude"
)
_TO_OUTBOUND_PORT = Reason(
    "-p",
    "",
    "captures outbound",
    "Every rule that captures outbound TCP jumps here, and this REDIRECT hands the connection to "
    "the proxy.",
    _RUN,
)
_TO_INBOUND_PORT = Reason(
    "-z",
    "",
    "captures inbound",
    "Every rule that captures inbound TCP in REDIRECT mode jumps here, and this REDIRECT hands "
    "the connection to the proxy.",
    _RUN,
)
_INBOUND = Reason(
    "-b",
    "",
    "captures inbound",
    "What comes into the pod passes PREROUTING; without this jump no inbound port is captured.",
    _PORTS,
)
_EVERY_PORT = Reason(
    "-b",
    "*",
    "captures inbound",
    "Every inbound port is to be captured; what no rule above has left alone goes to the proxy.",
    _PORTS,
)
_LISTED_PORT = Reason(
    "-b",
    "",
    "captures inbound",
    "This port is to be captured; connections to a port that no rule names go to the application "
    "past the proxy.",
    _PORTS,
)
_EXCLUDED_PORT = Reason(
    "-d",
    "",
    "left alone",
    "This port is to be left alone; the rule stands above the one that captures every port, "
    "because the first rule that matches decides.",
    _PORTS,
)
_ESTABLISHED = Reason(
    "-b",
    "",
    "finds the proxy's socket",
    "The proxy holds this connection already; its later packets have to reach the same socket as "
    "the first.",
    _PORTS,
)
_DIVERT_MARK = Reason(
    "-t",
    "",
    "finds the proxy's socket",
    "Only packets with this mark are looked up in the route table of -r, in which every address "
    "is local; without it the proxy's socket does not get them.",
    _RUN,
)
_DIVERT_ACCEPT = Reason(
    "-m",
    TPROXY,
    "finds the proxy's socket",
    "The packet is marked and on its way to the proxy's socket; no later rule may treat it as a "
    "new connection.",
    _RUN,
)
_TPROXY = Reason(
    "-m",
    TPROXY,
    "captures inbound",
    "TPROXY gives the connection to the proxy with both addresses unchanged, so that the "
    "application can see the client's address.",
    _RUN,
)


class Draft:
    """Collects one family's rules; a chain comes into being with its first rule."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._heads: dict[tuple[str, str], list[Rule]] = {}
        self._tails: dict[tuple[str, str], list[Rule]] = {}

    def append(
        self, table: str, chain: str, *matches: m.Match, target: t.Target, reason: Reason
    ) -> None:
        """Add a rule at the end of a chain."""
        added = rule(*matches, target=target, reason=reason)
        self._tails.setdefault((table, chain), []).append(added)

    def insert(
        self, table: str, chain: str, *matches: m.Match, target: t.Target, reason: Reason
    ) -> None:
        """Add a rule at the head of a shared chain, above earlier inserts."""
        added = rule(*matches, target=target, place=HEAD, reason=reason)
        self._heads.setdefault((table, chain), []).insert(0, added)

    def ruleset(self) -> Ruleset:
        """Return what was collected as a rule set."""
        tables = []
        for name in TABLES:
            chains: dict[str, Chain] = {}
            for table, chain in (*self._heads, *self._tails):
                if table == name and chain not in chains:
                    policy = "ACCEPT" if chain in BUILTIN_CHAINS[name] else None
                    key = (table, chain)
                    rules = (*self._heads.get(key, ()), *self._tails.get(key, ()))
                    chains[chain] = Chain(chain, policy, rules)
            if chains:
                tables.append(make_table(name, chains))
        return Ruleset(self.family, tuple(tables))


def loopback(config: Config, family: Family) -> Network:
    """Return the addresses by which this pod talks to itself."""
    return config.loopback if family == IPV4 else LOOPBACK_IPV6


def port(protocol: Protocol, side: m.Side, ports: PortRange, *, negated: bool = False) -> m.Ports:
    """Return the match on one port or range of ports."""
    return m.Ports(protocol, side, ports, negated)


def proxy_redirects(draft: Draft, config: Config) -> None:
    """Add the two chains that send a connection to the proxy."""
    outbound, inbound = config.outbound_port, config.inbound_port
    draft.append(
        NAT,
        ISTIO_REDIRECT,
        TCP,
        target=t.Redirect(outbound),
        reason=_TO_OUTBOUND_PORT.of(outbound),
    )
    draft.append(
        NAT,
        ISTIO_IN_REDIRECT,
        TCP,
        target=t.Redirect(inbound),
        reason=_TO_INBOUND_PORT.of(inbound),
    )


def capture_ports(
    draft: Draft,
    config: Config,
    *,
    exemptions: tuple[tuple[PortRange, Reason], ...],
    established: tuple[m.Match, ...],
    repeat: int,
    on_port: int,
) -> None:
    """Add the ISTIO_INBOUND rules that capture the application's TCP ports.

    ``exemptions`` are ports that the layout leaves alone with ``-b '*'``. In TPROXY
    mode ``established`` matches the packets of connections that the proxy holds
    already, and a rule for a listed port is written ``repeat`` times; TPROXY hands
    new connections to ``on_port``.
    """
    if not config.captures_inbound:
        return
    tproxy = config.mode == TPROXY
    table = MANGLE if tproxy else NAT
    if tproxy:
        _tproxy_chains(draft, config, on_port)
    jump = _INBOUND.of("*") if config.inbound_all else _INBOUND
    draft.append(table, PREROUTING, TCP, target=t.Jump(ISTIO_INBOUND), reason=jump)
    capture = t.Jump(ISTIO_TPROXY) if tproxy else t.Jump(ISTIO_IN_REDIRECT)
    divert = t.Jump(ISTIO_DIVERT)
    if config.inbound_all:
        excluded = ((ports, _EXCLUDED_PORT.of(ports)) for ports in config.inbound_exclude_ports)
        for ports, reason in (*exemptions, *excluded):
            to_port = port("tcp", "dport", ports)
            draft.append(table, ISTIO_INBOUND, TCP, to_port, target=t.Return(), reason=reason)
        if tproxy:
            reason = _ESTABLISHED.of("*")
            draft.append(table, ISTIO_INBOUND, TCP, *established, target=divert, reason=reason)
        draft.append(table, ISTIO_INBOUND, TCP, target=capture, reason=_EVERY_PORT)
        return
    for ports in config.inbound_ports:
        to_port = port("tcp", "dport", ports)
        for _ in range(repeat if tproxy else 0):
            matches = (TCP, to_port, *established)
            reason = _ESTABLISHED.of(ports)
            draft.append(table, ISTIO_INBOUND, *matches, target=divert, reason=reason)
        reason = _LISTED_PORT.of(ports)
        draft.append(table, ISTIO_INBOUND, TCP, to_port, target=capture, reason=reason)


def _tproxy_chains(draft: Draft, config: Config, on_port: int) -> None:
    mark = config.tproxy_mark
    reason = _DIVERT_MARK.of(f"{mark:#x}")
    draft.append(MANGLE, ISTIO_DIVERT, target=t.SetMark(mark), reason=reason)
    draft.append(MANGLE, ISTIO_DIVERT, target=t.Accept(), reason=_DIVERT_ACCEPT)
    draft.append(
        MANGLE,
        ISTIO_TPROXY,
        TCP,
        m.Destination(loopback(config, draft.family), negated=True),
        target=t.Tproxy(on_port, mark),
        reason=_TPROXY,
    )


def proxy_owners(config: Config) -> tuple[m.Owner, ...]:
    """Return the matches on the proxy's users, then those on its groups."""
    return (
        *(m.Owner("uid", uids) for uids in config.proxy_uids),
        *(m.Owner("gid", gids) for gids in config.proxy_gids),
    )


def for_owner(reason: Reason, owner: m.Owner) -> Reason:
    """Return the reason of a rule for one of the proxy's users or groups."""
    flag = "-u" if owner.kind == "uid" else "-g"
    return Reason(flag, owner.ids, reason.effect, reason.text, reason.source)


def tproxy_route(config: Config, family: Family) -> tuple[PolicyRoute, ...]:
    """Return the route by which marked packets reach the proxy's transparent socket.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30,
    tools/common/tproxy/run_linux.go.
    """
    if config.mode != TPROXY or not config.captures_inbound:
        return ()
    return (PolicyRoute(family, config.tproxy_mark, config.tproxy_table),)


def warnings(config: Config) -> tuple[str, ...]:
    """Return sentences about settings that both layouts allow but few callers mean."""
    texts = []
    if config.inbound_exclude_ports and not config.inbound_all:
        texts.append("-d does nothing without -b '*'")
    texts += [
        f"-x {cidr} leaves all outbound traffic of its family alone"
        for cidr in config.outbound_exclude_cidrs
        if cidr.everything
    ]
    listed = {"-c": config.exclude_interfaces, "-k": config.virtual_interfaces}
    texts += [f"{flag} + means every interface" for flag, names in listed.items() if "+" in names]
    return tuple(texts)
