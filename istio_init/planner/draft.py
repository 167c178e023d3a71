"""What both layouts are built from."""

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


class Draft:
    """Collects one family's rules; a chain comes into being with its first rule."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._heads: dict[tuple[str, str], list[Rule]] = {}
        self._tails: dict[tuple[str, str], list[Rule]] = {}

    def append(self, table: str, chain: str, *rules: Rule) -> None:
        """Add rules at the end of a chain."""
        self._tails.setdefault((table, chain), []).extend(rules)

    def insert(self, table: str, chain: str, added: Rule) -> None:
        """Add a rule at the head of a shared chain, above earlier inserts."""
        self._heads.setdefault((table, chain), []).insert(0, added.replace(place=HEAD))

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
    """Add the two chains that send a connection to the proxy.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30, capture/run.go, Run.
    """
    draft.append(
        NAT,
        ISTIO_REDIRECT,
        rule(
            TCP,
            then=t.Redirect(config.outbound_port),
            why="outbound connections go to the proxy",
            flag="-p",
        ),
    )
    draft.append(
        NAT,
        ISTIO_IN_REDIRECT,
        rule(
            TCP,
            then=t.Redirect(config.inbound_port),
            why="inbound connections go to the proxy",
            flag="-z",
        ),
    )


def capture_ports(
    draft: Draft,
    config: Config,
    *,
    spared: tuple[Rule, ...],
    established: tuple[m.Match, ...],
    times: int,
    on_port: int,
) -> None:
    """Add the ISTIO_INBOUND rules that capture the application's TCP ports.

    Exclusions precede the catch-all because the first match wins, and count
    only with ``-b '*'``. ``spared`` stands before them. TPROXY lets packets of
    connections that exist, recognised by ``established`` (written ``times``
    times for a listed port), pass to their socket.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30, capture/run.go,
    handleInboundPortsInclude.
    """
    if not config.captures_inbound:
        return
    tproxy = config.mode == TPROXY
    table = MANGLE if tproxy else NAT
    if tproxy:
        _tproxy_chains(draft, config, on_port)
    draft.append(
        table,
        PREROUTING,
        rule(TCP, then=t.Jump(ISTIO_INBOUND), why="inbound TCP is looked at", flag="-b"),
    )
    capture = t.Jump(ISTIO_TPROXY) if tproxy else t.Jump(ISTIO_IN_REDIRECT)
    if config.inbound_all:
        draft.append(table, ISTIO_INBOUND, *spared)
        for excluded in config.inbound_exclude_ports:
            draft.append(
                table,
                ISTIO_INBOUND,
                rule(
                    TCP,
                    port("tcp", "dport", excluded),
                    then=t.Return(),
                    why="inbound port left alone",
                    flag="-d",
                ),
            )
        if tproxy:
            draft.append(table, ISTIO_INBOUND, _divert(*established))
        draft.append(
            table,
            ISTIO_INBOUND,
            rule(TCP, then=capture, why="every inbound port captured", flag="-b"),
        )
        return
    for included in config.inbound_ports:
        to_port = port("tcp", "dport", included)
        if tproxy:
            draft.append(table, ISTIO_INBOUND, *[_divert(to_port, *established)] * times)
        draft.append(
            table,
            ISTIO_INBOUND,
            rule(TCP, to_port, then=capture, why="inbound port captured", flag="-b"),
        )


def _divert(*matches: m.Match) -> Rule:
    return rule(
        TCP,
        *matches,
        then=t.Jump(ISTIO_DIVERT),
        why="connection that the proxy already has",
        flag="-b",
    )


def _tproxy_chains(draft: Draft, config: Config, on_port: int) -> None:
    mark = "the mark leads the packet to the local route table"
    draft.append(
        MANGLE,
        ISTIO_DIVERT,
        rule(then=t.SetMark(config.tproxy_mark), why=mark, flag="-t"),
        rule(then=t.Accept(), why="nothing more to decide", flag="-m"),
    )
    draft.append(
        MANGLE,
        ISTIO_TPROXY,
        rule(
            TCP,
            m.Destination(loopback(config, draft.family), negated=True),
            then=t.Tproxy(on_port, config.tproxy_mark),
            why="inbound connections go to the proxy, addresses unchanged",
            flag="-m",
        ),
    )


def proxy_owners(config: Config) -> tuple[m.Owner, ...]:
    """Return the matches on the proxy's users, then those on its groups."""
    return (
        *(m.Owner("uid", uids) for uids in config.proxy_uids),
        *(m.Owner("gid", gids) for gids in config.proxy_gids),
    )


def owner_flag(owner: m.Owner) -> str:
    """Return the flag that names the proxy's users or groups."""
    return "-u" if owner.kind == "uid" else "-g"


def tproxy_route(config: Config, family: Family) -> tuple[PolicyRoute, ...]:
    """Return the route by which marked packets reach the proxy's transparent socket.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30,
    tools/common/tproxy/run_linux.go.
    """
    if config.mode != TPROXY or not config.captures_inbound:
        return ()
    return (PolicyRoute(family, config.tproxy_mark, config.tproxy_table),)


def warnings(config: Config) -> tuple[str, ...]:
    """Return what is allowed in both layouts but seldom meant."""
    found = []
    if config.inbound_exclude_ports and not config.inbound_all:
        found.append("-d does nothing without -b '*'")
    found += [
        f"-x {cidr} leaves all outbound traffic of its family alone"
        for cidr in config.outbound_exclude_cidrs
        if cidr.everything
    ]
    listed = {"-c": config.exclude_interfaces, "-k": config.virtual_interfaces}
    found += [f"{flag} + means every interface" for flag, names in listed.items() if "+" in names]
    return tuple(found)
