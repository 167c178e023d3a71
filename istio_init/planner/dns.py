"""The rules of layout 1.30 for DNS; a plan without ``--redirect-dns`` does not load them."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING
from istio_init.planner.draft import TCP, UDP, port, proxy_owners
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Reason
from istio_init.rules.names import (
    AGENT_DNS_PORT,
    APP_ZONE,
    DNS_PORT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT_DNS,
    NAT,
    OUTPUT,
    PREROUTING,
    PROXY_ZONE,
    RAW,
)
from istio_init.rules.ranges import PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.planner.draft import Draft

    # The destination matches of each rule: one without any where the server does not matter.
    Destinations = tuple[tuple[m.Destination, ...], ...]

_ZONES = "istio 1.30, capture/run.go, addDNSConntrackZones"

_QUERY = Reason(
    "--redirect-dns",
    "",
    "captures DNS",
    "The agent answers DNS queries on its own port, to which this REDIRECT sends them; the "
    "addresses of the queries are those of the usual servers.",
    "istio 1.30, capture/run.go, SetupDNSRedir",
)
_OUTBOUND = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "Only in table raw, before a connection is tracked, can its conntrack zone be chosen; this "
    "jump takes the packets that the pod sends there.",
    _ZONES,
)
_INBOUND = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "Only in table raw, before a connection is tracked, can its conntrack zone be chosen; this "
    "jump takes the answers of DNS servers there.",
    _ZONES,
)
_AGENT_ASKS = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "The agent may query a server from the same port as the application; with both in one "
    "conntrack zone an answer could go to the wrong one.",
    _ZONES,
)
_AGENT_ANSWERS = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "The agent's answer to the application has to be found in the zone of the application's query.",
    _ZONES,
)
_APPLICATION_ASKS = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "The application's query is tracked in a zone of its own, apart from the agent's query to the "
    "same server.",
    _ZONES,
)
_SERVER_ANSWERS = Reason(
    "--redirect-dns",
    "",
    "keeps zones",
    "A server's answer has to be found in the zone of the agent's query.",
    _ZONES,
)


def dns_redirects(draft: Draft, destinations: Destinations) -> None:
    """Add the rules that send DNS queries to the agent."""
    for proto in (TCP, UDP):
        to_dns = port(proto.name, "dport", DNS_PORT)
        for destination in destinations:
            matches: tuple[m.Match, ...] = (proto, *destination, to_dns)
            target = t.Redirect(AGENT_DNS_PORT)
            draft.append(NAT, ISTIO_OUTPUT_DNS, *matches, target=target, reason=_QUERY)


def dns_zones(draft: Draft, config: Config, destinations: Destinations) -> None:
    """Add the rules that track the agent's DNS connections apart from the application's.

    Both may use the same source port to the same server; in one conntrack zone
    an answer to the one would be taken for an answer to the other. Where no query
    of this family is captured, ``destinations`` is empty.
    """

    def zone(chain: str, number: int, reason: Reason, *matches: m.Match) -> None:
        draft.append(RAW, chain, UDP, *matches, target=t.CtZone(number), reason=reason)

    draft.append(RAW, OUTPUT, target=t.Jump(ISTIO_OUTPUT_DNS), reason=_OUTBOUND)
    query = port("udp", "dport", DNS_PORT)
    agent_answer = port("udp", "sport", PortRange(AGENT_DNS_PORT, AGENT_DNS_PORT))
    for owner in proxy_owners(config):
        zone(ISTIO_OUTPUT_DNS, PROXY_ZONE, _AGENT_ASKS, query, owner)
        zone(ISTIO_OUTPUT_DNS, APP_ZONE, _AGENT_ANSWERS, agent_answer, owner)
    if not destinations:
        return
    draft.append(RAW, PREROUTING, target=t.Jump(ISTIO_INBOUND), reason=_INBOUND)
    server_answer = port("udp", "sport", DNS_PORT)
    for destination in destinations:
        source = tuple(m.Source(match.network) for match in destination)
        zone(ISTIO_OUTPUT_DNS, APP_ZONE, _APPLICATION_ASKS, *destination, query)
        zone(ISTIO_INBOUND, PROXY_ZONE, _SERVER_ANSWERS, *source, server_answer)
